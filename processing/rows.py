"""The columns of our datasets, and what identifies a row."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, TypeAlias, TypedDict

from datasets import Features, Image, List, Value

# A row of any of our datasets, by column.
Row: TypeAlias = Mapping[str, Any]
# A row, or a record of another layout, that is being made.
Record: TypeAlias = dict[str, Any]


class ImageCell(TypedDict):
    """An image as a row holds it undecoded: the bytes of its file, or the path of one."""

    bytes: bytes | None
    path: str | None


_STRING = Value("string")
_LOGPROB = Value("float32")

# Source fields and layout that an exact export needs; `extra` is JSON.
_ORIGIN = {"conversation_id": _STRING, "turn": Value("int32"), "extra": _STRING}

TRAIN_FEATURES = Features(
    {
        "image": Image(),
        "image_id": _STRING,
        "type": _STRING,
        "question": _STRING,
        "answers": List(_STRING),
        # One number for each answer, how likely training draws it; null: all answers alike.
        "weights": List(Value("float32")),
        "source": _STRING,
        "license": _STRING,
        **_ORIGIN,
    }
)

GENERATED_FEATURES = Features(
    {
        "id": _STRING,
        "image": Image(),
        "image_id": _STRING,
        "type": _STRING,
        "question_index": Value("int32"),
        "instruction": _STRING,
        "question": _STRING,
        "draft": _STRING,
        "answer": _STRING,
        "messages": List({"role": _STRING, "content": _STRING}),
        "trace": List({"sentence": _STRING, "changed": Value("bool"), "logprob": _LOGPROB, "stop": _STRING}),
        "scores": {"draft_logprob": _LOGPROB, "answer_logprob": _LOGPROB, "visual_dependency": _LOGPROB},
        "answers": List(_STRING),
        "weights": List(Value("float32")),
        "objects": List({"category": _STRING, "bbox": List(Value("float32"))}),
        **_ORIGIN,
        "source": _STRING,
        "license": _STRING,
        "model": _STRING,
        "config_hash": _STRING,
    }
)


def row_id(image: bytes | str, type: str, config_hash: str, question_index: int) -> str:
    """What identifies a generated row: 32 hexadecimal digits that depend on the picture and the settings alone.

    Args:
        image: The picture's file as it was read, or its SHA-256 in hexadecimal digits.
        type: The type of instruction.
        config_hash: Hash of all settings that change what is written.
        question_index: Which of the questions of this type about this picture.
    """
    picture = image if isinstance(image, str) else hashlib.sha256(image).hexdigest()
    key = json.dumps([picture, type, config_hash, question_index])
    return hashlib.sha256(key.encode()).hexdigest()[:32]


def to_messages(question: str, answer: str) -> list[dict[str, str]]:
    """A pair as a chat of two turns with plain string content, as TRL trains on beside an `image` column."""
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def is_edited(draft: str | None, answer: str) -> bool:
    """Whether correction changed a word of the draft, if there is one; white space does not count."""
    return draft is not None and draft.split() != answer.split()
