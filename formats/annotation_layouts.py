"""What an entry of each published file holds: a question, its answers, and the names its picture may have.

The fields are those of the published files. Each layout is a function from an entry to [`Pair`]s; what does not become
a column goes into `extra`, from which [`source_records`] makes the entry again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import PurePosixPath
from typing import Any

from vigc.errors import LayoutError, cut, short
from vigc.processing.bounded_parsing import parse_json
from vigc.processing.image_names import name_for_id

from .image_marks import around, filled, filled_turns, unmarked
from .llava import ASKS, REPLIES, image_id_of, llava_entry, llava_pairs


@dataclass(frozen=True, slots=True)
class Pair:
    """One question with its answers, before its picture was found.

    Args:
        pictures: Names the picture may have under the image folder, likeliest first; none if the entry has no picture.
        image_id: The picture's id: that of COCO in 12 digits, else the file's stem.
        question: Without image marks.
        answers: All that were given, as often as they were.
        turn: Which pair of its conversation.
        extra: Layout and source fields, for an exact export.
        weights: One number for each answer, where the file gives them.
    """

    pictures: tuple[str, ...]
    image_id: str
    question: str
    answers: list[str]
    turn: int
    extra: dict[str, Any]
    weights: list[float] | None = None


def coco_names(image_id: int, subset: str | None = None) -> tuple[str, ...]:
    """Names of a COCO picture, bare and in its subset's folder, those of `subset` ("train2014", ...) first."""
    subsets = ("train2014", "val2014", "test2015", "train2017", "val2017", "test2017")
    ordered = sorted(subsets, key=lambda name: name != subset)
    names = {
        name: f"COCO_{name}_{image_id:012d}.jpg" if name.endswith(("14", "15")) else f"{image_id:012d}.jpg"
        for name in ordered
    }
    return tuple(dict.fromkeys(path for name in ordered for path in (names[name], f"{name}/{names[name]}")))


def read_llava(entry: Any) -> Iterator[Pair]:
    """LLaVA-150K: `{id, image, conversations: [{from, value}]}`, human and gpt in turns, one pair for each two.

    Stricter than [`llava_pairs`], since a turn that is in no pair would not be trained on.
    """
    record = _object(entry)
    image = record.get("image")
    if image is not None:
        _text(record, "image")
    turns = record.get("conversations")
    if not isinstance(turns, list) or not turns or len(turns) % 2:
        count = f"has {len(turns)} entries" if isinstance(turns, list) else f"is {short(turns)}"
        raise LayoutError(f"'conversations' {count}: questions and answers in turns are expected.")
    for index, turn in enumerate(turns):
        speaker = turn.get("from") if isinstance(turn, dict) else None
        wanted, names = (("human", ASKS), ("gpt", REPLIES))[index % 2]
        if speaker not in names:
            raise LayoutError(f"'conversations[{index}].from' is {short(speaker)}: it is {wanted}'s turn.")
        _text(turn, "value", f"conversations[{index}].value")
    pictures = () if image is None else (image,)
    for number, (question, answer, extra) in enumerate(llava_pairs(record)):
        yield Pair(pictures, image_id_of(image or ""), question, [answer], number, extra)


def read_vigc(entry: Any) -> Iterator[Pair]:
    """VIGC's flat files: `{image, question, answer: [...]}`, with `question_id`, `dataset` and `weight` or without.

    The release's generated OK-VQA files have `weight: [...]`, one number for each answer.
    """
    record = _object(entry)
    image, answers = _text(record, "image"), record.get("answer")
    listed = _answers([answers] if isinstance(answers, str) else answers, "answer")
    extra = {"layout": "vigc", "record": {**record, "answer": None}, "single": isinstance(answers, str)}
    weights = _weights(record.get("weight"), listed)
    yield _pair((image,), image_id_of(image), record, listed, extra, weights)


def read_vigc_aokvqa(entry: Any) -> Iterator[Pair]:
    """VIGC's A-OKVQA files: `{image_path, image_id, question, direct_answers, choices, correct_choice_idx}`."""
    record = _object(entry)
    image = _text(record, "image_path")
    answers = _direct_answers(record)
    extra = {"layout": "vigc-aokvqa", **_without_answers(record)}
    yield _pair((image,), image_id_of(image), record, answers, extra)


