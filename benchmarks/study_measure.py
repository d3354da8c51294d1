"""What the study counts of one model: texts about held-out scenes against their truth, scene by scene.

Counts are kept by scene, so that intervals can be computed, and paired, long after the model is gone.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import cache
from typing import Any

import torch
from measure import Subject, count, probe_figures
from transformers import LogitsProcessor

from vigc.scenes.checker import check
from vigc.scenes.splits import HELD_OUT_SEED
from vigc.scenes.world import Scene, sample_scenes

SPLITS = {"typical": False, "unusual": True}
# How a description comes about; "wrong" is with another scene's picture.
CONDITIONS = ("VIG", "VIC", "VIC, instruction", "IQF", "IQF, instruction", "VIG, wrong", "VIC, wrong", "IQF, wrong")
# What of a description is kept by scene, in the order of its row.
COUNTS = ("texts", "false", "mentions", "hallucinated", "sound", "kinds", "covered", "color", "size", "place")
# Descriptions are told apart up to this sentence; the opening is number 0.
SENTENCES = 6
# Left alone, greedy VIG asks everybody how many there are; so it is given first words in turn.
FIRST_WORDS = ("What", "Which", "How", "Is", "Can", "Where")


class FirstWords(LogitsProcessor):
    """Begins each row's question with the next of `FIRST_WORDS`; answers are left alone."""

    def __init__(self, tokenizer: Any) -> None:
        ids = tokenizer([f" Question: {word}" for word in FIRST_WORDS], add_special_tokens=False)["input_ids"]
        self.start, self.words = ids[0][:-1], [row[-1] for row in ids]

    def __call__(self, input_ids: torch.LongTensor, scores: torch.Tensor) -> torch.Tensor:
        """Scores, float (B, vocabulary), that leave one word where a row of int64 (B, T) has come to its question."""
        for row, written in enumerate(input_ids.tolist()):
            if written == self.start:
                word = self.words[row % len(self.words)]
                kept = scores[row, word].clone()
                scores[row] = -torch.inf
                scores[row, word] = kept
        return scores


def measure(subject: Subject, scenes: int, kept: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """All counts of a model on as many typical and unusual scenes.

    Args:
        subject: The model.
        scenes: How many of each sort.
        kept: What was measured of it before; only descriptions in further conditions are added.
    """
    result: dict[str, Any] = {}
    for split, unusual in SPLITS.items():
        world = sample_scenes(HELD_OUT_SEED, scenes, unusual)
        embeds = subject.embed(world)
        found = dict(kept[split]) if kept else {}
        described = found.get("descriptions", {})
        found["descriptions"] = described | descriptions(subject, world, embeds, set(CONDITIONS) - set(described))
        if not kept:
            found["direct"] = probe_figures(subject, world, embeds)
            found["conversations"] = conversations(subject, world, embeds)
        result[split] = found
    return result


def descriptions(
    subject: Subject, scenes: list[Scene], embeds: torch.Tensor, conditions: Collection[str] = CONDITIONS
) -> dict[str, Any]:
    """By condition, what each scene's description says right and wrong; "wrong" ones saw another scene's picture."""
    tasks = ["detail"] * len(scenes)
    true = cache(lambda: subject.pairs(embeds, tasks))
    wrong = cache(lambda: subject.pairs(embeds.roll(1, 0), tasks))

    def vic(steps: int, prompt: str) -> list[str | None]:
        return subject.answer(embeds, true()["questions"], "detail", steps, prompt)

    texts: dict[str, Callable[[], list[str | None]]] = {
        "VIG": lambda: true()["drafts"],
        "VIC": lambda: true()["answers"],
        "VIC, instruction": lambda: vic(0, "instruction"),
        "IQF": lambda: vic(-1, "question"),
        "IQF, instruction": lambda: vic(-1, "instruction"),
        "VIG, wrong": lambda: wrong()["drafts"],
        "VIC, wrong": lambda: wrong()["answers"],
        "IQF, wrong": lambda: subject.answer(embeds.roll(1, 0), wrong()["questions"], "detail", -1),
    }
    asked = {name: wrong if name.endswith("wrong") else true for name in conditions}
    return {name: _described(scenes, texts[name](), asked[name]()["questions"]) for name in CONDITIONS if name in asked}


def _described(scenes: list[Scene], texts: list[str | None], questions: list[str | None]) -> dict[str, Any]:
    rows, sentences = [], []
    for text, scene, question in zip(texts, scenes, questions, strict=True):
        counts = count(text, scene, question)
        rows.append([counts[name] for name in COUNTS])
        report = check(text or "", scene, question or "")
        sentences.append([_by_sentence(report.mentions), _by_sentence(report.hallucinated)])
    return {"counts": rows, "sentences": sentences, "first": texts[0]}


def _by_sentence(claims: list[Any]) -> list[int]:
    numbers = [min(claim.sentence, SENTENCES - 1) for claim in claims]
    return [numbers.count(number) for number in range(SENTENCES)]


def conversations(subject: Subject, scenes: list[Scene], embeds: torch.Tensor) -> dict[str, list[int | None]]:
    """By condition, whether each answer to VIG's own question is right; None where VIG wrote no pair.

    Right is an answer that claims something, and nothing wrong: a question about what is not there has no right
    answer but the one that says so. The wrong pictures are shown to VIC with the questions of the true ones.
    """
    words = FirstWords(subject.processor.tokenizer)
    pairs = subject.pairs(embeds, ["conversation"] * len(scenes), logits_processor=[words])
    questions = pairs["questions"]

    def vic(shown: torch.Tensor, prompt: str) -> list[str | None]:
        return subject.answer(shown, questions, "conversation", 0, prompt)

    answers = {
        "VIG": pairs["drafts"],
        "VIC": pairs["answers"],
        "VIC, instruction": vic(embeds, "instruction"),
        "VIC, wrong": vic(embeds.roll(1, 0), "question"),
    }
    return {
        name: [_right(*row) for row in zip(texts, scenes, questions, strict=True)] for name, texts in answers.items()
    }


def _right(text: str | None, scene: Scene, question: str | None) -> int | None:
    if question is None:
        return None
    report = check(text or "", scene, question)
    return int(bool(report.claims) and not report.mistakes)
