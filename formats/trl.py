"""Reads and writes TRL's columns: chats for `SFTTrainer`, preference pairs for `DPOTrainer`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from datasets import Features, Image, List, Value

from vigc.errors import LayoutError, cut, short
from vigc.processing.rows import Record, Row, to_messages

from .base import Format, Writing
from .image_marks import without_marks
from .llava import read_extra
from .preferences import PreferenceRule
from .record_texts import extra_of, images_of, raw_texts, rows_of_texts, texts_of

_STRING = Value("string")
_CHAT = List({"role": _STRING, "content": _STRING})
# Columns that TRL does not read: the origin and the licence of a record.
_ORIGIN = {"id": _STRING, "type": _STRING, "source": _STRING, "license": _STRING}

SFT_FEATURES = Features({"images": List(Image()), "messages": _CHAT, **_ORIGIN})
DPO_FEATURES = Features({"images": List(Image()), "prompt": _CHAT, "chosen": _CHAT, "rejected": _CHAT, **_ORIGIN})


def sft_record(rows: Sequence[Row]) -> Record:
    """A conversation for TRL's `SFTTrainer`: its image in `images`, all its turns in `messages`.

    A conversation that was read from TRL's columns keeps its id, type and system message.
    """
    return {"images": images_of(rows), "messages": [*_system(rows[0]), *_chat(rows)], **_origin(rows[0])}


def dpo_records(rows: Sequence[Row], rule: PreferenceRule) -> Iterator[Record | str]:
    """For each row of a conversation, the preference pair, or the reason why it makes none.

    The prompt of a later turn includes the corrected turns before it.
    """
    chat = _chat(rows)
    for turn, row in enumerate(rows):
        if reason := rule.refusal(row):
            yield reason
            continue
        *before, chosen = chat[: 2 * turn + 2]
        yield {
            "images": images_of(rows),
            "prompt": [*_system(row), *before],
            "chosen": [chosen],
            "rejected": [{**chosen, "content": _rejected(row)}],
            **_origin(row),
            **({"id": row["id"]} if row.get("id") else {}),  # not the conversation's: it may make several pairs
        }


def rows_from_trl(record: Row, *, conversation_id: str, type: str | None = None) -> list[Record]:
    """Rows of a record in TRL's columns: `messages`, `prompt` and `completion`, or `prompt`, `chosen` and `rejected`.

    The rejected answer becomes the `draft` of the conversation's last row. Id, type, system message and rejected answer
    are kept in `extra`.

    Args:
        record: The record, with `images` or `image`; contents are text or typed parts.
        conversation_id: A unique id of the record.
        type: The task type, if the record has none.

    Raises:
        LayoutError: The record has another layout, several images, or no question with an answer.
    """
    turns, rejected = _turns(record)
    system = turns.pop(0)[1] if turns and turns[0][0] == "system" else None
    roles = [role for role, _ in turns]
    if not turns or roles != ["user", "assistant"] * (len(turns) // 2):
        raise LayoutError(f"its turns have the roles {short(roles)}, but 'user' and 'assistant' must alternate")
    texts = [{"user": user[1], "assistant": reply[1]} for user, reply in zip(turns[::2], turns[1::2], strict=True)]
    origin = {"type": record.get("type") or type, "source": record.get("source"), "license": record.get("license")}
    rows = rows_of_texts(record, texts, conversation_id, origin)
    own = {"id": record.get("id"), "type": record.get("type"), "system": system, "rejected": rejected}
    kept = {name: str(value) for name, value in own.items() if value is not None}
    for row, text in zip(rows, texts, strict=True):
        row["extra"] = extra_of("trl", text, kept)
    if rejected is not None:
        rows[-1] |= {"draft": without_marks(rejected), "answer": rows[-1]["answers"][0]}
    return rows


def _turns(record: Row) -> tuple[list[tuple[str, str]], str | None]:
    """(role, text) of each turn, and the rejected answer if there is one."""
    if record.get("messages") is not None:
        return _messages(record["messages"], "user"), None
    reply = "chosen" if record.get("chosen") is not None else "completion"
    if record.get("prompt") is None or record.get(reply) is None:
        has = cut(", ".join(map(repr, record))) or "nothing"
        raise LayoutError(f"it has {has}, but 'messages', or 'prompt' with 'completion' or 'chosen', is expected")
    turns = [*_messages(record["prompt"], "user"), *_messages(record[reply], "assistant")]
    if reply != "chosen":
        return turns, None
    rejected = _messages(record["rejected"], "assistant")
    if len(rejected) != 1:
        raise LayoutError(f"'rejected' has {len(rejected)} messages, but exactly one is expected")
    return turns, rejected[0][1]


def _messages(messages: Any, role: str) -> list[tuple[str, str]]:
    if isinstance(messages, str):
        return [(role, messages)]
    if not isinstance(messages, list):
        raise LayoutError(f"its messages are {short(messages)}, but a list of them is expected")
    return [_message(message, place) for place, message in enumerate(messages)]


def _message(message: Any, place: int) -> tuple[str, str]:
    """(role, text) of a message."""
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


def _chat(rows: Sequence[Row]) -> list[dict[str, str]]:
    return [message for question, answer in texts_of(rows, "trl") for message in to_messages(question, answer)]


def _rejected(row: Row) -> str:
    """A row's draft; if it is one of the texts that were read, with its image marks."""
    kept, draft = _of_trl(row), row["draft"]
    read = [kept.get("rejected"), raw_texts(row, "trl").get("assistant")]
    return next((text for text in read if text is not None and without_marks(text) == draft), without_marks(draft))


def _system(row: Row) -> list[dict[str, str]]:
    system = _of_trl(row).get("system")
    return [] if system is None else [{"role": "system", "content": system}]


def _origin(row: Row) -> Record:
    kept, origin = _of_trl(row), {name: row.get(name) for name in _ORIGIN}
    origin["type"] = kept.get("type") or origin["type"]
    origin["id"] = kept.get("id") or origin["id"] or row.get("conversation_id")
    return origin


def _of_trl(row: Row) -> Record:
    """The fields that [`rows_from_trl`] kept from the record."""
    extra = read_extra(row)
    return extra if extra.get("layout") == "trl" else {}


def _write_chat(rows: Sequence[Row], how: Writing) -> Iterator[Record]:
    yield sft_record(rows)


def _write_pairs(rows: Sequence[Row], how: Writing) -> Iterator[Record | str]:
    return dpo_records(rows, how.rule)


TRL_SFT = Format(
    "trl-sft",
    "chats for TRL's `SFTTrainer`",
    _write_chat,
    rows=rows_from_trl,
    features=SFT_FEATURES,
    note=(
        "A record is a conversation. TRL trains on every token of `messages` unless you set `assistant_only_loss=True`."
    ),
)
TRL_DPO = Format(
    "trl-dpo",
    "preference pairs for TRL's `DPOTrainer`",
    _write_pairs,
    rows=rows_from_trl,
    features=DPO_FEATURES,
    prefers=True,
)
