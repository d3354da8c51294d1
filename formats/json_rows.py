"""Reads the rows of JSON lists and JSON Lines, detected by content and optionally compressed by gzip."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from vigc.errors import AnnotationError, cut
from vigc.processing.bounded_parsing import JsonObject, parse_json

from .file_forms import DAMAGED_GZIP, Form, form_of, opened
from .json_stream import MAX_VALUE, JsonReader, is_text, naming_trouble

_NO_TEXT = "has bytes that are not UTF-8, or a lone surrogate: get the file again."


def json_form(path: Path) -> Form:
    """Like [`form_of`], but raises an `AnnotationError` if the file cannot be read."""
    with naming_trouble(path):
        return form_of(path)


def stream_entries(path: Path, key: str | None = None) -> Iterator[Any]:
    """The entries of a JSON list or of JSON Lines, in the file's order.

    Args:
        path: The file.
        key: The key of the list in the file's object; by default the file is itself a list, or JSON Lines.

    Raises:
        AnnotationError: The file cannot be read, has another format, or is damaged or truncated. The message names the
            entry.
    """
    if key is None and json_form(path) is Form.LINES:
        yield from _entries_of_lines(path)
        return
    reader = JsonReader(path)
    if key is None:
        if (top := reader.top()) != "[":
            raise AnnotationError(path, f"starts with {top!r}, but a list of entries ([...]) is expected.")
    else:
        _go_to(reader, key)
    for entry in reader.elements():
        if not is_text(entry):
            raise AnnotationError(path, _NO_TEXT, reader.index, reader.line)
        yield entry
    if key is None:
        reader.end()


def _entries_of_lines(path: Path) -> Iterator[Any]:
    for index, (number, entry) in enumerate(_read_lines(path)):
        if isinstance(entry, AnnotationError):
            raise AnnotationError(path, entry.reason, index, entry.line) from entry.__cause__
        if not is_text(entry):
            raise AnnotationError(path, _NO_TEXT, index, number)
        yield entry


def _go_to(reader: JsonReader, key: str) -> None:
    """Moves the reader to the list at `key` in the file's object."""
    if (top := reader.top()) != "{":
        raise AnnotationError(reader.path, f"starts with {top!r}, but an object with {key!r} ({{...}}) is expected.")
    found = []
    for name in reader.members():
        if name == key:
            if (top := reader.top()) != "[":
                raise AnnotationError(reader.path, f"{key!r} starts with {top!r}, but should be a list.")
            return
        found.append(cut(name))
        reader.skip()  # streamed: other lists of such files are just as long
    names = ", ".join(map(repr, found))
    raise AnnotationError(reader.path, f"has no {key!r}, only {names or 'an empty object'}.")


def read_rows(path: Path) -> Iterator[tuple[str, Any]]:
    """(position, row) of each row of a JSON list or JSON Lines; in place of an invalid row an `AnnotationError`.

    The format is detected by content, not by name. In JSON Lines only the invalid line is lost. A truncated list ends
    with an error as its last row.

    Raises:
        AnnotationError: The file cannot be read, is neither, or has text after its list.
    """
    if json_form(path) is Form.LINES:
        for number, row in _read_lines(path):
            yield f"line {number}", row
        return
    reader = JsonReader(path)
    if (top := reader.top()) != "[":
        if top == "{" and (row := _only_row(path)) is not None:
            yield "line 1", row
            return
        reason = "give a JSON list of rows, or JSON Lines, an object on each line."
        raise AnnotationError(path, f"starts with {top!r}: {reason}" if top else f"is empty: {reason}")
    rows, number = reader.elements(), 0
    while True:
        place = f"entry {number}, line {reader.line}"  # many files are one line
        number += 1
        try:
            row = next(rows)
        except StopIteration:
            reader.end()
            return
        except AnnotationError as error:
            if isinstance(error.__cause__, OSError) and not isinstance(error.__cause__, DAMAGED_GZIP):
                raise
            yield place, error
            return
        yield place, row


def _only_row(path: Path) -> JsonObject | None:
    """The row of a file that has only one, on one line; None if the file has another structure."""
    ((_, row), *more) = [item for item, _ in zip(_read_lines(path), range(2), strict=False)]
    return row if isinstance(row, dict) and not more else None


def _read_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """(line number, value or `AnnotationError`) of each line that is not blank."""
    number = 0
    try:
        with naming_trouble(path), io.TextIOWrapper(opened(path), "utf-8-sig", "surrogateescape") as file:
            for number, text in _numbered(file):
                if text is None:
                    reason = f"is longer than {MAX_VALUE:,} characters: correct or remove the line."
                    yield number, AnnotationError(path, reason, line=number)
                elif text.strip():
                    yield number, _value(path, number, text)
    except AnnotationError as error:
        if not isinstance(error.__cause__, DAMAGED_GZIP):
            raise
        yield number + 1, error


def _value(path: Path, number: int, text: str) -> Any:
    try:
        return parse_json(text)
    except ValueError as error:
        error_in_line = AnnotationError(path, f"is not valid JSON ({error}): correct or remove the line.", line=number)
        error_in_line.__cause__ = error
        return error_in_line


def _numbered(file: TextIO) -> Iterator[tuple[int, str | None]]:
    """(line number from 1, line) of each line; None instead of a line that is too long to parse."""
    number = 1
    while text := file.readline(MAX_VALUE):
        if long := not text.endswith("\n") and len(text) >= MAX_VALUE:
            while (rest := file.readline(2**20)) and not rest.endswith("\n"):
                pass
        yield number, None if long else text
        number += 1
