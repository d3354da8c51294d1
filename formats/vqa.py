"""Reads and writes questions with short answers: OK-VQA, A-OKVQA and VQAv2 as published, and VIGC's own files.

Fields that have no column go into `extra`, from which the entry is restored.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from vigc.errors import LayoutError, short
from vigc.processing.bounded_parsing import JsonObject, parse_json
from vigc.processing.rows import Row

from .base import Format, Pair, Writing
from .coco import coco_names
from .fields import answer_list, as_object, text_field, whole_field
from .image_marks import around, filled, unmarked
from .llava import image_id_of


def read_vigc(entry: Any, subset: str | None = None) -> Iterator[Pair]:
    """VIGC's flat files: `{image, question, answer: [...]}`, optionally with `question_id`, `dataset` and `weight`.

    The generated OK-VQA files of the release have `weight: [...]`, one number for each answer.
    """
    record = as_object(entry)
    image, answers = text_field(record, "image"), record.get("answer")
    listed = answer_list([answers] if isinstance(answers, str) else answers, "answer")
    extra = {"layout": "vigc", "record": {**record, "answer": None}, "single": isinstance(answers, str)}
    weights = _weights(record.get("weight"), listed)
    yield _pair((image,), image_id_of(image), record, listed, extra, weights)


def read_vigc_aokvqa(entry: Any, subset: str | None = None) -> Iterator[Pair]:
    """VIGC's A-OKVQA files: `{image_path, image_id, question, direct_answers, choices, correct_choice_idx}`."""
    record = as_object(entry)
    image = text_field(record, "image_path")
    answers = _direct_answers(record)
    extra = {"layout": "vigc-aokvqa", **_without_answers(record)}
    yield _pair((image,), image_id_of(image), record, answers, extra)


def read_aokvqa(entry: Any, subset: str | None = None) -> Iterator[Pair]:
    """A-OKVQA as published: `{split, image_id, question_id, question, choices, correct_choice_idx, direct_answers}`."""
    record = as_object(entry)
    number = whole_field(record, "image_id")
    answers = _direct_answers(record)
    extra = {"layout": "aokvqa", **_without_answers(record)}
    names = coco_names(number, f"{record.get('split', 'train')}2017")
    yield _pair(names, f"{number:012d}", record, answers, extra)


def _read_two(layout: str, entry: Any, subset: str | None = None) -> Iterator[Pair]:
    """OK-VQA and VQAv2: `{image_id, question, question_id}` and its annotation, from two files."""
    record, annotation = as_object(entry["question"]), as_object(entry["annotation"])
    number = whole_field(record, "image_id")
    if annotation.get("image_id", number) != number:
        raise LayoutError(
            f"'image_id' is {number}, but {short(annotation['image_id'])} in the annotations: these files do not "
            "belong together."
        )
    given = annotation.get("answers")
    if not isinstance(given, list) or not all(isinstance(item, dict) for item in given):
        raise LayoutError(f"'answers' of its annotation is {short(given)}: a list of objects is expected.")
    answers = [item.get("answer") for item in given]
    blank = {**annotation, "answers": [{**item, "answer": None} for item in given]}
    extra = {"layout": layout, "record": record, "annotation": blank}
    yield _pair(coco_names(number, subset), f"{number:012d}", record, answers, extra)


def _write_vigc(rows: Sequence[Row], how: Writing) -> Iterator[JsonObject]:
    row, extra = rows[0], parse_json(rows[0]["extra"])
    answers = row["answers"][0] if extra["single"] else list(row["answers"])
    entry = {**extra["record"], "question": filled(extra["question"], row["question"]), "answer": answers}
    if isinstance(entry.get("weight"), list) and len(entry["weight"]) != len(row["answers"]):
        entry["weight"] = None  # the weights belong to other answers
    yield entry


def _write_aokvqa(rows: Sequence[Row], how: Writing) -> Iterator[JsonObject]:
    row, extra = rows[0], parse_json(rows[0]["extra"])
    # If the answer was read from the correct choice, the (missing or empty) direct answers stay as they are.
    direct = {"direct_answers": list(row["answers"])} if extra["direct"] else {}
    yield {**extra["record"], "question": filled(extra["question"], row["question"]), **direct}


def _write_two(rows: Sequence[Row], how: Writing) -> Iterator[JsonObject]:
    row, extra = rows[0], parse_json(rows[0]["extra"])
    question = {**extra["record"], "question": filled(extra["question"], row["question"])}
    yield {"question": question, "annotation": _annotation(extra["annotation"], row["answers"])}


def _annotation(blank: JsonObject, answers: list[str]) -> JsonObject:
    given = blank["answers"]
    if len(given) != len(answers):
        given = [{"answer": None, "answer_id": number} for number in range(1, len(answers) + 1)]
    return {**blank, "answers": [{**item, "answer": text} for item, text in zip(given, answers, strict=True)]}


def _pair(
    images: tuple[str, ...],
    image_id: str,
    record: JsonObject,
    answers: list[Any],
    extra: JsonObject,
    weights: list[float] | None = None,
) -> Pair:
    raw = text_field(record, "question")
    question = unmarked(raw)
    if not question:
        raise LayoutError(f"'question' is {short(raw)}, which is empty.")
    extra["record"] = {**extra["record"], "question": None}
    extra["question"] = around(raw, question)
    return Pair(images, image_id, question, answer_list(answers, "answers"), 0, extra, weights)


def _direct_answers(record: JsonObject) -> list[Any]:
    answers = record.get("direct_answers")
    if answers:
        return answer_list(answers, "direct_answers")
    choices, correct = record.get("choices"), record.get("correct_choice_idx")
    index = correct if isinstance(correct, int) and not isinstance(correct, bool) else -1
    if isinstance(choices, list) and 0 <= index < len(choices):
        return answer_list([choices[index]], "choices")
    raise LayoutError(
        f"'direct_answers' is {short(answers)} and 'correct_choice_idx' {short(correct)} is not an index "
        f"into 'choices' {short(choices)}: an entry without an answer cannot be trained on."
    )


def _without_answers(record: JsonObject) -> JsonObject:
    direct = bool(record.get("direct_answers"))
    return {"record": {**record, "direct_answers": None} if direct else record, "direct": direct}


def _weights(values: Any, answers: list[str]) -> list[float] | None:
    """The `weight` of an entry, one number for each answer; for a single answer it may be a bare number."""
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


VIGC = Format("vigc", "VIGC's flat JSON", _write_vigc, pairs=read_vigc)
VIGC_AOKVQA = Format("vigc-aokvqa", "VIGC's JSON of A-OKVQA", _write_aokvqa, pairs=read_vigc_aokvqa, task="aokvqa")
AOKVQA = Format("aokvqa", "A-OKVQA's JSON", _write_aokvqa, pairs=read_aokvqa, task="aokvqa")

_TWO_FILES = ("questions", "annotations")
OKVQA = Format("okvqa", "OK-VQA's JSON", _write_two, pairs=partial(_read_two, "okvqa"), lists=_TWO_FILES, task="okvqa")
VQAV2 = Format("vqav2", "VQAv2's JSON", _write_two, pairs=partial(_read_two, "vqav2"), lists=_TWO_FILES, task="vqav2")
