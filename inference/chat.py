"""Loads chat models of transformers, with or without images, and runs rollouts on them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer

from vigc.errors import GenerationError, RequestRefusedError, VigcError
from vigc.modeling_vigc.requests_vigc import Completion, Request, Rollout
from vigc.processing.devices import find_device
from vigc.scenes import model_folder

from .checkpoints import dtype_name, loading_errors, public_name, recorded_revision
from .generator import ModelIdentity, unsupported
from .scheduling import Outcome, run_in_batches

Turn = Mapping[str, str]


@dataclass(frozen=True)
class ChatGenerator:
    """A chat model. Each request becomes one user turn in the model's chat template.

    Requests with images and equal settings are decoded together, padded on the left. Sampled requests and requests
    without images are decoded alone, so that their text does not depend on other requests. Texts are not stripped.

    Args:
        model: The model in evaluation mode, on its device.
        processor: The model's processor; the tokenizer of a text-only model.
        identity: Name and abilities; `images` is False for a text-only model.
        batch_size: Number of rollouts that run together; None for all rollouts of a call of `run`.
    """

    model: Any
    processor: Any
    identity: ModelIdentity
    batch_size: int | None = 8

    def encode(self, image: Any) -> Any:
        """The image itself."""
        return image

    def run(self, rollouts: Iterable[Rollout | None]) -> Iterator[Any]:
        """See [`TextGenerator.run`].

        Raises:
            GenerationError: A request has a prefix, a target to score, a schema or several completions, or it has
                images and the model takes none.
        """
        return run_in_batches(rollouts, self._complete, self.batch_size)

    def _complete(self, requests: Sequence[Request]) -> list[Outcome]:
        """The outcomes of requests; a request that exceeds the model's context is refused."""
        outcomes: dict[int, Outcome] = {}
        for places in _alike(requests):
            part = [requests[place] for place in places]
            for request in part:
                self._check(request)
            try:
                outcomes |= dict(zip(places, self._generate(part), strict=True))
            except RequestRefusedError as error:
                outcomes |= dict.fromkeys(places, error)
        return [outcomes[place] for place in range(len(requests))]

    def _check(self, request: Request) -> None:
        if what := unsupported(self.identity, request):
            raise GenerationError(f"The chat model {self.identity.name!r} cannot {what}: use another model.")

    def _generate(self, requests: Sequence[Request]) -> list[Completion]:
        """The completions of requests with equal settings, decoded together."""
        settings = dict(requests[0].sampling.settings)
        inputs = self._inputs(requests)
        self._check_room(inputs["input_ids"].shape[1], settings)
        if not self.identity.images:
            tokenizer = self.processor
            pad = tokenizer.pad_token_id
            settings["pad_token_id"] = tokenizer.eos_token_id if pad is None else pad
        with torch.random.fork_rng(enabled=_is_sampled(requests[0])), torch.inference_mode():
            if _is_sampled(requests[0]):
                torch.manual_seed(_seed(requests[0]))
            generated = self.model.generate(**inputs, **settings)[:, self._prompt_length(inputs) :]
        texts = self.processor.batch_decode(generated, skip_special_tokens=True)
        read = inputs["attention_mask"].sum(1).tolist()
        rows = zip(requests, texts, generated.tolist(), read, strict=True)
        return [self._completion(*row, settings.get("max_new_tokens")) for row in rows]

    def _completion(self, request: Request, text: str, ids: list[int], read: int, most: int | None) -> Completion:
        ends = self.model.generation_config.eos_token_id
        ends = set(ends) if isinstance(ends, list) else {ends}
        count = next((place for place, token in enumerate(ids, 1) if token in ends), None)
        ids = ids[:count]
        finish = "length" if count is None or len(ids) == most else "eos"
        if request.stop is not None and (end := request.stop.end(text, complete=True)) is not None:
            return Completion(text[:end], "unit", read=read)
        return Completion(text, finish, ids, read=read)

    def _inputs(self, requests: Sequence[Request]) -> Any:
        """The model inputs of requests, padded on the left."""
        settings: dict[str, Any] = {"add_generation_prompt": True, "return_tensors": "pt", "return_dict": True}
        if not self.identity.images:
            (request,) = requests
            return self._text_inputs(_turns(request), settings)
        inputs = self.processor.apply_chat_template(
            [_chat(request) for request in requests],
            tokenize=True,
            processor_kwargs={"padding": True, "padding_side": "left"},
            **settings,
        )
        return placed(self.model, inputs)

    def _prompt_length(self, inputs: Any) -> int:
        """Number of prompt ids at the start of the ids that `generate` returns."""
        return inputs["input_ids"].shape[1]

    def _text_inputs(self, turns: Sequence[Turn], settings: dict[str, Any]) -> Any:
        from jinja2 import TemplateError

        turns = [{**turn, "content": self._without_special_tokens(turn["content"])} for turn in turns]
        try:
            tokens = self.processor.apply_chat_template(turns, **settings)
        except TemplateError:  # some templates do not support a system turn
            joined = "\n\n".join(turn["content"] for turn in turns)
            tokens = self.processor.apply_chat_template([{"role": "user", "content": joined}], **settings)
        return tokens.to(self.model.device)

    def _without_special_tokens(self, text: str) -> str:
        """Splits the model's special tokens in a text by a space, since they could end the user's turn."""
        for token in self.processor.all_special_tokens:
            if len(token) > 1:
                text = text.replace(token, f"{token[0]} {token[1:]}")
        return text

    def _check_room(self, length: int, settings: Mapping[str, Any]) -> None:
        room = None if self.identity.images else getattr(self.model.config, "max_position_embeddings", None)
        most = settings.get("max_new_tokens", 0)
        if room is not None and length + most > room:
            raise RequestRefusedError(f"{length:,} tokens and {most:,} new tokens exceed the model's {room:,}")


