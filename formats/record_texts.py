"""Shared code for records of TRL and FineVision: an image column, and alternating questions and answers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from vigc.errors import LayoutError, short
from vigc.processing.rows import Record, Row

from .image_marks import IMAGE_MARK, filled_turns, unmarked, without_marks
from .llava import answer_of, read_extra


def rows_of_texts(
    record: Row, texts: Sequence[Mapping[str, str]], conversation_id: str, origin: Mapping[str, Any]
) -> list[Record]:
    """One row for each question with its answer.

    Raises:
        LayoutError: The record has several images, or a text is missing or blank.
    """
    images = record.get("images")
    if images is None:
        images = [record["image"]] if record.get("image") is not None else []
    if len(images) > 1:
        raise LayoutError(f"it has {len(images)} images, but a row has only one: remove the record")
    for turn, text in enumerate(texts):
        if not isinstance(text, Mapping):
            raise LayoutError(f"pair {turn} is {short(text)}, but an object with 'user' and 'assistant' is expected")
        for content in (text.get("user"), text.get("assistant")):
            if not isinstance(content, str) or not unmarked(content):
                raise LayoutError(f"pair {turn} has the text {short(content)}, which is empty or not text")
    return [
        {
            "image": images[0] if images else None,
            "image_id": record.get("image_id"),
            "question": without_marks(text["user"]),
            "answers": [without_marks(text["assistant"])],
            "weights": None,
            **origin,
            "conversation_id": conversation_id,
            "turn": turn,
            "extra": None,
        }
        for turn, text in enumerate(texts)
    ]


def images_of(rows: Sequence[Row]) -> list[Any]:
    """The image of a conversation's rows, as a value of the column `images`."""
    return [rows[0]["image"]] if rows[0].get("image") is not None else []


def texts_of(rows: Sequence[Row], layout: str) -> list[tuple[str, str]]:
    """(question, answer) of each row. Texts that were read from this layout and are unchanged keep their image marks.

    Texts from other layouts get no mark, because this layout does not need any.
    """
    turns = []
    for row in rows:
        raw = raw_texts(row, layout)
        turns += [
            (raw.get(role, [""] * 2), text) for role, text in (("user", row["question"]), ("assistant", answer_of(row)))
        ]
    values = filled_turns(turns, image=bool(images_of(rows)))
    return list(zip(values[::2], values[1::2], strict=True))


def extra_of(layout: str, text: Mapping[str, str], kept: Mapping[str, Any]) -> str | None:
    """A row's `extra`: the fields `kept`, and the original texts if they have image marks; None if it is empty."""
    raw = {role: content for role, content in text.items() if IMAGE_MARK in content}
    found = {**kept, **({"raw": raw} if raw else {})}
    return json.dumps({"layout": layout, **found}) if found else None


def raw_texts(row: Row, layout: str) -> dict[str, str]:
    """The texts with image marks, by role, that [`extra_of`] kept for a row that was read from this layout."""
    extra = read_extra(row)
    return extra.get("raw", {}) if extra.get("layout") == layout else {}
