"""VQA accuracy: agreement of an answer with human answers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import evaluate
import numpy as np

_DESCRIPTION = """\
VQA accuracy (Antol et al., 2015, https://arxiv.org/abs/1505.00468) as EvalAI computes it: prediction and answers are
normalised, and the prediction is compared with the human answers, leaving each of them out in turn:

    accuracy = mean over i of min(1, number of answers other than the i-th that equal the prediction / 3)

Used by VQAv2, OK-VQA (https://arxiv.org/abs/1906.00067) and A-OKVQA (https://arxiv.org/abs/2206.01718).
"""
_CITATION = """\
@inproceedings{antol2015vqa,
  title = {{VQA}: Visual Question Answering},
  author = {Antol, Stanislaw and Agrawal, Aishwarya and Lu, Jiasen and Mitchell, Margaret and Batra, Dhruv and
            Zitnick, C. Lawrence and Parikh, Devi},
  booktitle = {ICCV},
  year = {2015}
}
"""
_INPUTS = """
Args:
    predictions (list of str): One answer per question.
    references (list of list of str): The human answers to each question, at least two (usually ten), with repetitions.

Returns:
    accuracy (float): In %, 0 to 100. With ten answers, one that three people gave scores 90, one of four people 100.
    exact (float): In %, 0 to 100: min(1, equal answers / 3) without leaving any out and without normalising, as in
        A-OKVQA's script.

Examples:
    >>> metric = evaluate.load("vqa_accuracy")
    >>> metric.compute(predictions=["Two."], references=[["2"] * 3 + ["3"] * 7])
    {'accuracy': 90.0, 'exact': 0.0}
"""

_NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_NUMBERS = {"none": "0"} | {word: str(number) for number, word in enumerate(_NUMBER_WORDS)}
_ARTICLES = {"a", "an", "the"}
_PUNCTUATION = ';/[]"{}()=+\\_-><@`!'
_PERIOD = re.compile(r"\.(?!\d)")
# The published normaliser removes at most this many periods (it passes a flag as the count).
_MOST_PERIODS = 32

# Contractions in which a missing apostrophe is restored. The list is part of the metric.
_CONTRACTED = """
ain't aren't can't could've couldn't didn't doesn't don't hadn't hasn't haven't he'd he's how'd how'll how's isn't it'd
it'll ma'am mightn't might've mustn't must've needn't not've o'clock oughtn't shan't should've shouldn't somebody'll
somebody's someone'd someone'll someone's something'd something'll that's there'd there're there's they'd they'll
they're they've wasn't we've weren't what'll what're what's what've when's where'd where's where've who'd who'll who's
who've why'll why're why's won't would've wouldn't y'all you'd you'll you're you've 'twas couldn't've hadn't've he'd've
it'd've mightn't've she'd've shouldn't've somebody'd've someone'd've something'd've there'd've they'd've we'd've
who'd've wouldn't've y'all'll y'all'd've you'd've
"""
_SPELLINGS = {
    word[:at] + word[at + 1 :]: word for word in _CONTRACTED.split() for at, char in enumerate(word) if char == "'"
}
# Oddities of the published list.
_SPELLINGS |= {"somebody'd": "somebodyd", "ow's'at": "'ow's'at", "'ows'at": "'ow's'at", "'ow'sat": "'ow's'at"}


def normalize_answer(text: str) -> str:
    """Normalises an answer like EvalAI: lower case, digits for number words, no articles, little punctuation."""
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    text = text.replace("\n", " ").replace("\t", " ").strip()
    plain = text
    for mark in _PUNCTUATION:
        # A mark at the edge of a word is removed; a mark inside a word becomes a space.
        plain = plain.replace(mark, "" if f"{mark} " in text or f" {mark}" in text else " ")
    plain = _PERIOD.sub("", plain, count=_MOST_PERIODS)
    words = [_NUMBERS.get(word, word) for word in plain.split()]
    return " ".join(_SPELLINGS.get(word, word) for word in words if word not in _ARTICLES)


def counts(prediction: str, reference: Sequence[str]) -> dict[str, float]:
    """The counts of one question for [`figures`].

    Args:
        prediction: The answer.
        reference: The human answers.

    Raises:
        ValueError: There are fewer than two human answers.
    """
    if len(reference) < 2:
        raise ValueError(
            f"A question has {len(reference)} answers ({list(reference)!r}): give all human answers, at least two, "
            "because each is left out in turn."
        )
    said = normalize_answer(prediction)
    equal = [normalize_answer(answer) == said for answer in reference]
    others = [sum(equal) - same for same in equal]
    accuracy = sum(min(1.0, number / 3) for number in others) / len(others)
    exact = min(1.0, sum(answer == prediction for answer in reference) / 3)
    return {"questions": 1, "accuracy": accuracy, "exact": exact}


def figures(sums: Mapping[str, Any]) -> dict[str, float | np.ndarray]:
    """The metrics from summed [`counts`]: numbers give numbers, arrays (of many sums) give arrays of their shape."""
    return {name: _percent(sums[name], sums["questions"]) for name in ("accuracy", "exact")}


def _percent(part: Any, whole: Any) -> Any:
    part, whole = np.asarray(part, float), np.asarray(whole, float)
    return np.divide(100 * part, whole, out=np.full_like(whole, np.nan), where=whole != 0)


class VqaAccuracy(evaluate.Metric):
    """VQA accuracy as an `evaluate` module."""

    def _info(self) -> evaluate.MetricInfo:
        features = {"predictions": datasets.Value("string"), "references": datasets.Sequence(datasets.Value("string"))}
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features(features),
            reference_urls=["https://visualqa.org/evaluation.html"],
        )

    def _compute(self, predictions: list[str], references: list[list[str]]) -> dict[str, float]:
        if not predictions:
            raise ValueError("There are no predictions: give one for each reference.")
        rows = [counts(*pair) for pair in zip(predictions, references, strict=True)]
        sums = {name: sum(row[name] for row in rows) for name in rows[0]}
        return {name: float(value) for name, value in figures(sums).items()}