def load_chat_model(
    model: str | os.PathLike[str],
    *,
    images: bool = True,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device = "auto",
    revision: str | None = None,
    trust_remote_code: bool = False,
    batch_size: int | None = 8,
    error: type[VigcError] = GenerationError,
    role: str = "model",
) -> ChatGenerator:
    """Loads a chat model from a folder or the Hub.

    Args:
        model: A folder or a Hub name.
        images: Whether to load a model with images (`AutoModelForImageTextToText`) or a causal language model.
        dtype: The `dtype` of `from_pretrained`.
        device: "auto" (an accelerator if there is one), "cpu", "cuda:1", ...
        revision: Commit, tag or branch on the Hub.
        trust_remote_code: Whether code in the model repository may run.
        batch_size: See [`ChatGenerator`].
        error: Class of the raised errors.
        role: Name of a text-only model in messages.

    Raises:
        VigcError: `error`: the model cannot be loaded, or has no chat template.
    """
    given, name = os.fspath(model), model_folder(model)
    place = find_device(str(device), error)
    origin: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    loaded: Any
    processor: Any
    with loading_errors(name if images else given, error, "" if images else " as a causal language model"):
        if images:
            loaded = AutoModelForImageTextToText.from_pretrained(name, dtype=dtype, **origin)  # nosec B615: by `revision`
            processor = AutoProcessor.from_pretrained(name, **origin)  # nosec B615: by `revision`
        else:
            processor = AutoTokenizer.from_pretrained(name, **origin)  # nosec B615: by `revision`
            loaded = AutoModelForCausalLM.from_pretrained(name, dtype=dtype, **origin)  # nosec B615: by `revision`
        loaded = loaded.to(place).eval()
    identity = _identity(name, loaded, images, revision)
    if not getattr(processor, "chat_template", None):
        raise error(
            f"{identity.name!r} has no chat template, so prompts cannot be built: add chat_template.jinja to its "
            "folder."
            if images
            else f"the {role} {given!r} has no chat template: give a chat model."
        )
    return ChatGenerator(loaded, processor, identity, batch_size)


def _identity(name: str, loaded: Any, images: bool, revision: str | None) -> ModelIdentity:
    """The identity of a loaded model."""
    return ModelIdentity(
        public_name(name),
        recorded_revision(name, revision),
        dtype_name(loaded.dtype),
        kind="chat",
        images=images,
        prefix=False,
        logprobs=False,
    )


def placed(model: Any, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Moves inputs to a model's device, and images to its dtype."""
    return {
        name: value.to(model.device, model.dtype if value.is_floating_point() else value.dtype)
        if isinstance(value, torch.Tensor)
        else value
        for name, value in inputs.items()
    }


def _alike(requests: Sequence[Request]) -> list[list[int]]:
    """Groups the indices of requests that are decoded together."""
    groups: dict[str, list[int]] = {}
    for place, request in enumerate(requests):
        alone = _is_sampled(request) or not request.images
        key = f"{place}" if alone else repr(sorted(request.sampling.settings.items()))
        groups.setdefault(key, []).append(place)
    return list(groups.values())


def _is_sampled(request: Request) -> bool:
    return bool(request.sampling.settings.get("do_sample"))


def _turns(request: Request) -> list[dict[str, str]]:
    """The conversation, without images."""
    system = [] if request.system is None else [{"role": "system", "content": request.system}]
    return [*system, {"role": "user", "content": request.prompt}]


def _chat(request: Request) -> list[dict[str, Any]]:
    """The conversation for templates of models with images: images first in the user's turn."""
    turns: list[dict[str, Any]] = [
        {"role": turn["role"], "content": [{"type": "text", "text": turn["content"]}]} for turn in _turns(request)
    ]
    turns[-1]["content"][:0] = [{"type": "image", "image": image} for image in request.images]
    return turns


def _seed(request: Request) -> int:
    """A seed from the request's text and seed, independent of the order of requests."""
    digest = hashlib.sha256(f"{request.sampling.seed}/{json.dumps(_turns(request))}".encode()).digest()
    return int.from_bytes(digest[:7], "big")
