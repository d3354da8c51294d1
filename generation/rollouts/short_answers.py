"""Questions with several short answers (OK-VQA, A-OKVQA, VQAv2): the second path of the original generator.

The question's first word is drawn by given frequencies and the model completes the question, so that questions are as
varied as people's. The answers come from one beam search, each with a weight.
"""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import torch

from vigc.errors import GenerationError, reason_of
from vigc.formats.json_stream import is_text
from vigc.modeling_vigc.requests_vigc import Sample
from vigc.processing import INSTRUCTION_TYPES
from vigc.processing.bounded_parsing import read_json

from .checks import NumbersOnly, fault_of


def takes_short_answers(kind: str) -> bool:
    """Whether a type's answers are a few words, asked for as such."""
    return INSTRUCTION_TYPES[kind].answer_templates != ("{question}",)


class ShortAnswers:
    """Writes a question and several answers about each picture of a batch.

    Args:
        model: A VIGC model.
        processor: Belongs to it.
        decoding: All decoding settings, resolved, so that what a preset says of them holds here too.
        count: At most so many answers to a question.
        threshold: Answers of a smaller weight are left out. The weight is `100 * p ** 3`, p being the geometric mean of
            the probabilities of the answer's tokens.
        first_words: How often each first word begins a question; None leaves it to the model.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        decoding: dict[str, Any],
        *,
        count: int,
        threshold: float,
        first_words: dict[str, float] | None,
    ) -> None:
        self.model, self.processor = model, processor
        self.decoding = {name: value for name, value in decoding.items() if value is not None}
        self.count, self.threshold, self.first_words = count, threshold, first_words

    def write(self, kind: str, pixels: torch.Tensor, seeds: list[int], settings: dict[str, Any]) -> list[Sample]:
        """A draft for each picture; `reason` says where there is no question, or no answer of enough weight.

        Args:
            kind: The type of instruction.
            pixels: float (B, 3, H, W).
            seeds: One for each row: of the first word, and of what else is drawn.
            settings: What is set otherwise for the question.
        """
        drafts = self._questions(kind, pixels, seeds, settings)
        asked = [place for place, draft in enumerate(drafts) if fault_of(draft) is None]
        if asked:
            where = torch.tensor(asked, device=pixels.device)
            questions = [str(drafts[place].question) for place in asked]
            for place, answers in zip(asked, self._answers(kind, pixels[where], questions), strict=True):
                self._choose(drafts[place], answers)
        return drafts

    def _questions(self, kind: str, pixels: torch.Tensor, seeds: list[int], settings: dict[str, Any]) -> list[Sample]:
        begun = [self._first_word(seed) for seed in seeds]
        instruction = self.processor.instruction(kind)
        decoding = self.decoding | {name: value for name, value in settings.items() if not name.startswith("iqf_")}
        # Plain decoding draws for a whole batch at a time; where it draws, rows go alone.
        size = 1 if decoding.get("do_sample") else len(seeds)
        texts: list[str] = []
        logprobs: list[float | None] = []
        for start in range(0, len(seeds), size):
            part = slice(start, start + size)
            prompts = [f"{instruction} Question: {word}" if word else instruction for word in begun[part]]
            numbers = NumbersOnly(len(prompts))
            texts += self._decoded(prompts, pixels[part], seeds[start], {**decoding, "logits_processor": [numbers]})[0]
            logprobs += numbers.logprobs()
        drafts = []
        for word, text, logprob in zip(begun, texts, logprobs, strict=True):
            whole = f"Question: {word} {text}" if word else text
            pair = self.processor.parse_pair(whole)
            drafts.append(
                Sample(
                    kind,
                    pair.question,
                    pair.answer,
                    pair.answer,
                    pair.reason,
                    vig_text=whole,
                    draft_logprob=logprob,
                )
            )
        return drafts

    def _first_word(self, seed: int) -> str:
        if not self.first_words:
            return ""
        return random.Random(seed).choices(list(self.first_words), list(self.first_words.values()))[0]

    def _answers(self, kind: str, pixels: torch.Tensor, questions: list[str]) -> list[list[tuple[str, float]]]:
        """(answer, weight) of each beam, the heaviest first."""
        beams = max(self.count, self.decoding.get("num_beams") or 1, 2)
        decoding = {
            **{name: value for name, value in self.decoding.items() if name not in ("temperature", "top_p", "top_k")},
            "do_sample": False,
            "num_beams": beams,
            "num_return_sequences": beams,
            "output_scores": True,
        }
        prompts = [self.processor.vic_prompt(question, kind) for question in questions]
        texts, scores = self._decoded(prompts, pixels, 0, decoding)
        weights = [100 * math.exp(score) ** 3 for score in scores]
        pairs = list(zip(texts, weights, strict=True))
        return [pairs[start : start + beams] for start in range(0, len(pairs), beams)]

    def _decoded(
        self, prompts: list[str], pixels: torch.Tensor, seed: int, decoding: dict[str, Any]
    ) -> tuple[list[str], list[float]]:
        inputs = self.processor.encode_prompts(prompts).to(pixels.device)
        devices = [pixels.device] if pixels.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed)
            output = self.model.generate(
                pixel_values=pixels, **inputs, correct=False, **decoding, return_dict_in_generate=True
            )
        texts = self.processor.decode_texts(output.sequences[:, inputs["input_ids"].shape[1] :])
        scores = output.get("sequences_scores")
        return texts, [] if scores is None else scores.tolist()

    def _choose(self, draft: Sample, answers: list[tuple[str, float]]) -> None:
        """Keeps the heaviest answers that differ by more than capitals and a full stop."""
        kept: dict[str, tuple[str, float]] = {}
        for answer, weight in sorted(answers, key=lambda pair: -pair[1]):
            key = answer.lower().strip(" .")
            if key and key not in kept and weight >= self.threshold and len(kept) < self.count:
                kept[key] = (answer, weight)
        if not kept:
            heaviest = max((weight for _, weight in answers), default=0.0)
            draft.reason = f"no answer weighs {self.threshold:g} or more (the heaviest {heaviest:.3g})"
            return
        draft.answers, draft.weights = [answer for answer, _ in kept.values()], [weight for _, weight in kept.values()]
        draft.answer = draft.answers[0]


def read_first_words(path: Path) -> dict[str, float]:
    """How often each word begins a question, from a JSON object `{"What": 412, ...}`.

    Raises:
        GenerationError: It is none.
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
