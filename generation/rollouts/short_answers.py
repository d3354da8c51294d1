"""Questions with several short answers (OK-VQA, A-OKVQA, VQAv2), as in the second mode of the original generator.

The first word of a question is sampled by given frequencies and the model completes the question, so that questions are
as varied as those of people. One beam search gives the answers, each with a weight.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vigc.errors import GenerationError, reason_of
from vigc.formats.json_stream import is_text
from vigc.modeling_vigc.requests_vigc import Completion, Request, Rollout, Sample, SamplingParams
from vigc.modeling_vigc.rollout_vigc import RolloutSettings
from vigc.processing import INSTRUCTION_TYPES
from vigc.processing.bounded_parsing import read_json

from .checks import fault_of


def takes_short_answers(kind: str) -> bool:
    """Whether the prompt of a task type asks for short answers."""
    return INSTRUCTION_TYPES[kind].answer_templates != ("{question}",)


@dataclass(frozen=True)
class ShortAnswerSettings:
    """Settings of questions with several answers.

    Args:
        decoding: The resolved decoding settings of the job, so that a preset also applies to answers.
        count: Maximum number of answers per question.
        threshold: Minimum weight of an answer. The weight is `100 * p ** 3`, where p is the geometric mean of the
            probabilities of the answer's tokens.
        first_words: Frequency of each first word of a question; None lets the model choose it.
    """

    decoding: Mapping[str, Any]
    count: int
    threshold: float
    first_words: Mapping[str, float] | None = None

    def sampling(self) -> SamplingParams:
        """The parameters of a beam search without sampling, whose beams are the answers."""
        beams = max(self.count, self.decoding.get("num_beams") or 1, 2)
        unused = ("temperature", "top_p", "top_k")
        kept = {name: value for name, value in self.decoding.items() if value is not None and name not in unused}
        return SamplingParams({**kept, "do_sample": False, "num_beams": beams}, n=beams, plain=True)

    def first_word(self, seed: int) -> str:
        """A word sampled by frequency; empty without `first_words`."""
        if not self.first_words:
            return ""
        return random.Random(seed).choices(list(self.first_words), list(self.first_words.values()))[0]


def short_answers(
    image: Any, task: str, settings: RolloutSettings, wanted: ShortAnswerSettings, seed: int = 0
) -> Rollout[Sample]:
    """A question of VIG and several weighted answers of VIC.

    Args:
        image: The image, as in `Request.images`.
        task: The task type.
        settings: The settings of the question.
        wanted: See [`ShortAnswerSettings`].
        seed: The seed of the first word and of sampling.

    Returns:
        The sample, with `answers` and `weights`; `reason` is set if there is no question, or no answer with enough
        weight.
    """
    processor, word = settings.processor, wanted.first_word(seed)
    begun = f"Question: {word}" if word else ""
    sampling = replace(settings.sampling(seed, 0), plain=True)
    completion = yield Request(processor.instruction(task), (image,), prefix=begun, sampling=sampling)
    text = f"{begun} {completion.text}" if begun else completion.text
    pair = processor.parse_pair(text)
    sample = Sample(task, pair.question, pair.answer, pair.answer, pair.reason, vig_text=text)
    sample.draft_logprob = _undefined([completion])
    if fault_of(sample) is not None:
        return sample
    best = yield Request(processor.vic_prompt(pair.question, task), (image,), sampling=wanted.sampling())
    found = [best, *best.alternatives]
    sample.draft_logprob = _undefined(found)
    _choose(sample, found, wanted)
    return sample


def _undefined(completions: Sequence[Completion]) -> float | None:
    """NaN if a log-probability is not finite, which makes the texts invalid; else None."""
    logprobs = [value for one in completions for value in one.token_logprobs or []]
    return None if all(map(math.isfinite, logprobs)) else math.nan


def _choose(sample: Sample, answers: Sequence[Completion], wanted: ShortAnswerSettings) -> None:
    """Keeps the answers with the largest weights that differ by more than capitals and a full stop."""
    weighted = [(one.text, 100 * math.exp(one.score) ** 3) for one in answers if one.score is not None]
    kept: dict[str, tuple[str, float]] = {}
    for answer, weight in sorted(weighted, key=lambda pair: -pair[1]):
        key = answer.lower().strip(" .")
        if key and key not in kept and weight >= wanted.threshold and len(kept) < wanted.count:
            kept[key] = (answer, weight)
    if not kept:
        heaviest = max((weight for _, weight in weighted), default=0.0)
        sample.reason = f"no answer weighs {wanted.threshold:g} or more (the heaviest {heaviest:.3g})"
        return
    sample.answers, sample.weights = [answer for answer, _ in kept.values()], [weight for _, weight in kept.values()]
    sample.answer = sample.answers[0]


def read_first_words(path: Path) -> dict[str, float]:
    """Reads the frequencies of first words from a JSON object `{"What": 412, ...}`.

    Raises:
        GenerationError: The file has other content.
    """
    try:
        values = read_json(path)
    except (OSError, ValueError) as error:
        raise GenerationError(
            f"{str(path)!r} cannot be read ({reason_of(error, path=False)}): give a JSON object of words."
        ) from error
    good = isinstance(values, dict) and values and is_text(values)
    if not good or not all(isinstance(value, (int, float)) and value > 0 for value in values.values()):
        raise GenerationError(f'{str(path)!r} is no JSON object of words with positive numbers, {{"What": 412, ...}}.')
    return values
