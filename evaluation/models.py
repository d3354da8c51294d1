"""A model that answers questions about pictures: VIGC, InstructBLIP, or any chat model of transformers."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, InstructBlipConfig
from transformers.utils.hub import cached_file, extract_commit_hash

from vigc.errors import EvaluationError
from vigc.evaluation.benchmarks.base import Question
from vigc.modeling_vigc import IqfSettings, VigcConfig, VigcForConditionalGeneration
from vigc.processing import VigcProcessor
from vigc.processing.devices import find_device
from vigc.processing.model_folder import folder_fingerprint, loading_model
from vigc.scenes import model_folder, model_name

DTYPES = ("auto", "float32", "bfloat16", "float16")


@dataclass
class Answerer(ABC):
    """A model with its processor, asked in batches; decoding is greedy unless its settings say otherwise.

    Args:
        model: In evaluation mode, on its device.
        processor: Belongs to it.
        name: Its Hub name, or the name of its folder.
        revision: The Hub's commit, or a fingerprint of the folder's files.
        settings: Arguments of `generate`.
    """

    model: Any
    processor: Any
    name: str
    revision: str | None
    settings: dict[str, Any]

    @abstractmethod
    def answer(self, images: Sequence[Image.Image], questions: Sequence[Question]) -> list[str]:
        """What the model says to each question about its picture."""

    def described(self) -> dict[str, Any]:
        """What decides its answers, as a run records it."""
        dtype = str(self.model.dtype).removeprefix("torch.")
        return {"model": self.name, "revision": self.revision, "dtype": dtype, "settings": self.settings}


class VigcAnswerer(Answerer):
    """VIGC answers with VIC, sentence by sentence unless `correct=False`; InstructBLIP decodes plainly."""

    @torch.no_grad()
    def answer(self, images: Sequence[Image.Image], questions: Sequence[Question]) -> list[str]:
        """VIC's answers. Questions of a type are asked in the words that VIC knows for it."""
        kinds = [question.task for question in questions]
        if None not in kinds or not any(kinds):
            return self._answer(images, questions)
        texts: dict[str, str] = {}
        for typed in (True, False):  # the processor takes a type for all rows or for none
            chosen = [at for at, kind in enumerate(kinds) if (kind is not None) == typed]
            part = [questions[at] for at in chosen]
            answers = self._answer([images[at] for at in chosen], part)
            texts |= {question.id: text for question, text in zip(part, answers, strict=True)}
        return [texts[question.id] for question in questions]

    def _answer(self, images: Sequence[Image.Image], questions: Sequence[Question]) -> list[str]:
        kinds = [question.task for question in questions]
        task = {} if None in kinds else {"task": kinds}
        texts = [question.text for question in questions]
        inputs = _placed(self.model, self.processor(images=list(images), text=texts, return_tensors="pt", **task))
        settings = dict(self.settings)
        if not settings.pop("correct"):
            output = self.model.generate(**inputs, correct=False, **settings)
            return self.processor.decode_texts(output[:, inputs["input_ids"].shape[1] :])
        output = self.model.generate(**inputs, processor=self.processor, return_dict_in_generate=True, **settings)
        return [text or "" for text in output.answers]


class ChatAnswerer(Answerer):
    """A chat model: one user turn with the picture and the prompt, in the words of its chat template."""

    @torch.no_grad()
    def answer(self, images: Sequence[Image.Image], questions: Sequence[Question]) -> list[str]:
        """What the assistant's turn says."""
        chats = [
            [
                {
                    "role": "user",
                    "content": [{"type": "image", "image": image}, {"type": "text", "text": question.prompt}],
                }
            ]
            for image, question in zip(images, questions, strict=True)
        ]
        inputs = self.processor.apply_chat_template(
            chats,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            add_generation_prompt=True,
            processor_kwargs={"padding": True, "padding_side": "left"},
        )
        inputs = _placed(self.model, inputs)
        output = self.model.generate(**inputs, **self.settings)
        written = output[:, inputs["input_ids"].shape[1] :]
        return [text.strip() for text in self.processor.batch_decode(written, skip_special_tokens=True)]


