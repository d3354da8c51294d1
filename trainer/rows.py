"""Reads training rows: columns with uniform types, weighted answers, and safely opened images."""

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

# The number of annotators per question in VQAv2 and OK-VQA.
_ANNOTATORS = 10
_NEEDED = ("image", "type", "question")
_STRING = datasets.Value("string")
# The columns of samples, and the ids that name rows. Published rows have no `answer` and no `id`; the `answers` of a
# generated row are null unless its task type has short answers.
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
    """Checks that samples can be made from `rows`, and returns the rows with undecoded images.

    Raises:
        TrainingError: Columns are missing, or there are no rows.
        ValueError: The task type of a row is unknown.
    """
    lacking = [name for name in _NEEDED if name not in rows.column_names]
    if not {"answers", "answer"} & set(rows.column_names):
        lacking.append("answers")
    if lacking:
        raise TrainingError(
            f"Dataset {index} has no {', '.join(lacking)}, only {', '.join(rows.column_names)}: training rows need "
            "the columns of vigc.processing.TRAIN_FEATURES."
        )
    if not len(rows):
        raise TrainingError(f"Dataset {index} is empty: there is nothing to train on.")
    for name in rows.unique("type"):
        instruction_type(name)
    # `open_image` decodes images later, with size limits and EXIF orientation.
    return rows.cast_column("image", datasets.Image(decode=False))


def aligned(rows: datasets.Dataset) -> datasets.Dataset:
    """The columns that samples need, cast to the same types, so that datasets can be concatenated."""
    rows = rows.select_columns([name for name in _FEATURES if name in rows.column_names])
    texts = [name for name in rows.column_names if name != "image"]
    if all(rows.features[name] == _FEATURES[name] for name in texts):
        return rows
    # A cast copies its columns, so images are excluded.
    cast = rows.select_columns(texts).cast(datasets.Features({name: _FEATURES[name] for name in texts}))
    return datasets.concatenate_datasets([rows.select_columns("image"), cast], axis=1)


def check_answers(rows: datasets.Dataset, index: int) -> None:
    """Checks the answers and weights of all rows before training.

    Raises:
        TrainingError: A row has no answer, or its weights do not fit its answers; the message names dataset and row.
    """
    wanted = ("question", "answers", "answer", "weights", "id", "conversation_id")
    columns = rows.select_columns([name for name in wanted if name in rows.column_names])
    for place, row in enumerate(columns):
        try:
            _weighted(row)
        except TrainingError as error:
            raise TrainingError(f"Dataset {index}, row {place}: {error}") from None


def answers_of(row: Mapping[str, Any]) -> list[str]:
    """All answers of a row. Generated rows of types with a single answer have only `answer`."""
    return _weighted(row)[0]


def draw_answer(row: Mapping[str, Any], rng: Random) -> str:
    """Draws an answer, in proportion to `weights` if the row has them, else uniformly from its answers."""
    answers, weights = _weighted(row)
    return rng.choice(answers) if weights is None else rng.choices(answers, weights)[0]


def likeliest_answer(row: Mapping[str, Any]) -> str:
    """The answer that [`draw_answer`] draws most often; the first one in a tie."""
    shares: dict[str, float] = {}
    answers, weights = _weighted(row)
    for answer, weight in zip(answers, weights or [1.0] * len(answers), strict=True):
        shares[answer] = shares.get(answer, 0.0) + weight
    return max(shares, key=shares.__getitem__)


def references_of(row: Mapping[str, Any]) -> list[str]:
    """The reference answers for generated text, duplicates included.

    Weighted answers are distinct. They are repeated as if given by ten annotators, which VQA accuracy expects.
    """
    answers, weights = _weighted(row)
    if weights is None:
        return answers
    counted = zip(answers, shares(_ANNOTATORS, weights), strict=True)
    return [answer for answer, count in counted for _ in range(count)]


def _weighted(row: Mapping[str, Any]) -> tuple[list[str], list[float] | None]:
    """A row's answers that are not empty, and their weights; None if it has no weights."""
    listed = row.get("answers") or []
    weights = (row.get("weights") or None) if listed else None
    texts = [(text or "").strip() for text in listed or [row.get("answer")]]
    kept = [place for place, text in enumerate(texts) if text]
    answers = [texts[place] for place in kept]
    if not answers:
        raise TrainingError(f"the question {row['question']!r} ({row_name(row)}) has no answer: remove this row.")
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
    """Whether the weights are finite, not negative, and not all 0."""
    return all(isinstance(one, (int, float)) and 0 <= one < math.inf for one in weights) and sum(weights) > 0


def row_name(row: Mapping[str, Any]) -> str:
    """The name of a row in messages: its id if it was generated, else that of its conversation."""
    return str(row.get("id") or row.get("conversation_id") or "without an id")


def open_row_image(row: Mapping[str, Any]) -> Image.Image:
    """Opens the image of an undecoded row; raises an `ImageError` with its name."""
    image = row["image"]
    return open_image(image["path"] if image["bytes"] is None else image["bytes"], name=image["path"])


def openable(rows: datasets.Dataset) -> datasets.Dataset:
    """Removes undecoded rows whose image cannot be opened; a warning names each such image.

    Raises:
        TrainingError: No image can be opened.
    """
    good, kept = {}, []
    for index, image in enumerate(rows["image"]):
        key = image["path"] if image["bytes"] is None else index
        if key not in good:
            try:
                open_row_image({"image": image})
            except ImageError as error:
                logger.warning("Skipped in evaluation: %s", error)
                good[key] = False
            else:
                good[key] = True
        kept += [index] if good[key] else []
    if not kept:
        raise TrainingError(f"None of the {len(rows)} images of evaluation rows can be opened: check the image folder.")
    return rows if len(kept) == len(rows) else rows.select(kept)


def source_of(rows: datasets.Dataset) -> str:
    """The sources of a dataset, from its column `source`."""
    names = rows.unique("source") if "source" in rows.column_names else []
    return ", ".join(sorted(str(name) for name in names if name)) or "unnamed"


def shares(total: int, weights: Sequence[float]) -> list[int]:
    """Integers in proportion to `weights` that add up to `total`, by the largest remainder method."""
    exact = [total * weight / sum(weights) for weight in weights]
    counts = [math.floor(share) for share in exact]
    by_remainder = sorted(range(len(exact)), key=lambda index: counts[index] - exact[index])
    for index in by_remainder[: total - sum(counts)]:
        counts[index] += 1
    return counts