def read_aokvqa(entry: Any) -> Iterator[Pair]:
    """A-OKVQA as published: `{split, image_id, question_id, question, choices, correct_choice_idx, direct_answers}`."""
    record = _object(entry)
    number = _whole(record, "image_id")
    answers = _direct_answers(record)
    extra = {"layout": "aokvqa", **_without_answers(record)}
    names = coco_names(number, f"{record.get('split', 'train')}2017")
    yield _pair(names, f"{number:012d}", record, answers, extra)


def read_stable_llava(entry: Any) -> Iterator[Pair]:
    """StableLLaVA: `{id, image, prompt, question, answer}`, with an image mark in the question."""
    record = _object(entry)
    image = _text(record, "image")
    asked, raw = _text(record, "question"), _text(record, "answer")
    question, answer = unmarked(asked), unmarked(raw)
    if not question or not answer:
        which, value = ("question", asked) if not question else ("answer", raw)
        raise LayoutError(f"{which!r} is {short(value)}, which says nothing.")
    rest = {**record, "question": None, "answer": None}
    human, gpt = {"value": around(asked, question)}, {"value": around(raw, answer, odd=True)}
    extra = {"layout": "stable-llava", "record": rest, "human": human, "gpt": gpt}
    identity = PurePosixPath(name_for_id(image)).with_suffix("").as_posix()  # the stem alone repeats from file to file
    yield Pair((image,), identity, question, [answer], 0, extra)


def read_vqa(layout: str, subset: str | None) -> Callable[[Any, Any], Iterator[Pair]]:
    """OK-VQA and VQAv2, where `{image_id, question, question_id}` and its annotation lie in two files."""

    def read(entry: Any, annotation: Any) -> Iterator[Pair]:
        record, answered = _object(entry), _object(annotation)
        number = _whole(record, "image_id")
        if answered.get("image_id", number) != number:
            raise LayoutError(
                f"'image_id' is {number}, but {short(answered['image_id'])} in the annotations: these files do not "
                "belong together."
            )
        given = answered.get("answers")
        if not isinstance(given, list) or not all(isinstance(item, dict) for item in given):
            raise LayoutError(f"'answers' of its annotation is {short(given)}: a list of objects is expected.")
        answers = [item.get("answer") for item in given]
        blank = {**answered, "answers": [{**item, "answer": None} for item in given]}
        extra = {"layout": layout, "record": record, "annotation": blank}
        yield _pair(coco_names(number, subset), f"{number:012d}", record, answers, extra)

    return read


