"""Answers to a benchmark's questions: a journal of a running evaluation, and files of existing answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import NoneType
from typing import Any
from zipfile import BadZipFile

from vigc.errors import AnnotationError, EvaluationError, reason_of
from vigc.jobs.store import LineStore

from .base import Predictions, Question
from .entries import Entry, read_json

# Names of the fields of answers and questions in common files.
_TEXTS = ("text", "prediction", "answer", "caption", "response")
_IDS = ("question_id", "index", "image_id", "id")
_EXCEL = b"PK\x03\x04"


@dataclass(frozen=True, slots=True)
class Prediction:
    """A model's answer to a question: a line of a predictions file.

    Args:
        question_id: Id of the question.
        text: The answer; None if the image could not be opened.
        reason: Why there is no answer.
    """

    question_id: str
    text: str | None
    reason: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The entries of its line."""
        line = {"question_id": self.question_id, "text": self.text}
        return {**line, "reason": self.reason} if self.reason is not None else line

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Prediction:
        """Parses a line.

        Raises:
            KeyError: A field is missing.
            ValueError: The id or the answer is not text.
        """
        if not isinstance(record["question_id"], str) or not isinstance(record["text"], (str, NoneType)):
            raise ValueError("the id or the answer is not text")
        return cls(record["question_id"], record["text"], record.get("reason"))


class PredictionFile(LineStore[str, Prediction]):
    """The predictions of a run by question, on the disk before `add` returns: no question in it is asked again.

    Args:
        path: The file, JSON Lines.

    Raises:
        EvaluationError: The file holds something else.
        BusyError: Another process has it open.
        LinkError: Its lock is a symbolic link.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(
            path,
            key=lambda prediction: prediction.question_id,
            to_json=Prediction.to_json,
            from_json=Prediction.from_json,
            what="answer",
            says=lambda prediction: f"answers question {prediction.question_id!r}",
            error=EvaluationError,
            start=b'{"question_id": ',
        )

    def __enter__(self) -> PredictionFile:
        super().__enter__()
        return self


@dataclass(frozen=True, slots=True)
class Answer:
    """An existing answer.

    Args:
        question_id: Id of the question; None in POPE's layout, where answers are in the order of the questions.
        text: The answer; None if the image could not be opened.
        question: The question, if the file has it.
        answer_id: Id of the answer, if the file has it.
        model: Name of the model, if the file has it.
    """

    question_id: str | None
    text: str | None
    question: str | None = None
    answer_id: str | int | None = None
    model: str | None = None


@dataclass(frozen=True)
class GivenAnswers:
    """The answers of a file.

    Args:
        path: The file.
        answers: The answers, in the order of the file.
    """

    path: Path
    answers: list[Answer]

    @property
    def model(self) -> str:
        """The model, if it is the same for all answers; else the file's name."""
        models = {answer.model for answer in self.answers}
        (model,) = models if len(models) == 1 else (None,)
        return model or self.path.stem

    def are_about(self, question: Question) -> bool:
        """Whether the question has an answer, by either of its ids."""
        return not self._ids.isdisjoint({question.id, _published_id(question)})

    def to(self, questions: Sequence[Question]) -> tuple[Predictions, int]:
        """The texts by question id, and the number of answers to other questions.

        Raises:
            EvaluationError: A question has no answer, or more than one.
        """
        answers = self._in_order(questions) if self.answers and not self._ids else self.answers
        aliases = _aliases(questions)
        found: dict[str, str | None] = {}
        unknown: list[str] = []
        for answer in answers:
            key = str(answer.question_id)
            if key not in aliases:
                unknown.append(key)
            elif aliases[key] in found:
                raise EvaluationError(f"{self.path} answers question {key!r} twice: keep one answer for each.")
            else:
                found[aliases[key]] = answer.text
        missing = [question.id for question in questions if question.id not in found]
        if missing:
            hint = f", and {len(unknown)} that are not asked, the first {unknown[0]!r}" if unknown else ""
            raise EvaluationError(
                f"{self.path} lacks answers to {len(missing)} of {len(questions)} questions, the first "
                f"{missing[0]!r}{hint}. Answer all of them; an empty text counts as wrong."
            )
        return found, len(unknown)

    @cached_property
    def _ids(self) -> frozenset[str]:
        return frozenset(answer.question_id for answer in self.answers if answer.question_id is not None)

    def _in_order(self, questions: Sequence[Question]) -> list[Answer]:
        """Assigns ids to answers without ids, by the order of the questions."""
        if len(self.answers) != len(questions):
            raise EvaluationError(
                f"{self.path} has {len(self.answers)} answers without a question's id, and {len(questions)} questions "
                "are asked: give one for each, in their order, or ids. POPE's settings are chosen by --split."
            )
        placed = []
        for place, (answer, question) in enumerate(zip(self.answers, questions, strict=True)):
            asked = answer.question or ""
            if question.text not in asked and question.prompt not in asked:
                raise EvaluationError(
                    f"{self.path}: answer {place} is to {asked[:80]!r}, but question {question.id!r} is "
                    f"{question.prompt[:80]!r}: give ids, or answers in the order of the questions."
                )
            placed.append(Answer(question.id, answer.text))
        return placed


