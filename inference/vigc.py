"""VIGC models, and InstructBLIP with a decoder-only language model: rollouts run by the engine of `modeling_vigc`."""

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

# Of configurations: models that the engine runs.
VIGC_TYPES = (VigcConfig.model_type, InstructBlipConfig.model_type)


@dataclass
class VigcGenerator:
    """A [`Writer`] over a loaded model.

    Args:
        model: In evaluation mode, on its device.
        processor: Belongs to it.
        facts: What is known of it.
        slots: Requests decoded at a time; fewer where memory does not suffice, until the end of a run.
        fitting: Counts how often memory did not suffice.
    """

    model: Any
    processor: Any
    facts: ModelFacts
    slots: int = 8
    fitting: Fitting = field(default_factory=Fitting, init=False)

    @property
    def identity(self) -> ModelIdentity:
        """Which model this is, and what it can do."""
        return ModelIdentity(
            self.facts.name, self.facts.revision, self.facts.dtype, scores=True, several=True, system=False
        )

    @property
    def prompts(self) -> PairPrompts:
        """The processor's."""
        return self.processor

    @property
    def scorer(self) -> VigcScorer:
        """Scores answers as VIC's."""
        return VigcScorer(self.model, self.processor, self.fitting)

    @property
    def halved(self) -> int:
        """How often a batch was halved because memory did not suffice."""
        return self.fitting.halved

    def prepare(self, image: Any) -> torch.Tensor:
        """The pixels of a PIL image, float (1, 3, H, W)."""
        return self.processor(images=[image], return_tensors="pt")["pixel_values"]

    def encode(self, image: Any) -> torch.Tensor:
        """The ViT's output for one PIL image, float (patches + 1, vision width)."""
        return self.encode_batch([self.prepare(image)])[0]

    @torch.no_grad()
    def encode_batch(self, prepared: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The ViT's output for each image, float (patches + 1, vision width), of what `prepare` returned."""
        embed, to, pixels = self.model.get_image_embeds, (self.model.device, self.model.dtype), torch.cat([*prepared])
        return [*torch.cat(self.fitting.run(len(pixels), lambda part: embed(pixels[part].to(*to))))]

    def rollout_settings(self, given: Mapping[str, Any]) -> RolloutSettings:
        """What `given` decoding and `iqf_*` settings, over the model's own, ask of a rollout."""
        config = self.model.generation_config
        iqf, decoding = split_settings(config, given)
        most = decoding.get("max_new_tokens", config.max_new_tokens) or 249
        return RolloutSettings(self.processor, iqf, decoding, most)

    def run(self, rollouts: Iterable[Rollout[T] | None]) -> Iterator[T]:
        """Yields what rollouts return, in the order in which they end.

        Where memory runs out, the requests that were being decoded are asked again, half as many at a time. Rollouts
        keep what they have: they only wait longer for their completion.

        Args:
            rollouts: As [`Schedule`] takes them.

        Raises:
            TransientError: Not even one request fits into memory.
        """
        schedule = Schedule(rollouts)
        # Each time from the start: what a shard is made of, and what its record says, depends on no shard before it.
        slots, self.fitting.most = self.slots, None
        while True:
            try:
                yield from self._engine(slots).run_schedule(schedule)
                return
            except (RuntimeError, MemoryError) as error:
                if schedule.calling or not is_out_of_memory(error):
                    raise
            # Outside of the handler, where the error no longer holds on to the memory.
            schedule.interrupt()
            slots = self.fitting.halve(slots)

    def _engine(self, slots: int) -> Any:
        """An engine of the model's own code, which may have come with its weights, or of ours."""
        model = self.model
        if not hasattr(model, "engine"):
            # Code of a folder that was saved by an older version: the same modules under our class.
            model = VigcForConditionalGeneration.__new__(VigcForConditionalGeneration)
            vars(model).update(vars(self.model))
        return model.engine(self.processor, slots)


def given_vigc(model: Any, processor: Any) -> FoundModel:
    """A VIGC model that is an object, as it is.

    Args:
        model: The model.
        processor: Belongs to it.

    Raises:
        GenerationError: There is no processor.
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


def find_vigc(checkpoint: Checkpoint, processor: Any = None) -> FoundModel:
    """A VIGC model, or an InstructBLIP with a decoder-only language model, in a folder or on the Hub.

    Args:
        checkpoint: Its configuration; the `model_type` is one of `VIGC_TYPES`.
        processor: By default the model's own.

    Raises:
        ValueError: Its language model has an encoder, or its code lies in another repository.
    """
    model_class, processor_class = _classes(checkpoint)
    facts = checkpoint.facts(remote_code=model_class is not VigcForConditionalGeneration, scores=True)

    def load(slots: int) -> VigcGenerator:
        with loading_errors(checkpoint.name):
            # The classes are chosen: no other code is needed, of a tokenizer for instance.
            hub: dict[str, Any] = {"revision": checkpoint.commit, "trust_remote_code": False}
            model = model_class.from_pretrained(checkpoint.name, dtype=facts.dtype, **hub)
            own = processor or processor_class.from_pretrained(checkpoint.name, **hub)
            model = model.to(checkpoint.device).eval()
        return VigcGenerator(model, own, replace(facts, generation_config=model.generation_config), slots)

    return FoundModel(facts, load)


def weights_fingerprint(model: torch.nn.Module) -> str:
    """16 hexadecimal digits that change with the weights of a model in memory.

    Of every tensor some 64 values count, for the reason that `folder_fingerprint` gives.
    """
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        if tensor.numel() and not tensor.is_meta:  # as a part is that lies on disk until it is needed
            values = tensor.flatten()[:: -(-tensor.numel() // 64)]
            digest.update(values.cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def _classes(checkpoint: Checkpoint) -> tuple[Any, Any]:
    """Our own classes of model and processor; those that come with the weights where that was asked for."""
    inner: Any = InstructBlipConfig.from_dict(dict(checkpoint.config)).text_config
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
    """The class that `reference` names in the code beside the weights."""
    place, _, here = reference.rpartition("--")
    if not here or place not in ("", name):
        raise ValueError(
            f"it takes the code of its model or processor from {place or 'nowhere'!r}, and only what lies beside the "
            "weights, at one commit, is run: leave out trust_remote_code"
        )
    return get_class_from_dynamic_module(here, name, revision=commit)