def source_records(rows: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """The entries that rows of one file were read from, in their order, with the rows' questions and answers.

    Rows that were not changed give exactly the published entries; for OK-VQA and VQAv2, where an entry lies in two
    files, `{"question": ..., "annotation": ...}`.

    Args:
        rows: Training rows; those of one conversation stand together.
    """
    for _, group in groupby(rows, key=lambda row: row["conversation_id"]):
        turns = list(group)
        row, extra = turns[0], parse_json(turns[0]["extra"])
        record, layout = extra["record"], extra["layout"]
        if layout == "llava":
            yield llava_entry(turns, None)
        elif layout == "stable-llava":
            texts = [(extra["human"]["value"], row["question"]), (extra["gpt"]["value"], row["answers"][0])]
            yield {**record, **dict(zip(("question", "answer"), filled_turns(texts, image=True), strict=True))}
        elif layout == "vigc":
            answers = row["answers"][0] if extra["single"] else list(row["answers"])
            entry = {**record, "question": filled(extra["question"], row["question"]), "answer": answers}
            if isinstance(entry.get("weight"), list) and len(entry["weight"]) != len(row["answers"]):
                entry["weight"] = None  # those of other answers
            yield entry
        elif layout in ("aokvqa", "vigc-aokvqa"):
            # An entry whose answer was its right choice keeps its (missing or empty) direct answers.
            direct = {"direct_answers": list(row["answers"])} if extra["direct"] else {}
            yield {**record, "question": filled(extra["question"], row["question"]), **direct}
        else:
            asked = {**record, "question": filled(extra["question"], row["question"])}
            yield {"question": asked, "annotation": _annotation(extra["annotation"], row["answers"])}


def _annotation(blank: dict[str, Any], answers: list[str]) -> dict[str, Any]:
    given = blank["answers"]
    if len(given) != len(answers):
        given = [{"answer": None, "answer_id": number} for number in range(1, len(answers) + 1)]
    return {**blank, "answers": [{**item, "answer": text} for item, text in zip(given, answers, strict=True)]}


def _pair(
    pictures: tuple[str, ...],
    image_id: str,
    record: dict[str, Any],
    answers: list[Any],
    extra: dict[str, Any],
    weights: list[float] | None = None,
) -> Pair:
    raw = _text(record, "question")
    question = unmarked(raw)
    if not question:
        raise LayoutError(f"'question' is {short(raw)}, which says nothing.")
    extra["record"] = {**extra["record"], "question": None}
    extra["question"] = around(raw, question)
    return Pair(pictures, image_id, question, _answers(answers, "answers"), 0, extra, weights)


def _direct_answers(record: dict[str, Any]) -> list[Any]:
    answers = record.get("direct_answers")
    if answers:
        return _answers(answers, "direct_answers")
    choices, correct = record.get("choices"), record.get("correct_choice_idx")
    index = correct if isinstance(correct, int) and not isinstance(correct, bool) else -1
    if isinstance(choices, list) and 0 <= index < len(choices):
        return _answers([choices[index]], "choices")
    raise LayoutError(
        f"'direct_answers' is {short(answers)} and 'correct_choice_idx' {short(correct)} names none of the "
        f"'choices' {short(choices)}: an entry without an answer cannot be trained on."
    )


def _without_answers(record: dict[str, Any]) -> dict[str, Any]:
    direct = bool(record.get("direct_answers"))
    return {"record": {**record, "direct_answers": None} if direct else record, "direct": direct}


def _object(entry: Any) -> dict[str, Any]:
    if not isinstance(entry, dict):
        raise LayoutError(f"is {short(entry)}, but an object with named fields is expected.")
    return entry


def _text(record: Mapping[str, Any], name: str, shown: str | None = None) -> str:
    if name not in record:
        raise LayoutError(f"has no {shown or name!r}, only {cut(', '.join(map(repr, record)))}.")
    value = record[name]
    if not isinstance(value, str) or not value.strip():
        raise LayoutError(f"{shown or name!r} is {short(value)}, but text is expected.")
    return value


def _whole(record: Mapping[str, Any], name: str) -> int:
    value = record.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise LayoutError(f"{name!r} is {short(value)}, but a whole number is expected.")
    return value


def _answers(values: Any, name: str) -> list[str]:
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise LayoutError(f"{name!r} is {short(values)}, but a list of texts is expected.")
    if not any(value.strip() for value in values):
        raise LayoutError(f"{name!r} is {short(values)}: at least one answer should not be empty.")
    return values


def _weights(values: Any, answers: list[str]) -> list[float] | None:
    """`weight` of an entry, one number for each answer; of a single answer it may stand without a list."""
    if values is None:
        return None
    listed = values if isinstance(values, list) else [values]
    numbers = [value for value in listed if isinstance(value, (int, float)) and not isinstance(value, bool)]
    if len(numbers) != len(listed) or not all(0 <= number < math.inf for number in numbers):
        raise LayoutError(f"'weight' is {short(values)}: a list of numbers, 0 or more, is expected.")
    if len(numbers) != len(answers):
        raise LayoutError(f"'weight' has {len(numbers)} numbers for {len(answers)} answers: give one for each.")
    if not any(number for number, answer in zip(numbers, answers, strict=True) if answer.strip()):
        raise LayoutError(f"'weight' is {short(values)}: at least one answer needs a weight above 0.")
    return [float(number) for number in numbers]
