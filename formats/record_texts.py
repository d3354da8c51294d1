"""What records of TRL and FineVision have in common: an image in a column, and questions and answers in turn."""

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
    """A row for each question with its answer.

    Raises:
        LayoutError: The record has several images, or a text is missing or blank.
    """
    pictures = record.get("images")
    if pictures is None:
        pictures = [record["image"]] if record.get("image") is not None else []
    if len(pictures) > 1:
        raise LayoutError(f"it has {len(pictures)} pictures, but a row holds one: leave it out")
    for turn, text in enumerate(texts):
        if not isinstance(text, Mapping):
            raise LayoutError(f"pair {turn} is {short(text)}, but an object with 'user' and 'assistant' is expected")
        for said in (text.get("user"), text.get("assistant")):
            if not isinstance(said, str) or not unmarked(said):
                raise LayoutError(f"pair {turn} has the text {short(said)}, which says nothing")
    return [
        {
            "image": pictures[0] if pictures else None,
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
    """The image of a conversation's rows, as the column `images` holds it."""
    return [rows[0]["image"]] if rows[0].get("image") is not None else []


def texts_of(rows: Sequence[Row], layout: str) -> list[tuple[str, str]]:
    """Question and answer of each row: as they were read, if they were read from this layout and are unchanged.

    Neither layout marks images in its texts, so that texts from elsewhere get no mark.
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
    """What a row's `extra` keeps of its record, with the texts that hold image marks; None if there is nothing."""
    raw = {role: said for role, said in text.items() if IMAGE_MARK in said}
    found = {**kept, **({"raw": raw} if raw else {})}
    return json.dumps({"layout": layout, **found}) if found else None


def raw_texts(row: Row, layout: str) -> dict[str, str]:
    """The texts with image marks that [`extra_of`] kept, by role, of a row that was read from this layout."""
    extra = read_extra(row)
    return extra.get("raw", {}) if extra.get("layout") == layout else {}
