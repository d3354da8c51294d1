"""Answers the questions of benchmarks: a rollout per question, run by any generator."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from PIL import Image

from vigc.errors import EvaluationError
from vigc.evaluation.benchmarks.base import Question
from vigc.inference import Request, Rollout, SamplingParams, TextGenerator, load_generator
from vigc.inference.answers import QuestionRequest, VigcAnswers
from vigc.modeling_vigc import IqfSettings, VigcConfig


@dataclass(frozen=True)
class AnsweringModel:
    """A generator with its decoding settings, which are greedy by default.

    Args:
        generator: Runs the rollouts.
        settings: Decoding settings of every request, for VIGC and InstructBLIP with `iqf_*` and `correct`.
    """

    generator: TextGenerator
    settings: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The model's Hub name, or the name of its folder."""
        return self.generator.identity.name

    @property
    def revision(self) -> str | None:
        """The Hub's commit, or a fingerprint of the folder's files."""
        return self.generator.identity.revision

    def with_settings(self, **settings: Any) -> AnsweringModel:
        """The same model with additional settings."""
        return replace(self, settings={**self.settings, **settings})

    def answer(self, images: Sequence[Image.Image], questions: Sequence[Question]) -> list[str]:
        """The model's answers to questions about images, in one batch."""
        rollouts = [self._rollout(*one) for one in enumerate(zip(images, questions, strict=True))]
        answers: dict[int, str] = dict(self.generator.run(rollouts))
        return [answers[place] for place in range(len(questions))]

    def _rollout(self, place: int, asked: tuple[Image.Image, Question]) -> Rollout:
        """Returns the index of the question and its answer."""
        image, question = asked
        # VIC gets the bare question or its prompt for the task type; a chat model gets the benchmark's prompt.
        answer = answer_by_vic if "correct" in self.settings else answer_in_chat
        text = yield from answer(question, self.generator.encode(image), self.settings)
        return place, text

    def described(self) -> dict[str, Any]:
        """Everything that determines the answers, for the record of the run."""
        identity = self.generator.identity
        return {
            "model": identity.name,
            "revision": identity.revision,
            "dtype": identity.dtype,
            "settings": dict(self.settings),
        }


def answer_in_chat(question: Question, image: Any, settings: Mapping[str, Any]) -> Rollout:
    """Sends image and prompt in one user turn; returns the answer."""
    completion = yield Request(question.prompt, (image,), sampling=SamplingParams(settings))
    return completion.text.strip()


def answer_by_vic(question: Question, image: Any, settings: Mapping[str, Any]) -> Rollout:
    """Returns VIC's answer: sentence by sentence if `correct` is set, else by plain decoding."""
    decoding = {name: value for name, value in settings.items() if name != "correct"}
    completion = yield QuestionRequest(
        question.text,
        (image,),
        sampling=SamplingParams(decoding),
        task=question.task,
        correct=settings["correct"],
    )
    return completion.text


def load_answerer(
    model: str | os.PathLike[str],
    *,
    settings: Mapping[str, Any] | None = None,
    correct: bool | None = None,
    dtype: str = "auto",
    device: str = "auto",
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> AnsweringModel:
    """Loads a model for answering: VIGC, InstructBLIP, or any chat model of transformers.

    Args:
        model: A folder or a Hub name.
        settings: Arguments of `generate`, such as `max_new_tokens`; for VIGC also `iqf_*`.
        correct: Whether VIC iterates; by default for VIGC but not for InstructBLIP.
        dtype: "auto" (as saved; float32 on a CPU), "float32", "bfloat16" or "float16".
        device: "auto" (an accelerator if available), "cpu", "cuda:1", ...
        revision: Commit, tag or branch on the Hub.
        trust_remote_code: Whether to run code in the model's folder, for architectures that transformers lacks.

    Raises:
        EvaluationError: The model cannot be loaded, or has no chat template.
    """
    generator = load_generator(
        model,
        dtype=dtype,
        device=device,
        revision=revision,
        trust_remote_code=trust_remote_code,
        batch_size=None,  # the caller makes batches
        error=EvaluationError,
    )
    given = dict(settings or {})
    greedy = {"do_sample": False, "num_beams": 1}
    chosen = given if given.get("iqf_preset") == "original" else {**greedy, **given}  # "original" sets the decoding
    iqf = {name: value for name, value in chosen.items() if name.startswith("iqf_")}
    if not isinstance(generator, VigcAnswers):
        if iqf or correct:
            what = ", ".join(iqf) or "A correction"
            raise EvaluationError(f"{what} has no effect on {generator.identity.name!r}: only VIGC corrects.")
        return AnsweringModel(generator, chosen)
    if correct is None:
        correct = generator.model.config.model_type == VigcConfig.model_type
    if iqf and not correct:
        raise EvaluationError(f"Without correction {', '.join(iqf)} has no effect: remove it.")
    try:
        resolved = asdict(IqfSettings.resolve(generator.model.generation_config, iqf)) if correct else {}
    except ValueError as error:
        raise EvaluationError(str(error)) from error
    return AnsweringModel(generator, {**chosen, **resolved, "correct": correct})
