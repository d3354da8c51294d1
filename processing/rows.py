"""The columns of the datasets, and the ids of their rows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, TypeAlias, TypedDict

from datasets import Features, Image, List, Value

# A row of any of the datasets, by column.
Row: TypeAlias = Mapping[str, Any]
# A row, or a record of another layout, under construction.
Record: TypeAlias = dict[str, Any]


class ImageCell(TypedDict):
    """An undecoded image in a row: the bytes of its file, or a path."""

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
        # For each answer, its relative chance to be drawn in training; null: all answers are equally likely.
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
    """The id of a generated row: 32 hexadecimal digits that depend only on the image and the settings.

    Args:
        image: The bytes of the image file, or their SHA-256 in hexadecimal digits.
        type: The task type.
        config_hash: Hash of all settings that change the generated text.
        question_index: Index of the question among those of this type about this image.
    """
    digest = image if isinstance(image, str) else hashlib.sha256(image).hexdigest()
    key = json.dumps([digest, type, config_hash, question_index])
    return hashlib.sha256(key.encode()).hexdigest()[:32]


def to_messages(question: str, answer: str) -> list[dict[str, str]]:
    """A pair as a chat of two turns with string content, which TRL trains on together with an `image` column."""
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def is_edited(draft: str | None, answer: str) -> bool:
    """Whether correction changed the words of the draft; False without a draft. White space does not count."""
    return draft is not None and draft.split() != answer.split()
