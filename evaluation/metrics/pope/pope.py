"""POPE: object hallucination in answers to yes-no questions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import datasets
import evaluate
import numpy as np

_DESCRIPTION = """\
POPE, Polling-based Object Probing Evaluation (Li et al., 2023, https://arxiv.org/abs/2305.10355): questions whether an
object is in an image. Half of them are about absent objects, sampled at random, by frequency (popular), or by
co-occurrence with present objects (adversarial).

An answer counts as "no" if its first sentence (up to the first period) has the word No, no or not, else as "yes", as in
the authors' script. "Yes" is the positive class.
"""
_CITATION = """\
@inproceedings{li2023pope,
  title = {Evaluating Object Hallucination in Large Vision-Language Models},
  author = {Li, Yifan and Du, Yifan and Zhou, Kun and Wang, Jinpeng and Zhao, Wayne Xin and Wen, Ji-Rong},
  booktitle = {EMNLP},
  year = {2023}
}
"""
_INPUTS = """
Args:
    predictions (list of str): The model's answers.
    references (list of str): "yes" if the object is in the image, else "no".

Returns (all in %, 0 to 100; NaN where undefined):
    accuracy (float): Right answers.
    precision (float): Right answers among the answers "yes".
    recall (float): Answers "yes" to questions about present objects.
    f1 (float): Harmonic mean of precision and recall.
    yes_ratio (float): Answers "yes"; 50 for a perfect model on balanced questions.
    unclear (float): Answers with neither yes nor no, which count as "yes" by the rule above.

Examples:
    >>> metric = evaluate.load("pope")
    >>> metric.compute(predictions=["Yes, there is.", "There is no dog."], references=["yes", "yes"])["recall"]
    50.0
"""

LABELS = ("yes", "no")
_NO = {"No", "no", "not"}


def read_answer(text: str) -> str:
    """Parses an answer as "yes" or "no", like the authors' script."""
    words = text.split(".")[0].replace(",", "").split(" ")
    return "no" if _NO & set(words) else "yes"


def counts(prediction: str, reference: str) -> dict[str, float]:
    """The counts of one question for [`figures`].

    Args:
        prediction: The answer.
        reference: "yes" or "no".

    Raises:
        ValueError: The reference is neither "yes" nor "no".
    """
    if reference not in LABELS:
        raise ValueError(f"The reference {reference!r} is neither 'yes' nor 'no': give one of these for each question.")
    said = read_answer(prediction)
    clear = re.search(r"\b(yes|no|not)\b", prediction, re.IGNORECASE)
    return {
        "questions": 1,
        "true_yes": said == "yes" == reference,
        "false_yes": said == "yes" != reference,
        "true_no": said == "no" == reference,
        "false_no": said == "no" != reference,
        "unclear": not clear,
    }


def figures(sums: Mapping[str, Any]) -> dict[str, float | np.ndarray]:
    """The metrics from summed [`counts`]: numbers give numbers, arrays (of many sums) give arrays of their shape."""
    right, yes = sums["true_yes"], sums["true_yes"] + sums["false_yes"]
    there = sums["true_yes"] + sums["false_no"]
    return {
        "accuracy": _percent(right + sums["true_no"], sums["questions"]),
        "precision": _percent(right, yes),
        "recall": _percent(right, there),
        "f1": _percent(2 * right, yes + there),
        "yes_ratio": _percent(yes, sums["questions"]),
        "unclear": _percent(sums["unclear"], sums["questions"]),
    }


def _percent(part: Any, whole: Any) -> Any:
    part, whole = np.asarray(part, float), np.asarray(whole, float)
    return np.divide(100 * part, whole, out=np.full_like(whole, np.nan), where=whole != 0)


class Pope(evaluate.Metric):
    """POPE as an `evaluate` module."""

    def _info(self) -> evaluate.MetricInfo:
        features = {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features(features),
            reference_urls=["https://arxiv.org/abs/2305.10355"],
        )

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, float]:
        if not predictions:
            raise ValueError("There are no predictions: give one for each reference.")
        rows = [counts(*pair) for pair in zip(predictions, references, strict=True)]
        sums = {name: sum(row[name] for row in rows) for name in rows[0]}
        return {name: float(value) for name, value in figures(sums).items()}
