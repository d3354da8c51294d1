"""Reads and writes StableLLaVA's files: a question and an answer about each image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any

from vigc.errors import LayoutError, short
from vigc.processing.bounded_parsing import parse_json
from vigc.processing.image_names import name_for_id
from vigc.processing.rows import Record, Row

from .base import Format, Pair, Writing
from .fields import as_object, text_field
from .image_marks import around, filled_turns, unmarked


def read_stable_llava(entry: Any, subset: str | None = None) -> Iterator[Pair]:
    """StableLLaVA: `{id, image, prompt, question, answer}`, with an image mark in the question."""
    record = as_object(entry)
    image = text_field(record, "image")
    raw_question, raw_answer = text_field(record, "question"), text_field(record, "answer")
    question, answer = unmarked(raw_question), unmarked(raw_answer)
    if not question or not answer:
        which, value = ("question", raw_question) if not question else ("answer", raw_answer)
        raise LayoutError(f"{which!r} is {short(value)}, which is empty.")
    rest = {**record, "question": None, "answer": None}
    human, gpt = {"value": around(raw_question, question)}, {"value": around(raw_answer, answer, odd=True)}
    extra = {"layout": "stable-llava", "record": rest, "human": human, "gpt": gpt}
    identity = PurePosixPath(name_for_id(image)).with_suffix("").as_posix()  # stems repeat across folders
    yield Pair((image,), identity, question, [answer], 0, extra)


def _write(rows: Sequence[Row], how: Writing) -> Iterator[Record]:
    (row, *_), extra = rows, parse_json(rows[0]["extra"])
    texts = [(extra["human"]["value"], row["question"]), (extra["gpt"]["value"], row["answers"][0])]
    question, answer = filled_turns(texts, image=True)
    yield {**extra["record"], "question": question, "answer": answer}


STABLE_LLAVA = Format("stable-llava", "StableLLaVA's JSON", _write, pairs=read_stable_llava, task="conversation")
