"""Reads and writes FineVision's columns: questions with answers, and ratings of each pair."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence

from datasets import Features, Image, List, Value

from vigc.errors import LayoutError
from vigc.processing.rows import Record, Row

from .base import Format, Writing
from .llava import read_extra
from .record_texts import extra_of, images_of, rows_of_texts, texts_of

RATINGS = ("relevance", "image_correspondence", "visual_dependency", "formatting")

_STRING = Value("string")
FINEVISION_FEATURES = Features(
    {
        "images": List(Image()),
        "texts": List({"user": _STRING, "assistant": _STRING}),
        "source": _STRING,
        **{f"{name}_ratings": List(Value("int64")) for name in RATINGS},
        **{f"{name}_min": Value("int64") for name in RATINGS},
    }
)


def finevision_record(rows: Sequence[Row]) -> Record:
    """A conversation in FineVision's columns.

    A pair has the ratings that it was read with, unless its texts have changed since.
    """
    texts = [{"user": question, "assistant": answer} for question, answer in texts_of(rows, "finevision")]
    rated = [_kept_ratings(row, text) for row, text in zip(rows, texts, strict=True)]
    record: Record = {"images": images_of(rows), "texts": texts, "source": rows[0]["source"]}
    for name in RATINGS:
        ratings = [given.get(name) for given in rated]
        known = [rating for rating in ratings if rating is not None]
        record[f"{name}_ratings"] = ratings if known else None
        record[f"{name}_min"] = min(known) if known else None
    return record


def rows_from_finevision(record: Row, *, conversation_id: str, type: str, license: str | None = None) -> list[Record]:
    """Rows of a FineVision record, one for each of its `texts`; ratings go into `extra`.

    Raises:
        LayoutError: The record has another layout, several images, or no text.
    """
    texts = record.get("texts")
    if not texts:
        raise LayoutError(f"'texts' is {texts!r}, but a list of questions with answers is expected")
    rows = rows_of_texts(
        record, texts, conversation_id, {"type": type, "source": record.get("source"), "license": license}
    )
    rated = {name: record.get(f"{name}_ratings") or [None] * len(texts) for name in RATINGS}
    for name, ratings in rated.items():
        if len(ratings) != len(texts):
            raise LayoutError(f"'{name}_ratings' has {len(ratings)} numbers for {len(texts)} texts")
    for turn, (row, text) in enumerate(zip(rows, texts, strict=True)):
        given = {name: ratings[turn] for name, ratings in rated.items()}
        known = any(rating is not None for rating in given.values())
        row["extra"] = extra_of("finevision", text, {"ratings": given, "rated": _digest(text)} if known else {})
    return rows


def _kept_ratings(row: Row, text: Mapping[str, str]) -> dict[str, int | None]:
    extra = read_extra(row)
    rated = extra.get("layout") == "finevision" and extra.get("rated") == _digest(text)
    return extra["ratings"] if rated else {}


def _digest(text: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps([text["user"], text["assistant"]]).encode()).hexdigest()[:16]


def _write(rows: Sequence[Row], how: Writing) -> Iterator[Record]:
    yield finevision_record(rows)


FINEVISION = Format(
    "finevision",
    "FineVision's columns",
    _write,
    rows=rows_from_finevision,
    features=FINEVISION_FEATURES,
    note="Ratings are empty unless the texts were read with ratings and have not changed since.",
)