def read_answers(path: Path) -> GivenAnswers:
    """Reads existing answers: a predictions file, a benchmark's submission, or objects with a question and a text.

    The format is detected by content: a JSON list or object, JSON Lines, or an Excel table in MMBench's layout. The
    field of the question is `question_id`, `index`, `image_id` or `id`; the field of the answer is `text`,
    `prediction`, `answer`, `caption` or `response`. A-OKVQA's object is `{question_id: {multiple_choice,
    direct_answer}}`. POPE's layout, `{question, answer}`, has no ids: answers are in the order of the questions.

    Raises:
        EvaluationError: The file cannot be read, or has another layout.
    """
    if _is_excel(path):
        return GivenAnswers(path, [_answer(path, entry) for entry in _excel_rows(path)])
    try:
        content = read_json(path)
    except AnnotationError as error:
        raise EvaluationError(f"The predictions cannot be read as JSON, JSON Lines or Excel: {error}") from error
    if isinstance(content, dict) and _is_entry(content):
        content = [content]  # JSON Lines with one line
    _refuse_other_outputs(path, content)
    if isinstance(content, list):
        answers = [_answer(path, entry) for entry in content]
        if len({answer.question_id is None for answer in answers}) > 1:
            raise EvaluationError(f"{path} has answers with and without a question's id: give all of them one.")
        return GivenAnswers(path, answers)
    if not isinstance(content, dict):
        raise EvaluationError(f"The predictions {path} are {str(content)[:60]!r}: a list or an object is expected.")
    return GivenAnswers(path, list(_by_question(path, content)))


def _is_entry(content: Mapping[str, Any]) -> bool:
    return any(name in content for name in (*_IDS, "question")) and any(name in content for name in _TEXTS)


def _by_question(path: Path, content: Mapping[str, Any]) -> Iterator[Answer]:
    for key, value in content.items():
        if isinstance(value, dict) and {"multiple_choice", "direct_answer"} & set(value):
            if "direct_answer" in value:
                yield Answer(key, str(value["direct_answer"]))
            if "multiple_choice" in value:
                yield Answer(f"{key}:choice", str(value["multiple_choice"]))
        elif isinstance(value, str):
            yield Answer(key, value)
        else:
            raise EvaluationError(f"{path}: the answer to {key!r} is {str(value)[:60]!r}, but text is expected.")


def _refuse_other_outputs(path: Path, content: Any) -> None:
    """Refuses other output files of `vigc evaluate`, and suggests the file of answers."""
    first = content[0] if isinstance(content, list) and content else content
    fields = set(first) if isinstance(first, dict) else set()
    kinds = {"figures": {"benchmark", "figures"}, "settings": {"benchmark", "asked"}, "scores": {"image_id", "counts"}}
    kind = next((kind for kind, names in kinds.items() if names <= fields), None)
    if kind is None:
        return
    own = path.with_name(f"{path.stem.removesuffix('.run').removesuffix('.scores')}.predictions.jsonl")
    what = f"give {own}" if own.is_file() else "give the file of answers that was scored"
    raise EvaluationError(f"{path} holds the {kind} of an evaluation, not its answers: {what}.")


def _published_id(question: Question) -> str:
    return str(question.reference.get("question_id", question.id))


def _aliases(questions: Sequence[Question]) -> dict[str, str]:
    """Maps all names of questions to their ids: the id itself, and the published id if it is unique."""
    published = {question.id: _published_id(question) for question in questions}
    often = Counter(published.values())
    aliases = {name: key for key, name in published.items() if often[name] == 1}
    return aliases | {question.id: question.id for question in questions}


def _answer(path: Path, entry: Any) -> Answer:
    """Parses an entry."""
    fields = entry if isinstance(entry, dict) else {}
    keys, texts = ([name for name in names if name in fields] for names in (_IDS, _TEXTS))
    asked, model = (_text_or_none(fields.get(name)) for name in ("question", "model_id"))
    if not texts or (not keys and asked is None):
        raise EvaluationError(
            f"{path}: {str(entry)[:80]!r} is no answer: an object with one of {', '.join(_IDS)} and one of "
            f"{', '.join(_TEXTS)} is expected."
        )
    text, key = fields[texts[0]], fields[keys[0]] if keys else None
    if text is not None and not isinstance(text, str):
        raise EvaluationError(
            f"{path}: the answer to {asked if key is None else key!r} is {text!r:.60}, but text is expected."
        )
    return Answer(str(key) if keys else None, text, asked, fields.get("answer_id"), model)


def _text_or_none(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _is_excel(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(_EXCEL)) == _EXCEL
    except OSError as error:
        raise EvaluationError(f"The predictions {path} cannot be read ({error.strerror}): check the path.") from error


def _excel_rows(path: Path) -> Iterable[Entry]:
    from .choice import find_openpyxl

    openpyxl = find_openpyxl()
    if openpyxl is None:
        raise EvaluationError(f"{path} is an Excel file, which needs openpyxl: pip install 'vigc[mmbench]'.")
    try:
        # A file object, because openpyxl otherwise checks the extension.
        with path.open("rb") as file:
            rows = list(openpyxl.load_workbook(file, read_only=True).active.iter_rows(values_only=True))
    except (OSError, BadZipFile, KeyError, ValueError) as error:
        raise EvaluationError(
            f"The predictions {path} cannot be read ({reason_of(error, path=False)}): give an Excel table (.xlsx)."
        ) from error
    head = list(rows[0]) if rows else []
    if not {"index", "prediction"} <= set(head):
        raise EvaluationError(f"The table {path} has the columns {head}: 'index' and 'prediction' are expected.")
    for row in rows[1:]:
        entry = dict(zip(head, row, strict=True))
        yield {"index": entry["index"], "prediction": str(entry["prediction"] or "")}
