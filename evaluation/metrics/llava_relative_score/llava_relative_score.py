"""LLaVA-eval: a judge's scores of a model's answers relative to the reference answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import datasets
import evaluate
import numpy as np

_DESCRIPTION = """\
The relative score of LLaVA-Bench (Liu et al., 2023, https://arxiv.org/abs/2304.08485): a judge gives 1 to 10 to a
reference answer and to the model's answer, and

    relative score = 100 * mean(model's scores) / mean(reference's scores)

over all questions and by category (conv, detail, complex). A review without two readable scores is kept as -1 and -1
and averaged in, as in the authors' scripts; metrics ending in `_parsed` exclude it.
"""
_CITATION = """\
@inproceedings{liu2023llava,
  title = {Visual Instruction Tuning},
  author = {Liu, Haotian and Li, Chunyuan and Wu, Qingyang and Lee, Yong Jae},
  booktitle = {NeurIPS},
  year = {2023}
}
"""
_INPUTS = """
Args:
    predictions (list of float): The judge's scores of the model's answers, 1 to 10; -1 if a review was not readable.
    references (list of float): The scores of the reference answers; -1 if a review was not readable.
    categories (list of str): "conv", "detail" or "complex".

Returns (NaN where undefined):
    all, conv, detail, complex (float): Relative scores in %, about 10 to 1000, 100 being as good as the reference.
    all_parsed, conv_parsed, detail_parsed, complex_parsed (float): The same without failed reviews.
    failed (float): Failed reviews, in %.

Examples:
    >>> metric = evaluate.load("llava_relative_score")
    >>> metric.compute(predictions=[8.0], references=[10.0], categories=["conv"])["conv"]
    80.0
"""

CATEGORIES = ("conv", "detail", "complex")
FAILED = -1.0


def counts(prediction: float, reference: float, category: str) -> dict[str, float]:
    """The counts of one review for [`figures`].

    Args:
        prediction: The model's score.
        reference: The reference's score.
        category: One of `CATEGORIES`.

    Raises:
        ValueError: Negative scores that are not both -1, or an unknown category.
    """
    if category not in CATEGORIES:
        raise ValueError(f"The category {category!r} is not known: use {', '.join(CATEGORIES)}.")
    failed = prediction == reference == FAILED
    if not failed and not (prediction >= 0 and reference >= 0):
        raise ValueError(
            f"The scores {prediction!r} and {reference!r} are no scores: give numbers of at least 0, or -1 for both if "
            "a review could not be read."
        )
    row: dict[str, float] = {"reviews": 1, "failed": failed}
    for name in ("all", *CATEGORIES):
        taken = name in ("all", category)
        row[f"model_{name}"], row[f"reference_{name}"] = prediction * taken, reference * taken
        taken = taken and not failed
        row[f"model_{name}_parsed"], row[f"reference_{name}_parsed"] = prediction * taken, reference * taken
    return row


def figures(sums: Mapping[str, Any]) -> dict[str, float | np.ndarray]:
    """The metrics from summed [`counts`]: numbers give numbers, arrays (of many sums) give arrays of their shape."""
    names = ("all", *CATEGORIES)
    found = {name: _percent(sums[f"model_{name}"], sums[f"reference_{name}"]) for name in names}
    found |= {
        f"{name}_parsed": _percent(sums[f"model_{name}_parsed"], sums[f"reference_{name}_parsed"]) for name in names
    }
    return {**found, "failed": _percent(sums["failed"], sums["reviews"])}


def _percent(part: Any, whole: Any) -> Any:
    part, whole = np.asarray(part, float), np.asarray(whole, float)
    return np.divide(100 * part, whole, out=np.full_like(whole, np.nan), where=whole != 0)


class LlavaRelativeScore(evaluate.Metric):
    """The relative score as an `evaluate` module."""

    def _info(self) -> evaluate.MetricInfo:
        number, text = datasets.Value("float64"), datasets.Value("string")
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": number, "references": number, "categories": text}),
            reference_urls=["https://github.com/haotian-liu/LLaVA"],
        )

    def _compute(self, predictions: list[float], references: list[float], categories: list[str]) -> dict[str, float]:
        if not predictions:
            raise ValueError("There are no predictions: give one for each reference.")
        rows = [counts(*row) for row in zip(predictions, references, categories, strict=True)]
        sums = {name: sum(row[name] for row in rows) for name in rows[0]}
        return {name: float(value) for name, value in figures(sums).items()}
