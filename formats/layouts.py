"""What a conversation's rows are in TRL's and FineVision's columns, and rows from such records."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from datasets import Features, Image, List, Value

from vigc.errors import LayoutError, cut, short
from vigc.processing.rows import to_messages

from .image_marks import IMAGE_MARK, filled_turns, unmarked, without_marks
from .llava import answer_of, read_extra
from .preferences import PreferenceRule

_STRING = Value("string")
_CHAT = List({"role": _STRING, "content": _STRING})
# Beside what TRL reads: where a record comes from and what may be done with it.
_ORIGIN = {"id": _STRING, "type": _STRING, "source": _STRING, "license": _STRING}
_RATINGS = ("relevance", "image_correspondence", "visual_dependency", "formatting")

SFT_FEATURES = Features({"images": List(Image()), "messages": _CHAT, **_ORIGIN})
DPO_FEATURES = Features({"images": List(Image()), "prompt": _CHAT, "chosen": _CHAT, "rejected": _CHAT, **_ORIGIN})
FINEVISION_FEATURES = Features(
    {
        "images": List(Image()),
        "texts": List({"user": _STRING, "assistant": _STRING}),
        "source": _STRING,
        **{f"{name}_ratings": List(Value("int64")) for name in _RATINGS},
        **{f"{name}_min": Value("int64") for name in _RATINGS},
    }
)

Row = Mapping[str, Any]


def sft_record(rows: Sequence[Row]) -> dict[str, Any]:
    """A conversation as TRL's `SFTTrainer` takes it: its picture in `images`, all its turns in `messages`.

    One that was read from TRL's columns has its id, its type and its system message again.
    """
    return {"images": _images(rows), "messages": [*_system(rows[0]), *_chat(rows)], **_origin(rows[0])}


def dpo_records(rows: Sequence[Row], rule: PreferenceRule) -> Iterator[dict[str, Any] | str]:
    """Of each row of a conversation the preference pair, or the reason why there is none.

    The prompt of a later turn holds the turns before it as they were corrected.
    """
    chat = _chat(rows)
    for turn, row in enumerate(rows):
        if reason := rule.refusal(row):
            yield reason
            continue
        *before, chosen = chat[: 2 * turn + 2]
        yield {
            "images": _images(rows),
            "prompt": [*_system(row), *before],
            "chosen": [chosen],
            "rejected": [{**chosen, "content": _rejected(row)}],
            **_origin(row),
            **({"id": row["id"]} if row.get("id") else {}),  # its own: a conversation may make several pairs
        }


def finevision_record(rows: Sequence[Row]) -> dict[str, Any]:
    """A conversation in FineVision's columns.

    Ratings are those that it was read with, where its texts are still the same; of other texts nobody gave any.
    """
    texts = [{"user": asked, "assistant": said} for asked, said in _texts(rows, "finevision")]
    rated = [_kept_ratings(row, text) for row, text in zip(rows, texts, strict=True)]
    record: dict[str, Any] = {"images": _images(rows), "texts": texts, "source": rows[0]["source"]}
    for name in _RATINGS:
        ratings = [given.get(name) for given in rated]
        known = [rating for rating in ratings if rating is not None]
        record[f"{name}_ratings"] = ratings if known else None
        record[f"{name}_min"] = min(known) if known else None
    return record


def rows_from_trl(record: Row, *, conversation_id: str, type: str | None = None) -> list[dict[str, Any]]:
    """Rows of a record for TRL: `messages`, `prompt` and `completion`, or `prompt`, `chosen` and `rejected`.

    What was rejected becomes the `draft` of a conversation's last row. Id, type, system message and rejected answer are
    kept in `extra`.

    Args:
        record: The record, with `images` or `image`; contents as text or in typed parts.
        conversation_id: Names the record among all.
        type: The type of instruction, where the record does not say it.

    Raises:
        LayoutError: The record is of another layout, has several pictures, or no question with an answer.
    """
    turns, rejected = _turns(record)
    system = turns.pop(0)[1] if turns and turns[0][0] == "system" else None
    roles = [role for role, _ in turns]
    if not turns or roles != ["user", "assistant"] * (len(turns) // 2):
        raise LayoutError(f"its turns are those of {short(roles)}, but 'user' and 'assistant' by turns are expected")
    texts = [{"user": asked[1], "assistant": said[1]} for asked, said in zip(turns[::2], turns[1::2], strict=True)]
    origin = {"type": record.get("type") or type, "source": record.get("source"), "license": record.get("license")}
    rows = _rows(record, texts, conversation_id, origin)
    own = {"id": record.get("id"), "type": record.get("type"), "system": system, "rejected": rejected}
    kept = {name: str(value) for name, value in own.items() if value is not None}
    for row, text in zip(rows, texts, strict=True):
        row["extra"] = _extra("trl", text, kept)
    if rejected is not None:
        rows[-1] |= {"draft": without_marks(rejected), "answer": rows[-1]["answers"][0]}
    return rows


def rows_from_finevision(
    record: Row, *, conversation_id: str, type: str, license: str | None = None
) -> list[dict[str, Any]]:
    """Rows of a FineVision record, a row for each of its `texts`; ratings go into `extra`.

    Raises:
        LayoutError: The record is of another layout, has several pictures, or no text.
    """
    texts = record.get("texts")
    if not texts:
        raise LayoutError(f"'texts' is {texts!r}, but a list of questions with answers is expected")
    rows = _rows(record, texts, conversation_id, {"type": type, "source": record.get("source"), "license": license})
    rated = {name: record.get(f"{name}_ratings") or [None] * len(texts) for name in _RATINGS}
    for name, ratings in rated.items():
        if len(ratings) != len(texts):
            raise LayoutError(f"'{name}_ratings' has {len(ratings)} numbers for {len(texts)} texts")
    for turn, (row, text) in enumerate(zip(rows, texts, strict=True)):
        given = {name: ratings[turn] for name, ratings in rated.items()}
        known = any(rating is not None for rating in given.values())
        row["extra"] = _extra("finevision", text, {"ratings": given, "rated": _digest(text)} if known else {})
    return rows


def _rows(
    record: Row, texts: Sequence[Mapping[str, str]], conversation_id: str, origin: Mapping[str, Any]
) -> list[dict[str, Any]]:
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


def _turns(record: Row) -> tuple[list[tuple[str, str]], str | None]:
    """(role, text) of each turn, and the rejected answer if there is one."""
    if record.get("messages") is not None:
        return _spoken(record["messages"], "user"), None
    said = "chosen" if record.get("chosen") is not None else "completion"
    if record.get("prompt") is None or record.get(said) is None:
        has = cut(", ".join(map(repr, record))) or "nothing"
        raise LayoutError(f"it has {has}, but 'messages', or 'prompt' with 'completion' or 'chosen', is expected")
    turns = [*_spoken(record["prompt"], "user"), *_spoken(record[said], "assistant")]
    if said != "chosen":
        return turns, None
    rejected = _spoken(record["rejected"], "assistant")
    if len(rejected) != 1:
        raise LayoutError(f"'rejected' has {len(rejected)} messages, but the one answer that was is expected")
    return turns, rejected[0][1]


def _spoken(messages: Any, role: str) -> list[tuple[str, str]]:
    if isinstance(messages, str):
        return [(role, messages)]
    if not isinstance(messages, list):
        raise LayoutError(f"its messages are {short(messages)}, but a list of them is expected")
    return [_message(message, place) for place, message in enumerate(messages)]


def _message(message: Any, place: int) -> tuple[str, str]:
    """Role and text."""
    if not isinstance(message, Mapping):
        raise LayoutError(f"message {place} is {short(message)}, but an object with 'role' and 'content' is expected")
    for name in ("role", "content"):
        if message.get(name) is None:
            raise LayoutError(f"message {place} has no {name!r}, only {short(list(message))}")
    content = message["content"]
    if isinstance(content, str):
        return message["role"], content
    try:
        return message["role"], "".join(part["text"] for part in content if part.get("text"))
    except (TypeError, AttributeError) as error:
        raise LayoutError(
            f"message {place} has the content {short(content)}, but text or parts are expected"
        ) from error


def _images(rows: Sequence[Row]) -> list[Any]:
    return [rows[0]["image"]] if rows[0].get("image") is not None else []


def _chat(rows: Sequence[Row]) -> list[dict[str, str]]:
    return [message for asked, said in _texts(rows, "trl") for message in to_messages(asked, said)]


def _texts(rows: Sequence[Row], layout: str) -> list[tuple[str, str]]:
    """Question and answer of each row: as they were read, if they were read from this layout and are unchanged.

    Neither layout marks images in its texts, so that texts from elsewhere get no mark.
    """
    turns = []
    for row in rows:
        raw = _raw(row, layout)
        turns += [
            (raw.get(role, [""] * 2), text) for role, text in (("user", row["question"]), ("assistant", answer_of(row)))
        ]
    values = filled_turns(turns, image=bool(_images(rows)))
    return list(zip(values[::2], values[1::2], strict=True))


def _rejected(row: Row) -> str:
    """A row's draft: as it was read, if it is still one of the texts that were read."""
    kept, draft = _of_trl(row), row["draft"]
    read = [kept.get("rejected"), _raw(row, "trl").get("assistant")]
    return next((text for text in read if text is not None and without_marks(text) == draft), without_marks(draft))


