"""Reads JSON and JSON Lines files, detected by content instead of the extension."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vigc.errors import AnnotationError, reason_of
from vigc.processing.bounded_parsing import MAX_JSON_BYTES, decode_json, read_text

# A JSON object of a published file; its reader checks the fields.
Entry = Mapping[str, Any]

_SPACE = re.compile(r"[ \t\n\r]*")


def read_json(path: Path) -> Any:
    """The values of a JSON Lines file as a list, or the single value (a list or an object) of a JSON file.

    Raises:
        AnnotationError: The file cannot be read, or is not valid JSON; the message gives the line.
    """
    try:
        text = read_text(path, MAX_JSON_BYTES)
    except (OSError, ValueError) as error:
        raise AnnotationError(path, f"cannot be read ({reason_of(error, path=False)}).") from error
    values = list(_values(path, text))
    return values[0] if len(values) == 1 else values


def read_entries(path: Path, *fields: str) -> list[Entry]:
    """The entries of a JSON list or of a JSON Lines file.

    Args:
        path: The file.
        fields: Fields that every entry must have.

    Raises:
        AnnotationError: The file is invalid, or an entry is not an object or lacks a field.
    """
    content = read_json(path)
    entries = content if isinstance(content, list) else [content]
    return [checked(path, index, entry, fields) for index, entry in enumerate(entries)]


def checked(path: Path, index: int, entry: Any, fields: Sequence[str]) -> Entry:
    """Returns the entry after checking that it is an object with these fields.

    Raises:
        AnnotationError: The entry is not an object or lacks a field.
    """
    if not isinstance(entry, dict):
        raise AnnotationError(path, f"is {str(entry)[:80]!r}, but an object with named fields is expected.", index)
    if missing := [name for name in fields if name not in entry]:
        has = ", ".join(map(repr, entry))
        raise AnnotationError(path, f"has no {missing[0]!r}, only {has}: is it the published file?", index)
    return entry


def json_lines(records: Sequence[Mapping[str, Any]]) -> bytes:
    """Records as a JSON Lines file."""
    return "".join(json.dumps(record) + "\n" for record in records).encode()


def _values(path: Path, text: str) -> Iterator[Any]:
    """Parses consecutive JSON values that are separated by white space."""
    at = 0
    while (at := _end_of_space(text, at)) < len(text):
        try:
            value, at = decode_json(text, at)
        except ValueError as error:
            begin = text.count("\n", 0, at) + 1
            line = getattr(error, "lineno", begin)
            reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
            where = "" if line == begin else f", in a value that begins in line {begin}"
            raise AnnotationError(
                path, f"is not valid JSON ({reason}{where}): get the file again.", line=line
            ) from error
        yield value


def _end_of_space(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at
