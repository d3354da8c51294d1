"""Models that answer questions about images, of whatever kind: VIGC, InstructBLIP, or any chat model."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig
from transformers.utils.hub import cached_file, extract_commit_hash

from vigc.errors import GenerationError, VigcError
from vigc.modeling_vigc import VigcForConditionalGeneration
from vigc.modeling_vigc.requests_vigc import Completion, Request, Rollout
from vigc.processing import VigcProcessor
from vigc.processing.devices import find_device
from vigc.processing.model_folder import folder_fingerprint, loading_model
from vigc.scenes import model_folder, model_name

from .chat import ChatGenerator, load_chat_model, placed
from .generator import ModelIdentity, unsupported
from .scheduling import run_in_batches
from .settings import DTYPES
from .vigc import VIGC_TYPES


@dataclass(frozen=True, slots=True, eq=False)
class QuestionRequest(Request):
    """A question that VIC answers whole, all its steps within one request; `sampling` has `iqf_*` settings too.

    Args:
        task: The type of instruction that VIC knows the question as; None for a bare question.
        correct: Whether VIC iterates; without it the answer is decoded plainly.
    """

    task: str | None = None
    correct: bool = True


@dataclass(frozen=True)
class VigcAnswers:
    """VIGC or InstructBLIP, which answers [`QuestionRequest`] in batches by the model's own `generate`.

    Args:
        model: In evaluation mode, on its device.
        processor: Belongs to it.
        identity: Which model it is.
        batch_size: How many rollouts run at a time; None: all that are given to `run`.
    """

    model: Any
    processor: Any
    identity: ModelIdentity
    batch_size: int | None = 8

    def encode(self, image: Any) -> Any:
        """The image itself: the vision tower runs once per request."""
        return image

    def run(self, rollouts: Iterable[Rollout | None]) -> Iterator[Any]:
        """See [`TextGenerator.run`]; every request is a [`QuestionRequest`] about one image."""
        return run_in_batches(rollouts, self._complete, self.batch_size)

    @torch.no_grad()
    def _complete(self, requests: Sequence[Request]) -> list[Completion]:
        """Questions of a type and bare ones are answered apart: the processor takes a type for all rows or for none."""
        groups: dict[tuple[bool, bool, str], list[int]] = {}
        for place, request in enumerate(requests):
            if what := unsupported(self.identity, request):
                raise GenerationError(f"VIC answers whole questions and cannot {what}: ask another generator.")
            task, correct = getattr(request, "task", None), getattr(request, "correct", True)
            key = (task is None, correct, repr(sorted(request.sampling.settings.items())))
            groups.setdefault(key, []).append(place)
        texts: dict[int, str] = {}
        for _, places in sorted(groups.items()):
            texts |= dict(zip(places, self._answers([requests[place] for place in places]), strict=True))
        return [Completion(texts[place], "eos") for place in range(len(requests))]

    def _answers(self, requests: Sequence[Any]) -> list[str]:
        images, prompts = [image for one in requests for image in one.images], [one.prompt for one in requests]
        task = {} if requests[0].task is None else {"task": [one.task for one in requests]}
        inputs = placed(self.model, self.processor(images=images, text=prompts, return_tensors="pt", **task))
        settings = requests[0].sampling.settings
        if not requests[0].correct:
            output = self.model.generate(**inputs, correct=False, **settings)
            texts: list[str] = self.processor.decode_texts(output[:, inputs["input_ids"].shape[1] :])
            return texts
        output = self.model.generate(**inputs, processor=self.processor, return_dict_in_generate=True, **settings)
        return [text or "" for text in output.answers]


def load_generator(
    model: str | os.PathLike[str],
    *,
    dtype: str = "auto",
    device: str = "auto",
    revision: str | None = None,
    trust_remote_code: bool = False,
    batch_size: int | None = 8,
    error: type[VigcError] = GenerationError,
) -> VigcAnswers | ChatGenerator:
    """Loads a model that answers questions about images.

    Args:
        model: A folder or a Hub name.
        dtype: "auto" (as saved; float32 on a CPU), "float32", "bfloat16" or "float16".
        device: "auto" (an accelerator if there is one), "cpu", "cuda:1", ...
        revision: Commit, tag or branch on the Hub; all is loaded from the commit that it names now.
        trust_remote_code: Whether code in a chat model's folder may run, for architectures that transformers lacks.
        batch_size: How many rollouts run at a time; None: all that are given to `run`.
        error: What is raised.

    Raises:
        VigcError: `error`: the model cannot be loaded, or has no chat template.
        TransientError: Memory does not suffice, or the Hub is away.
    """
    name = model_folder(model)
    if dtype not in DTYPES:
        raise error(f"dtype {dtype!r} is not known: use one of {', '.join(DTYPES)}.")
    place = find_device(device, error)
    with loading_model(name, error):
        # Named once, so that all is of one commit: transformers no longer notes it in the configuration.
        config_file = None if Path(name).is_dir() else cached_file(name, "config.json", revision=revision)
        commit = extract_commit_hash(config_file, None) or revision
        hub: dict[str, Any] = {"revision": commit, "trust_remote_code": trust_remote_code}
        config = AutoConfig.from_pretrained(name, **hub)  # nosec B615: by `revision`
    kind = torch.float32 if dtype == "auto" and place.type == "cpu" else dtype
    if config.model_type not in VIGC_TYPES:
        return load_chat_model(model, dtype=kind, device=device, batch_size=batch_size, error=error, **hub)
    # Not by `load_model`: plain decoding also takes language models with an encoder.
    with loading_model(name, error):
        loaded: Any = VigcForConditionalGeneration.from_pretrained(name, dtype=kind, **hub)
        processor = VigcProcessor.from_pretrained(name, **hub)
    loaded = loaded.to(place).eval()
    known = model_name(name)
    identity = ModelIdentity(
        Path(name).resolve().name if Path(name).is_dir() and known == name else known,
        folder_fingerprint(Path(name)) if Path(name).is_dir() else commit,
        str(loaded.dtype).removeprefix("torch."),
        prefix=False,
        logprobs=False,
        system=False,
    )
    return VigcAnswers(loaded, processor, identity, batch_size)
