"""Rows as training reads them: columns of one type, answers with their weights, images opened safely."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

import datasets
from PIL import Image

from vigc.errors import ImageError, TrainingError
from vigc.processing import open_image
from vigc.processing.instructions_vigc import instruction_type

logger = logging.getLogger(__name__)

# As many as answered each question of VQAv2 and OK-VQA.
_ANNOTATORS = 10
_NEEDED = ("image", "type", "question")
_STRING = datasets.Value("string")
# What samples are made of and rows are named by. Published rows have no `answer` and no `id`; the `answers` of a
# generated row are null unless its type has short answers.
_FEATURES = datasets.Features(
    {
        "image": datasets.Image(decode=False),
        "type": _STRING,
        "question": _STRING,
        "answers": datasets.List(_STRING),
        "answer": _STRING,
        "weights": datasets.List(datasets.Value("float32")),
        "id": _STRING,
        "conversation_id": _STRING,
    }
)


def readable(rows: datasets.Dataset, index: int) -> datasets.Dataset:
    """`rows` with its images undecoded, once it is known that samples can be made of them.

    Raises:
        TrainingError: Columns are missing, or there are no rows.
        ValueError: A row's type of instruction is not known.
    """
    lacking = [name for name in _NEEDED if name not in rows.column_names]
    if not {"answers", "answer"} & set(rows.column_names):
        lacking.append("answers")
    if lacking:
        raise TrainingError(
            f"Data set {index} has no {', '.join(lacking)}, only {', '.join(rows.column_names)}: training rows have "
            "the columns of vigc.processing.TRAIN_FEATURES."
        )
    if not len(rows):
        raise TrainingError(f"Data set {index} is empty: there is nothing to draw from.")
    for name in rows.unique("type"):
        instruction_type(name)
    # Ours opens them, with limits on size and upright.
    return rows.cast_column("image", datasets.Image(decode=False))


def aligned(rows: datasets.Dataset) -> datasets.Dataset:
    """The columns of readable rows that samples are made of, each of one type, so that data sets can be joined."""
    rows = rows.select_columns([name for name in _FEATURES if name in rows.column_names])
    texts = [name for name in rows.column_names if name != "image"]
    if all(rows.features[name] == _FEATURES[name] for name in texts):
        return rows
    # A cast copies what it casts: images stay out of it.
    cast = rows.select_columns(texts).cast(datasets.Features({name: _FEATURES[name] for name in texts}))
    return datasets.concatenate_datasets([rows.select_columns("image"), cast], axis=1)


def check_answers(rows: datasets.Dataset, index: int) -> None:
    """Looks at the answers and weights of every row, before training meets them.

    Raises:
        TrainingError: A row has no answer, or weights that do not fit its answers; it names data set and row.
    """
    wanted = ("question", "answers", "answer", "weights", "id", "conversation_id")
    columns = rows.select_columns([name for name in wanted if name in rows.column_names])
    for place, row in enumerate(columns):
        try:
            _weighted(row)
        except TrainingError as error:
            raise TrainingError(f"Data set {index}, row {place}: {error}") from None


def answers_of(row: Mapping[str, Any]) -> list[str]:
    """All answers to choose from; a generated row of a type with a single answer has `answer` only."""
    return _weighted(row)[0]


def draw_answer(row: Mapping[str, Any], rng: Random) -> str:
    """One answer, drawn in proportion to `weights` where the row has them, and else as often as it is listed."""
    answers, weights = _weighted(row)
    return rng.choice(answers) if weights is None else rng.choices(answers, weights)[0]


def likeliest_answer(row: Mapping[str, Any]) -> str:
    """The answer that [`draw_answer`] draws most often; the first one of several."""
    shares: dict[str, float] = {}
    answers, weights = _weighted(row)
    for answer, weight in zip(answers, weights or [1.0] * len(answers), strict=True):
        shares[answer] = shares.get(answer, 0.0) + weight
    return max(shares, key=shares.__getitem__)


def references_of(row: Mapping[str, Any]) -> list[str]:
    """The answers that generated text is compared with, each as often as it was given.

    Weighted answers are all different; they are listed as ten annotators would have given them, which is what VQA
    accuracy counts.
    """
    answers, weights = _weighted(row)
    if weights is None:
        return answers
    counted = zip(answers, shares(_ANNOTATORS, weights), strict=True)
    return [answer for answer, count in counted for _ in range(count)]


def _weighted(row: Mapping[str, Any]) -> tuple[list[str], list[float] | None]:
    """A row's answers that are not empty, with their weights; None where it has none."""
    listed = row.get("answers") or []
    weights = (row.get("weights") or None) if listed else None
    texts = [(text or "").strip() for text in listed or [row.get("answer")]]
    kept = [place for place, text in enumerate(texts) if text]
    answers = [texts[place] for place in kept]
    if not answers:
        raise TrainingError(f"the question {row['question']!r} ({row_name(row)}) has no answer: drop this row.")
    if weights is None:
        return answers, None
    numbers = [weights[place] for place in kept] if len(weights) == len(texts) else []
    if not _can_be_drawn(numbers):
        raise TrainingError(
            f"the weights {weights} of {row_name(row)} do not fit its {len(texts)} answers: give one number, 0 or "
            "more, for each, at least one of them above 0, or none at all."
        )
    return answers, numbers


def _can_be_drawn(weights: Sequence[Any]) -> bool:
    """Whether these are finite numbers, none below 0 and not all of them 0."""
    return all(isinstance(one, (int, float)) and 0 <= one < math.inf for one in weights) and sum(weights) > 0


def row_name(row: Mapping[str, Any]) -> str:
    """What a row is called: its id if it was generated, else its conversation."""
    return str(row.get("id") or row.get("conversation_id") or "without an id")


def open_row_image(row: Mapping[str, Any]) -> Image.Image:
    """The image of an undecoded row; raises `ImageError` with its name."""
    image = row["image"]
    return open_image(image["path"] if image["bytes"] is None else image["bytes"], name=image["path"])


def openable(rows: datasets.Dataset) -> datasets.Dataset:
    """Undecoded rows without those whose image cannot be opened; a warning names each such image.

    Raises:
        TrainingError: None can.
    """
    good, kept = {}, []
    for index, image in enumerate(rows["image"]):
        key = image["path"] if image["bytes"] is None else index
        if key not in good:
            try:
                open_row_image({"image": image})
            except ImageError as error:
                logger.warning("Left out of evaluation: %s", error)
                good[key] = False
            else:
                good[key] = True
        kept += [index] if good[key] else []
    if not kept:
        raise TrainingError(f"None of the {len(rows)} pictures of evaluation rows can be opened: is this their folder?")
    return rows if len(kept) == len(rows) else rows.select(kept)


def source_of(rows: datasets.Dataset) -> str:
    """Where a data set's rows come from, as they say."""
    names = rows.unique("source") if "source" in rows.column_names else []
    return ", ".join(sorted(str(name) for name in names if name)) or "unnamed"


def shares(total: int, weights: Sequence[float]) -> list[int]:
    """Whole numbers in proportion to `weights` that add up to `total`: the largest remainders are rounded up."""
    exact = [total * weight / sum(weights) for weight in weights]
    counts = [math.floor(share) for share in exact]
    by_remainder = sorted(range(len(exact)), key=lambda index: counts[index] - exact[index])
    for index in by_remainder[: total - sum(counts)]:
        counts[index] += 1
    return counts
