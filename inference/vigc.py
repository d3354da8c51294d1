"""Runs rollouts with VIGC models, and InstructBLIP with a decoder-only language model, in the engine."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
from transformers import InstructBlipConfig
from transformers.dynamic_module_utils import get_class_from_dynamic_module

from vigc.errors import GenerationError, is_out_of_memory
from vigc.modeling_vigc import VigcConfig, VigcForConditionalGeneration
from vigc.modeling_vigc.generation_vigc import split_settings
from vigc.modeling_vigc.requests_vigc import Rollout
from vigc.modeling_vigc.rollout_vigc import RolloutSettings
from vigc.modeling_vigc.slots_vigc import Schedule
from vigc.processing import VigcProcessor

from .checkpoints import Checkpoint, dtype_name, loading_errors, public_name
from .fitting import Fitting
from .generator import FoundModel, ModelFacts, ModelIdentity, PairPrompts
from .scores import VigcScorer

T = TypeVar("T")

# The `model_type` of models that the engine supports.
VIGC_TYPES = (VigcConfig.model_type, InstructBlipConfig.model_type)


@dataclass
class VigcGenerator:
    """A [`Writer`] over a loaded model.

    Args:
        model: The model in evaluation mode, on its device.
        processor: The model's processor.
        facts: The facts of the plan.
        slots: Number of requests decoded together; halved for the rest of a run when memory runs out.
        fitting: Counts the halvings.
    """

    model: Any
    processor: Any
    facts: ModelFacts
    slots: int = 8
    fitting: Fitting = field(default_factory=Fitting, init=False)

    @property
    def identity(self) -> ModelIdentity:
        """Name and abilities of the model."""
        return ModelIdentity(
            self.facts.name, self.facts.revision, self.facts.dtype, scores=True, several=True, system=False
        )

    @property
    def prompts(self) -> PairPrompts:
        """The prompts of the processor."""
        return self.processor

    @property
    def scorer(self) -> VigcScorer:
        """Scores answers with the prompts of VIC."""
        return VigcScorer(self.model, self.processor, self.fitting)

    @property
    def halved(self) -> int:
        """Number of batches halved because memory ran out."""
        return self.fitting.halved

    def prepare(self, image: Any) -> torch.Tensor:
        """The pixels of a PIL image, float (1, 3, H, W)."""
        return self.processor(images=[image], return_tensors="pt")["pixel_values"]

    def encode(self, image: Any) -> torch.Tensor:
        """The ViT's output for one PIL image, float (patches + 1, vision width)."""
        return self.encode_batch([self.prepare(image)])[0]

    @torch.no_grad()
    def encode_batch(self, prepared: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The ViT's output for each result of `prepare`, float (patches + 1, vision width)."""
        embed, to, pixels = self.model.get_image_embeds, (self.model.device, self.model.dtype), torch.cat([*prepared])
        return [*torch.cat(self.fitting.run(len(pixels), lambda part: embed(pixels[part].to(*to))))]

    def rollout_settings(self, given: Mapping[str, Any]) -> RolloutSettings:
        """The settings of a rollout: `given` decoding and `iqf_*` settings, and for the others those of the model."""
        config = self.model.generation_config
        iqf, decoding = split_settings(config, given)
        most = decoding.get("max_new_tokens", config.max_new_tokens) or 249
        return RolloutSettings(self.processor, iqf, decoding, most)

    def run(self, rollouts: Iterable[Rollout[T] | None]) -> Iterator[T]:
        """Yields the return values of rollouts, in the order in which they end.

        When memory runs out, the slots are halved and the interrupted requests are decoded again. Rollouts keep the
        completions that they have.

        Args:
            rollouts: The rollouts, as in [`Schedule`].

        Raises:
            TransientError: A single request does not fit into memory.
        """
        schedule = Schedule(rollouts)
        # Reset for each run: the output and the record of a shard must not depend on earlier shards.
        slots, self.fitting.most = self.slots, None
        while True:
            try:
                yield from self._engine(slots).run_schedule(schedule)
                return
            except (RuntimeError, MemoryError) as error:
                if schedule.calling or not is_out_of_memory(error):
                    raise
            # Outside of the handler, where the traceback no longer holds memory.
            schedule.interrupt()
            slots = self.fitting.halve(slots)

    def _engine(self, slots: int) -> Any:
        """An engine from the code of the model (which may be remote code), or from the package."""
        model = self.model
        if not hasattr(model, "engine"):
            # The code comes from a folder saved by an older version: use the same modules under the package's class.
            model = VigcForConditionalGeneration.__new__(VigcForConditionalGeneration)
            vars(model).update(vars(self.model))
        return model.engine(self.processor, slots)


def given_vigc(model: Any, processor: Any) -> FoundModel[VigcGenerator]:
    """Wraps a VIGC model object.

    Args:
        model: The model.
        processor: The model's processor.

    Raises:
        GenerationError: The processor is missing.
    """
    if processor is None:
        raise GenerationError("A model object needs its processor: pass processor= too, or the model's folder.")
    facts = ModelFacts(
        public_name(str(model.config._name_or_path or type(model).__name__)),
        weights_fingerprint(model) if isinstance(model, torch.nn.Module) else None,
        dtype_name(model.dtype),
        model.device.type,
        model.generation_config,
        trained_on=getattr(model.config, "trained_on", None),
        scores=True,
    )
    return FoundModel(facts, lambda slots: VigcGenerator(model.eval(), processor, facts, slots))


def find_vigc(checkpoint: Checkpoint, processor: Any = None) -> FoundModel[VigcGenerator]:
    """Finds a VIGC model, or an InstructBLIP with a decoder-only language model, in a folder or on the Hub.

    Args:
        checkpoint: The configuration; its `model_type` is one of `VIGC_TYPES`.
        processor: By default loaded with the model.

    Raises:
        ValueError: The language model has an encoder, or the remote code is in another repository.
    """
    model_class, processor_class = _classes(checkpoint)
    facts = checkpoint.facts(remote_code=model_class is not VigcForConditionalGeneration, scores=True)

    def load(slots: int) -> VigcGenerator:
        with loading_errors(checkpoint.name, checkpoint.error):
            # The classes are already chosen; no other remote code, for instance of a tokenizer, may run.
            hub: dict[str, Any] = {"revision": checkpoint.commit, "trust_remote_code": False}
            model = model_class.from_pretrained(checkpoint.name, dtype=facts.dtype, **hub)
            own = processor or processor_class.from_pretrained(checkpoint.name, **hub)
            model = model.to(checkpoint.device).eval()
        return VigcGenerator(model, own, replace(facts, generation_config=model.generation_config), slots)

    return FoundModel(facts, load)


def weights_fingerprint(model: torch.nn.Module) -> str:
    """A fingerprint of the weights of a model in memory, 16 hexadecimal digits.

    It hashes about 64 values of every tensor; `folder_fingerprint` gives the reason.
    """
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        if tensor.numel() and not tensor.is_meta:  # offloaded parameters are meta tensors
            values = tensor.flatten()[:: -(-tensor.numel() // 64)]
            digest.update(values.cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def has_encoder(checkpoint: Checkpoint) -> bool:
    """Whether the language model of a VIGC or InstructBLIP checkpoint has an encoder, as FLAN-T5 has."""
    return bool(_language_model(checkpoint).is_encoder_decoder)


def _language_model(checkpoint: Checkpoint) -> Any:
    """The configuration of the language model."""
    return InstructBlipConfig.from_dict(dict(checkpoint.config)).text_config


def _classes(checkpoint: Checkpoint) -> tuple[Any, Any]:
    """The classes of model and processor: the package's, or remote code if that is allowed."""
    inner = _language_model(checkpoint)
    if inner.is_encoder_decoder:
        raise ValueError(
            f"its language model, {inner.model_type!r}, has an encoder; give one with Vicuna, for instance"
        )
    model = checkpoint.config.get("auto_map", {}).get("AutoModelForImageTextToText")
    if model is None or not checkpoint.trust_remote_code:
        return VigcForConditionalGeneration, VigcProcessor
    name, commit = checkpoint.name, checkpoint.commit
    settings, _ = VigcProcessor.get_processor_dict(name, revision=commit)
    references = model, settings.get("auto_map", {}).get("AutoProcessor", "")
    model_class, processor_class = (_brought(name, reference, commit) for reference in references)
    return model_class, processor_class


def _brought(name: str, reference: str, commit: str | None) -> Any:
    """The class that `reference` names in the remote code."""
    place, _, here = reference.rpartition("--")
    if not here or place not in ("", name):
        raise ValueError(
            f"the code of its model or processor is in {place or 'no repository'!r}, but only code in the "
            "model's own repository is run: remove --trust-remote-code"
        )
    return get_class_from_dynamic_module(here, name, revision=commit)
