"""Answers the questions of benchmarks: a rollout per question, run by any generator."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from PIL import Image

from vigc.errors import EvaluationError
from vigc.evaluation.benchmarks.base import Question
from vigc.inference import ChatGenerator, Request, Rollout, SamplingParams, VigcGenerator, load_generator
from vigc.inference.encoder_decoder import EncoderDecoderGenerator
from vigc.modeling_vigc import IqfSettings, VigcConfig
from vigc.modeling_vigc.rollout_vigc import RolloutSettings, iqf
from vigc.modeling_vigc.speculative_vigc import AHEAD_LANES


@dataclass(frozen=True)
class AnsweringModel:
    """A generator with its decoding settings, which are greedy by default.

    Args:
        generator: Runs the rollouts.
        settings: Decoding settings of every request, for VIGC and InstructBLIP with `iqf_*` and `correct`.
    """

    generator: VigcGenerator | ChatGenerator
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
        """The model's answer to each question about its image; all of them are one batch."""
        generator = self.generator
        encoded: Sequence[Any]
        if isinstance(generator, VigcGenerator):
            # As many slots as `generate` has for such a batch.
            generator = replace(generator, slots=max(len(questions), AHEAD_LANES))
            encoded = generator.encode_batch([generator.prepare(image) for image in images])
        else:
            encoded = [generator.encode(image) for image in images]
        asked = enumerate(zip(questions, encoded, strict=True))
        answers: dict[int, str] = dict(generator.run(_placed(place, self._rollout(*one)) for place, one in asked))
        return [answers[place] for place in range(len(questions))]

    def _rollout(self, question: Question, image: Any) -> Rollout[str]:
        """VIC gets the question or its prompt for the task type; a chat model gets the whole prompt."""
        generator, settings = self.generator, dict(self.settings)
        if "correct" not in settings:
            return answer_in_chat(question, image, settings)
        if settings.pop("correct") and isinstance(generator, VigcGenerator):
            return answer_by_iqf(question, image, generator.rollout_settings(settings))
        return answer_plainly(question, image, generator.processor, settings)

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


def answer_by_iqf(question: Question, image: Any, settings: RolloutSettings) -> Rollout[str]:
    """Returns VIC's answer, generated sentence by sentence."""
    sample = yield from iqf(image, question.text.strip(), None, settings, question.task, _seed(question))
    return sample.answer or ""


def answer_plainly(question: Question, image: Any, processor: Any, decoding: Mapping[str, Any]) -> Rollout[str]:
    """Returns the answer to VIC's prompt by plain decoding."""
    sampling = SamplingParams(decoding, seed=_seed(question), plain=True)
    prompt = processor.vic_prompt(question.text.strip(), question.task)
    completion = yield Request(prompt, (image,), sampling=sampling)
    return completion.text.strip()


def _placed(place: int, rollout: Rollout[str]) -> Rollout[tuple[int, str]]:
    """A rollout that returns the index of its question too."""
    text = yield from rollout
    return place, text


def _seed(question: Question) -> int:
    """What is sampled depends on the question alone, not on its batch."""
    return int.from_bytes(hashlib.sha256(question.id.encode()).digest()[:4], "big")


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
        trust_remote_code: Whether to run code in the model's folder.

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
    chosen = given if given.get("iqf_preset") == "original" else {**greedy, **given}  # which decodes in its own way
    given_iqf = {name: value for name, value in chosen.items() if name.startswith("iqf_")}
    corrects = isinstance(generator, VigcGenerator)
    if not corrects and (given_iqf or correct):
        what = ", ".join(given_iqf) or "A correction"
        raise EvaluationError(f"{what} has no effect on {generator.identity.name!r}: only VIGC corrects.")
    if not corrects and not isinstance(generator, EncoderDecoderGenerator):
        return AnsweringModel(generator, chosen)
    if correct is None:
        correct = corrects and generator.model.config.model_type == VigcConfig.model_type
    if given_iqf and not correct:
        raise EvaluationError(f"Without correction {', '.join(given_iqf)} has no effect: remove it.")
    try:
        resolved = asdict(IqfSettings.resolve(generator.model.generation_config, given_iqf)) if correct else {}
    except ValueError as error:
        raise EvaluationError(str(error)) from error
    return AnsweringModel(generator, {**chosen, **resolved, "correct": correct})
