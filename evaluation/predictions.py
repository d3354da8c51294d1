"""Answers to a benchmark's questions: kept as they are written, or read from files made elsewhere."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

from vigc.errors import EvaluationError
from vigc.processing.bounded_parsing import MAX_JSON_BYTES, parse_json, read_text

from .questions import Predictions, Question, json_lines

# What the answer and its question are called in the files of the field.
_TEXTS = ("text", "prediction", "answer", "caption", "response")
_IDS = ("question_id", "index", "image_id", "id")


class Journal:
    """A file of answers, a line each, that survives being killed: what is in it is never asked again.

    Args:
        path: The file; a last line that was cut off is removed from it.

    Raises:
        EvaluationError: A line that is no answer.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.known: dict[str, dict[str, Any]] = {}
        data = path.read_bytes() if path.exists() else b""
        whole = data[: data.rfind(b"\n") + 1]
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                record = parse_json(line)
                self.known[record["question_id"]] = record
            except (ValueError, KeyError, TypeError) as error:
                raise EvaluationError(f"{path}, line {number} is no answer ({error}): remove the file.") from error
        if whole != data:
            os.truncate(path, len(whole))

    def add(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Appends answers to questions that have none yet, and waits until they are on the disk."""
        fresh = [dict(record) for record in records if record["question_id"] not in self.known]
        if not fresh:
            return
        with self.path.open("ab") as file:
            file.write(json_lines(fresh))
            file.flush()
            os.fsync(file.fileno())
        self.known |= {record["question_id"]: record for record in fresh}

    def predictions(self) -> Predictions:
        """The texts by question."""
        return {key: record["text"] for key, record in self.known.items()}


def read_predictions(path: Path, questions: Sequence[Question]) -> Predictions:
    """Answers made elsewhere: our own file, a benchmark's submission, or a list of objects with a question and a text.

    JSON Lines, a JSON list or object, or an Excel table as MMBench takes it. A question is called `question_id`,
    `index`, `image_id` or `id`, its answer `text`, `prediction`, `answer`, `caption` or `response`; A-OKVQA's object
    is `{question_id: {multiple_choice, direct_answer}}`.

    Raises:
        EvaluationError: The file cannot be read, or does not answer all of these questions; further answers do no harm.
    """
    found: dict[str, str | None] = {}
    aliases = _aliases(questions)
    unknown: list[str] = []
    for key, text in _records(path):
        if key not in aliases:
            unknown.append(key)
        elif aliases[key] in found:
            raise EvaluationError(f"{path} answers question {key!r} twice: keep one answer for each.")
        else:
            found[aliases[key]] = text
    missing = [question.id for question in questions if question.id not in found]
    if missing:
        hint = f", and {len(unknown)} that are not asked, the first {unknown[0]!r}" if unknown else ""
        raise EvaluationError(
            f"{path} lacks answers to {len(missing)} of {len(questions)} questions, the first {missing[0]!r}{hint}. "
            "Answer all of them; an empty text counts as wrong."
        )
    return found


def _aliases(questions: Sequence[Question]) -> dict[str, str]:
    """Every name a question may have: its own, and the published id where that is unique."""
    published = {question.id: str(question.reference.get("question_id", question.id)) for question in questions}
    often = Counter(published.values())
    aliases = {name: key for key, name in published.items() if often[name] == 1}
    return aliases | {question.id: question.id for question in questions}


def _records(path: Path) -> Iterator[tuple[str, str | None]]:
    if path.suffix == ".xlsx":
        for entry in _excel_rows(path):
            yield _record(path, entry)
        return
    try:
        text = read_text(path, MAX_JSON_BYTES)
        content = (
            [parse_json(line) for line in text.split("\n") if line.strip()]
            if path.suffix == ".jsonl"
            else (parse_json(text))
        )
    except (OSError, ValueError) as error:
        raise EvaluationError(
            f"The predictions {path} cannot be read ({error}): give JSON, JSON Lines or Excel."
        ) from error
    if isinstance(content, list):
        for entry in content:
            yield _record(path, entry)
        return
    if not isinstance(content, dict):
        raise EvaluationError(f"The predictions {path} are {str(content)[:60]!r}: a list or an object is expected.")
    for key, value in content.items():
        if isinstance(value, dict) and {"multiple_choice", "direct_answer"} & set(value):
            if "direct_answer" in value:
                yield key, str(value["direct_answer"])
            if "multiple_choice" in value:
                yield f"{key}:choice", str(value["multiple_choice"])
        elif isinstance(value, str):
            yield key, value
        else:
            raise EvaluationError(f"{path}: the answer to {key!r} is {str(value)[:60]!r}, but text is expected.")


def _record(path: Path, entry: Any) -> tuple[str, str | None]:
    """The question and the answer of an entry."""
    keys = [name for name in _IDS if isinstance(entry, dict) and name in entry]
    texts = [name for name in _TEXTS if isinstance(entry, dict) and name in entry]
    if not keys or not texts:
        raise EvaluationError(
            f"{path}: {str(entry)[:80]!r} is no answer: an object with one of {', '.join(_IDS)} and one of "
            f"{', '.join(_TEXTS)} is expected."
        )
    text = entry[texts[0]]
    if text is not None and not isinstance(text, str):
        raise EvaluationError(f"{path}: the answer to {entry[keys[0]]!r} is {text!r}, but text is expected.")
    return str(entry[keys[0]]), text


def _excel_rows(path: Path) -> Iterable[dict[str, Any]]:
    from .benchmark_choice import find_openpyxl

    openpyxl = find_openpyxl()
    if openpyxl is None:
        raise EvaluationError(f"{path} is an Excel file, which needs openpyxl: pip install 'vigc[mmbench]'.")
    try:
        rows = list(openpyxl.load_workbook(path, read_only=True).active.iter_rows(values_only=True))
    except (OSError, BadZipFile, KeyError, ValueError) as error:
        raise EvaluationError(
            f"The predictions {path} cannot be read ({error}): give an Excel table (.xlsx)."
        ) from error
    head = list(rows[0]) if rows else []
    if not {"index", "prediction"} <= set(head):
        raise EvaluationError(f"The table {path} has the columns {head}: 'index' and 'prediction' are expected.")
    for row in rows[1:]:
        entry = dict(zip(head, row, strict=True))
        yield {"index": entry["index"], "prediction": str(entry["prediction"] or "")}
