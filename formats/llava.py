"""Reads and writes LLaVA's conversations. An unchanged entry is written exactly as it was read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from vigc.errors import LayoutError, short
from vigc.processing.bounded_parsing import JsonObject, parse_json
from vigc.processing.image_names import name_for_id
from vigc.processing.rows import ImageCell, Record, Row

from .base import Format, Pair, Writing
from .fields import as_object, text_field
from .image_marks import IMAGE_MARK, around, filled_turns, marked, unmarked, without_marks

ASKS, REPLIES = ("human", "user"), ("gpt", "assistant")


class LlavaPair(NamedTuple):
    """A question and its answer without image marks, and the part of the entry that the column `extra` keeps."""

    question: str
    answer: str
    extra: JsonObject


def rows_from_llava(
    record: Any,
    *,
    conversation_id: str,
    type: str,
    source: str = "",
    license: str | None = None,
    image: ImageCell | None = None,
) -> list[Record]:
    """Converts an entry of a LLaVA file, `{id, image, conversations: [{from, value}]}`, to rows of `TRAIN_FEATURES`.

    A row is a question with the answer that follows it. Everything else (fields, ids of any type, turns outside a pair,
    the position of the image mark) goes into `extra`, from which [`llava_entry`] restores it.

    Args:
        record: The parsed entry.
        conversation_id: A unique id of the entry; ids in published files repeat.
        type: The task type.
        source: Name of the dataset.
        license: Its licence.
        image: The image that the entry names, `{"bytes": ..., "path": ...}`; None if it names none.

    Raises:
        LayoutError: The entry has another layout, or no question with an answer.
    """
    pairs = llava_pairs(record)
    name = record.get("image")
    return [
        {
            "image": image,
            "image_id": None if name is None else image_id_of(name),
            "type": type,
            "question": pair.question,
            "answers": [pair.answer],
            "weights": None,
            "source": source,
            "license": license,
            "conversation_id": conversation_id,
            "turn": turn,
            "extra": json.dumps(pair.extra),
        }
        for turn, pair in enumerate(pairs)
    ]


def read_llava(entry: Any, subset: str | None = None) -> Iterator[Pair]:
    """LLaVA-150K: `{id, image, conversations: [{from, value}]}`, turns of human and gpt alternate, two make a pair.

    Stricter than [`llava_pairs`], because a turn outside a pair would not be trained on.
    """
    record = as_object(entry)
    image = record.get("image")
    if image is not None:
        text_field(record, "image")
    turns = record.get("conversations")
    if not isinstance(turns, list) or not turns or len(turns) % 2:
        count = f"has {len(turns)} entries" if isinstance(turns, list) else f"is {short(turns)}"
        raise LayoutError(f"'conversations' {count}: alternating questions and answers are expected.")
    for index, turn in enumerate(turns):
        speaker = turn.get("from") if isinstance(turn, dict) else None
        wanted, names = (("human", ASKS), ("gpt", REPLIES))[index % 2]
        if speaker not in names:
            raise LayoutError(f"'conversations[{index}].from' is {short(speaker)}, but {wanted!r} is expected.")
        text_field(turn, "value", f"conversations[{index}].value")
    images = () if image is None else (image,)
    for number, (question, answer, extra) in enumerate(llava_pairs(record)):
        yield Pair(images, image_id_of(image or ""), question, [answer], number, extra)


def llava_pairs(entry: Any) -> list[LlavaPair]:
    """The questions of an entry with the answers that follow them, and everything needed to restore the entry.

    Raises:
        LayoutError: The entry has another layout, or no question with an answer.
    """
    if not isinstance(entry, Mapping):
        raise LayoutError(f"it is {short(entry)}, but an object with named fields is expected")
    name, all_turns = entry.get("image"), entry.get("conversations")
    if name is not None and not isinstance(name, str):
        raise LayoutError(f"'image' is {short(name)}, but the name of one image is expected")
    found, after = _in_turns(all_turns)
    record = {**entry, "conversations": None}
    # The turn with the image mark: the first one that has any. Normally a question.
    marks = None if name is None else next((turn for turn in all_turns or () if IMAGE_MARK in turn["value"]), None)
    pairs = []
    for turn, (before, human, gpt) in enumerate(found):
        question, answer = unmarked(human["value"]), unmarked(gpt["value"])
        if not question or not answer:
            which, value = ("question", human["value"]) if not question else ("answer", gpt["value"])
            raise LayoutError(f"the {which} of pair {turn} in 'conversations' is {short(value)}, which is empty")
        extra: JsonObject = {"layout": "llava", "record": record}
        extra["human"] = {**human, "value": around(human["value"], question, odd=human is not marks)}
        extra["gpt"] = {**gpt, "value": around(gpt["value"], answer, odd=True)}
        if marks is not None and marks is not found[0][1]:
            extra["marked"] = True  # not in the first question, and its turn may be removed later
        if before:
            extra["before"] = before
        if after and turn == len(found) - 1:
            extra["after"] = after
        pairs.append(LlavaPair(question, answer, extra))
    return pairs


def llava_entry(rows: Sequence[Row], image: str | None) -> JsonObject:
    """The entry for the rows of a conversation: the one that they were read from, with their texts, or a new one.

    Args:
        rows: Generated or training rows of a conversation, in the order of their turns.
        image: The image's name, for a new entry or one without a name; other entries keep their name.
    """
    extras = [read_extra(row) for row in rows]
    if extras[0].get("layout") != "llava":
        return _new_entry(rows, image)
    turns: list[tuple[JsonObject, str | None]] = []
    for row, extra in zip(rows, extras, strict=True):
        turns += [(turn, None) for turn in extra.get("before", [])]
        turns += [(extra["human"], row["question"]), (extra["gpt"], answer_of(row))]
    turns += [(turn, None) for turn in extras[-1].get("after", [])]
    record = extras[0]["record"]
    if image is not None and record.get("image") is None:  # read from a dataset with embedded images
        record = {**record, "image": image}
    has_image = record.get("image") is not None
    texts = [(turn["value"], turn["value"] if text is None else text) for turn, text in turns]
    values = filled_turns(texts, image=has_image)
    if has_image and (rows[0]["turn"] or extras[0].get("marked")) and not any(IMAGE_MARK in value for value in values):
        # The turn with the mark has been removed.
        first = next(index for index, (turn, _) in enumerate(turns) if turn.get("from") in ASKS)
        values[first] = marked(values[first])
    return {
        **record,
        "conversations": [{**turn, "value": value} for (turn, _), value in zip(turns, values, strict=True)],
    }


def llava_image(row: Row) -> str | None:
    """The image's name in the entry that a row was read from; None if it was read from another layout."""
    extra = read_extra(row)
    return extra["record"].get("image") if extra.get("layout") == "llava" else None