def _extra(layout: str, text: Mapping[str, str], kept: Mapping[str, Any]) -> str | None:
    """What a row's `extra` keeps of its record, with the texts that hold image marks; None if there is nothing."""
    raw = {role: said for role, said in text.items() if IMAGE_MARK in said}
    found = {**kept, **({"raw": raw} if raw else {})}
    return json.dumps({"layout": layout, **found}) if found else None


def _raw(row: Row, layout: str) -> dict[str, str]:
    """The texts with image marks that [`_extra`] kept, by role, of a row that was read from this layout."""
    extra = read_extra(row)
    return extra.get("raw", {}) if extra.get("layout") == layout else {}


def _system(row: Row) -> list[dict[str, str]]:
    said = _of_trl(row).get("system")
    return [] if said is None else [{"role": "system", "content": said}]


def _origin(row: Row) -> dict[str, Any]:
    kept, origin = _of_trl(row), {name: row.get(name) for name in _ORIGIN}
    origin["type"] = kept.get("type") or origin["type"]
    origin["id"] = kept.get("id") or origin["id"] or row.get("conversation_id")
    return origin


def _of_trl(row: Row) -> dict[str, Any]:
    """What [`rows_from_trl`] kept of the record."""
    extra = read_extra(row)
    return extra if extra.get("layout") == "trl" else {}


def _kept_ratings(row: Row, text: Mapping[str, str]) -> dict[str, int | None]:
    extra = read_extra(row)
    rated = extra.get("layout") == "finevision" and extra.get("rated") == _digest(text)
    return extra["ratings"] if rated else {}


def _digest(text: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps([text["user"], text["assistant"]]).encode()).hexdigest()[:16]