def load_answerer(
    model: str | os.PathLike[str],
    *,
    settings: Mapping[str, Any] | None = None,
    correct: bool | None = None,
    dtype: str = "auto",
    device: str = "auto",
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> Answerer:
    """Loads a model to answer with.

    Args:
        model: A folder or a Hub name.
        settings: Arguments of `generate`, `max_new_tokens` among them; for VIGC also `iqf_*`.
        correct: Whether VIC iterates; by default it does for VIGC and not for InstructBLIP.
        dtype: "auto" (as saved; float32 on a CPU), "float32", "bfloat16" or "float16".
        device: "auto" (an accelerator if there is one), "cpu", "cuda:1", ...
        revision: Commit, tag or branch on the Hub.
        trust_remote_code: Whether code in the model's folder may run, for architectures that transformers lacks.

    Raises:
        EvaluationError: The model cannot be loaded, or has no chat template.
    """
    name = model_folder(model)
    if dtype not in DTYPES:
        raise EvaluationError(f"dtype {dtype!r} is not known: use one of {', '.join(DTYPES)}.")
    place = find_device(device, EvaluationError)
    kind = torch.float32 if dtype == "auto" and place.type == "cpu" else dtype
    here = Path(name).is_dir()
    with loading_model(name, EvaluationError):
        # Named once, so that all is of one commit: transformers no longer notes it in the configuration.
        config_file = None if here else cached_file(name, "config.json", revision=revision)
        commit = extract_commit_hash(config_file, None)
        hub: dict[str, Any] = {"revision": commit or revision, "trust_remote_code": trust_remote_code}
        config = AutoConfig.from_pretrained(name, **hub)  # nosec B615: by `revision`
        ours = isinstance(config, VigcConfig) or type(config) is InstructBlipConfig
        classes: Any = (VigcForConditionalGeneration, VigcProcessor)
        model_class, processor_class = classes if ours else (AutoModelForImageTextToText, AutoProcessor)
        loaded: Any = model_class.from_pretrained(name, dtype=kind, **hub)
        processor = processor_class.from_pretrained(name, **hub)
    loaded = loaded.to(place).eval()
    found = folder_fingerprint(Path(name)) if here else commit
    known = model_name(name)
    public = Path(name).resolve().name if here and known == name else known
    given = dict(settings or {})
    greedy = {"do_sample": False, "num_beams": 1}
    chosen = given if given.get("iqf_preset") == "original" else {**greedy, **given}  # which decodes in its own way
    return _answerer(loaded, processor, public, found, chosen, correct)


def _answerer(
    model: Any, processor: Any, name: str, revision: str | None, settings: dict[str, Any], correct: bool | None
) -> Answerer:
    iqf = {key: value for key, value in settings.items() if key.startswith("iqf_")}
    if not isinstance(model, VigcForConditionalGeneration):
        if not getattr(processor, "chat_template", None):
            raise EvaluationError(
                f"{name!r} has no chat template, so how it is asked is not known: add chat_template.jinja to its "
                "folder."
            )
        if iqf or correct:
            raise EvaluationError(f"{', '.join(iqf) or 'A correction'} has no effect on {name!r}: only VIGC corrects.")
        return ChatAnswerer(model, processor, name, revision, settings)
    if correct is None:
        correct = model.config.model_type == VigcConfig.model_type
    if iqf and not correct:
        raise EvaluationError(f"Without correction {', '.join(iqf)} has no effect: drop it.")
    try:
        resolved = asdict(IqfSettings.resolve(model.generation_config, iqf)) if correct else {}
    except ValueError as error:
        raise EvaluationError(str(error)) from error
    return VigcAnswerer(model, processor, name, revision, {**settings, **resolved, "correct": correct})


def _placed(model: Any, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs on the model's device, pictures in its dtype."""
    return {
        name: value.to(model.device, model.dtype if value.is_floating_point() else value.dtype)
        if isinstance(value, torch.Tensor)
        else value
        for name, value in inputs.items()
    }