def read_extra(row: Row) -> JsonObject:
    """A row's `extra`, parsed; empty if there is none."""
    return parse_json(row["extra"]) if row.get("extra") else {}


def answer_of(row: Row) -> str:
    """The answer of a row: the corrected answer, or the first answer of a training row."""
    return row["answer"] if row.get("answer") is not None else row["answers"][0]


def _in_turns(turns: Any) -> tuple[list[tuple[list[Any], JsonObject, JsonObject]], list[Any]]:
    """(turns before it, question, answer) of each pair, and the turns after the last pair."""
    if not isinstance(turns, list):
        raise LayoutError(f"'conversations' is {short(turns)}, but a list of turns is expected")
    for index, turn in enumerate(turns):
        value = turn.get("value") if isinstance(turn, dict) else None
        if not isinstance(value, str):
            raise LayoutError(f"'conversations[{index}].value' is {short(value)}, but text is expected")
        if any("\ud800" <= character <= "\udfff" for character in value):
            raise LayoutError(f"'conversations[{index}].value' {short(value)} has a lone surrogate: write it again")
    pairs: list[tuple[list[Any], JsonObject, JsonObject]] = []
    before: list[Any] = []
    index = 0
    while index < len(turns):
        human, gpt = turns[index], turns[index + 1] if index + 1 < len(turns) else {}
        if human.get("from") in ASKS and gpt.get("from") in REPLIES:
            pairs.append((before, human, gpt))
            before, index = [], index + 2
        else:
            before, index = [*before, human], index + 1
    if not pairs:
        speakers = [turn.get("from") for turn in turns]
        raise LayoutError(f"'conversations' has turns of {short(speakers)}, but no 'human' that a 'gpt' answers")
    return pairs, before


def _new_entry(rows: Sequence[Row], image: str | None) -> JsonObject:
    first = rows[0]
    identity = first.get("conversation_id") or first.get("id") or first["image_id"]
    known = {name: first.get(name) for name in ("image_id", "type", "source", "license", "model")}
    entry = {"id": identity, "image": image, **known}
    turns = []
    for row in rows:
        turns.append({"from": "human", "value": without_marks(row["question"])})
        turns.append({"from": "gpt", "value": without_marks(answer_of(row))})
    if image is not None:
        turns[0]["value"] = marked(turns[0]["value"])
    return {**{name: value for name, value in entry.items() if value is not None}, "conversations": turns}


def image_id_of(name: str) -> str:
    """The id in an image's file name: the digits after the last "_" (COCO 2014, Objects365), else the stem."""
    stem = PurePosixPath(name_for_id(name)).stem
    last = stem.rsplit("_", 1)[-1]
    return last if last.isdigit() else stem


def _write(rows: Sequence[Row], how: Writing) -> Iterator[JsonObject]:
    yield llava_entry(rows, how.image)


LLAVA = Format(
    "llava",
    "LLaVA's JSON",
    _write,
    pairs=read_llava,
    rows=rows_from_llava,
    file="conversations.json",
    note=(
        "`conversations.json` is a list of `{id, image, conversations: [{from, value}]}`; image names are relative to "
        "`images/`."
    ),
)
