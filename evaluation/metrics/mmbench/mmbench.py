"""MMBench: multiple choice that must be right for all rotations of the options, by ability."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import evaluate
import numpy as np

_DESCRIPTION = """\
MMBench (Liu et al., 2023, https://arxiv.org/abs/2307.06281): questions with two to four options. CircularEval asks each
one as often as it has options, rotated; it counts as solved only if every rotation is answered right. Rotations of a
question share its `index` modulo 1,000,000, as in the published files.

A prediction is read as the authors' rules read it without a language model: a lone letter (A, B., (C), :D), where a
bare "A" in more than three words is taken for an article, else the option whose text it is, else the only one whose
text it holds. What fits none of these is wrong.
"""
_CITATION = """\
@article{liu2023mmbench,
  title = {{MMBench}: Is Your Multi-modal Model an All-around Player?},
  author = {Liu, Yuan and Duan, Haodong and Zhang, Yuanhan and Li, Bo and Zhang, Songyang and Zhao, Wangbo and
            Yuan, Yike and Wang, Jiaqi and He, Conghui and Liu, Ziwei and Chen, Kai and Lin, Dahua},
  journal = {arXiv:2307.06281},
  year = {2023}
}
"""
_INPUTS = """
Args:
    predictions (list of str): The model's answer to each row.
    references (list of dict): The row's `index`, `answer` (a letter), `l2-category` (the ability) and options `A`, `B`,
        `C`, `D` (empty where there are fewer), as in the published files.

Returns (all in %, 0 to 100; NaN for abilities without questions):
    overall (float): Questions solved under CircularEval.
    LR, AR, RR, FP-S, FP-C, CP (float): The same by ability: logic, attribute and relation reasoning, fine-grained
        perception of a single instance and across instances, coarse perception.
    vanilla (float): Questions answered right as they are, without rotations.
    unmatched (float): Rows whose prediction names no option.

Examples:
    >>> metric = evaluate.load("mmbench")
    >>> row = {"answer": "A", "l2-category": "coarse_perception", "A": "cat", "B": "dog", "C": "", "D": ""}
    >>> rows = [{"index": 7, **row}, {"index": 1000007, **row, "answer": "B", "A": "dog", "B": "cat"}]
    >>> metric.compute(predictions=["A", "(B)"], references=rows)["overall"]
    100.0
"""

ROTATION = 1_000_000
LETTERS = ("A", "B", "C", "D")
ABILITIES = {
    "logic_reasoning": "LR",
    "attribute_reasoning": "AR",
    "relation_reasoning": "RR",
    "finegrained_perception (instance-level)": "FP-S",
    "finegrained_perception (cross-instance)": "FP-C",
    "coarse_perception": "CP",
}
# Characters around a letter, tried in this order.
_AROUND = (
    *(("", ""), ("", "."), ("", ","), ("", ":"), ("", ")"), ("", ")."), ("(", ")"), ("(", ").")),
    *((":", ""), (":", ","), (":", "."), (":", ")"), (":", ").")),
)


def read_choice(text: str, options: Mapping[str, str]) -> str | None:
    """The letter of the option in an answer; None if there is none or more than one."""
    words = text.split()
    for before, after in _AROUND:
        found = [letter for letter in options if f"{before}{letter}{after}" in words]
        is_article = found == ["A"] and not before and not after and len(words) > 3
        if len(found) == 1 and not is_article:
            return found[0]
    said = text.strip().lower()
    same = [letter for letter, option in options.items() if option.lower() == said]
    found = same or [letter for letter, option in options.items() if option.lower() in said]
    return found[0] if len(found) == 1 else None


def options_of(row: Mapping[str, Any]) -> dict[str, str]:
    """The non-empty options of a row by letter."""
    return {letter: str(row[letter]) for letter in LETTERS if row.get(letter) not in (None, "")}


def ability_of(row: Mapping[str, Any]) -> str:
    """The short name of a row's ability.

    Raises:
        ValueError: The ability is not in `ABILITIES`.
    """
    name = row["l2-category"]
    if name not in ABILITIES:
        raise ValueError(f"'l2-category' {name!r} of row {row['index']} is not known: use {', '.join(ABILITIES)}.")
    return ABILITIES[name]


def counts(predictions: Sequence[str], references: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The counts of one question with all its rotations for [`figures`].

    Args:
        predictions: The answers to its rows.
        references: The rows.

    Raises:
        ValueError: A reference answer is not an option, an ability is unknown, or the unrotated row is missing.
    """
    read = [read_choice(text, options_of(row)) for text, row in zip(predictions, references, strict=True)]
    for row in references:
        if row["answer"] not in options_of(row):
            raise ValueError(f"'answer' {row['answer']!r} of row {row['index']} is none of its options: get the file.")
    right = [said == row["answer"] for said, row in zip(read, references, strict=True)]
    first = [good for good, row in zip(right, references, strict=True) if row["index"] < ROTATION]
    if len(first) != 1:
        raise ValueError(
            f"Question {references[0]['index'] % ROTATION} has {len(first)} rows with its own index, but one and its "
            f"rotations (index + n * {ROTATION:,}) are expected."
        )
    found: dict[str, float] = {"questions": 1, "overall": all(right), "vanilla": first[0], "rows": len(read)}
    found["unmatched"] = read.count(None)
    ability = ability_of(references[0])
    for name in ABILITIES.values():
        found[f"questions_{name}"] = name == ability
        found[name] = name == ability and all(right)
    return found


def figures(sums: Mapping[str, Any]) -> dict[str, float | np.ndarray]:
    """The metrics from summed [`counts`]: numbers give numbers, arrays (of many sums) give arrays of their shape."""
    found = {"overall": _percent(sums["overall"], sums["questions"])}
    found |= {name: _percent(sums[name], sums[f"questions_{name}"]) for name in ABILITIES.values()}
    found["vanilla"] = _percent(sums["vanilla"], sums["questions"])
    found["unmatched"] = _percent(sums["unmatched"], sums["rows"])
    return found


def _percent(part: Any, whole: Any) -> Any:
    part, whole = np.asarray(part, float), np.asarray(whole, float)
    return np.divide(100 * part, whole, out=np.full_like(whole, np.nan), where=whole != 0)


class Mmbench(evaluate.Metric):
    """MMBench as an `evaluate` module."""

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        row = {"index": datasets.Value("int64"), "answer": text, "l2-category": text, **dict.fromkeys(LETTERS, text)}
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": text, "references": row}),
            reference_urls=["https://github.com/open-compass/MMBench"],
        )

    def _compute(self, predictions: list[str], references: list[dict[str, Any]]) -> dict[str, float]:
        if not predictions:
            raise ValueError("There are no predictions: give one for each reference.")
        questions: dict[int, list[tuple[str, dict[str, Any]]]] = defaultdict(list)
        for text, row in zip(predictions, references, strict=True):
            questions[row["index"] % ROTATION].append((text, row))
        rows = [counts([text for text, _ in group], [row for _, row in group]) for group in questions.values()]
        sums = {name: sum(row[name] for row in rows) for name in rows[0]}
        return {name: float(value) for name, value in figures(sums).items()}
