"""Reads the entries of large JSON files one by one, in memory that the largest entry decides."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_CHUNK = 1 << 20
_SPACE = " \t\n\r"
_AFTER_NUMBER = (*_SPACE, ",", "]", "}")


class AnnotationError(ValueError):
    """A file of annotations that is refused.

    Args:
        path: The file.
        reason: What is wrong, the value, and what can be done about it.
        index: Which entry of its list, counted from 0, if it is one of them.
    """

    def __init__(self, path: Path, reason: str, index: int | None = None) -> None:
        place = "" if index is None else f", entry {index}"
        super().__init__(f"{path}{place}: {reason}")
        self.path = path
        self.index = index
        self.reason = reason


def stream_entries(path: Path, key: str | None = None) -> Iterator[Any]:
    """The entries of a JSON list, in their order.

    Args:
        path: The file.
        key: The list is the value of this key of an object; by default the file is a list.

    Raises:
        AnnotationError: The file cannot be read, is not of that form, is damaged or cut off; it names the entry.
    """
    try:
        with path.open(encoding="utf-8-sig") as file:
            cursor = _Cursor(path, file)
            if key is not None:
                _go_to(cursor, key)
            elif cursor.peek() != "[":
                raise AnnotationError(
                    path, f"starts with {cursor.peek()!r}, but a list of entries ([...]) is expected."
                )
            yield from _entries(cursor)
            if key is None and (rest := cursor.peek()):
                raise AnnotationError(path, f"goes on with {rest!r} after its list: get the file again.")
    except OSError as error:
        raise AnnotationError(path, f"cannot be read ({error.strerror}): check the path.") from error
    except UnicodeDecodeError as error:
        raise AnnotationError(path, f"is not UTF-8 text ({error.reason} at byte {error.start}).") from error


def _go_to(cursor: _Cursor, key: str) -> None:
    """Places the cursor at the list that `key` names in the file's object."""
    if cursor.peek() != "{":
        raise AnnotationError(
            cursor.path, f"starts with {cursor.peek()!r}, but an object with {key!r} ({{...}}) is expected."
        )
    cursor.take()
    found = []
    while cursor.peek() != "}":
        name = cursor.value()
        found.append(name)
        if cursor.take() != ":":
            raise AnnotationError(cursor.path, f"has no ':' after {name!r}: it is damaged, get the file again.")
        if name == key:
            if cursor.peek() != "[":
                raise AnnotationError(cursor.path, f"{key!r} starts with {cursor.peek()!r}, but should be a list.")
            return
        # Other lists of such files are as long as the one looked for.
        if cursor.peek() == "[":
            for _ in _entries(cursor):
                pass
        else:
            cursor.value()
        if cursor.peek() == ",":
            cursor.take()
    names = ", ".join(repr(name) for name in found)
    raise AnnotationError(cursor.path, f"has no {key!r}, only {names or 'an empty object'}.")


def _entries(cursor: _Cursor) -> Iterator[Any]:
    cursor.take()
    index = 0
    while cursor.peek(index) != "]":
        yield cursor.value(index)
        index += 1
        mark = cursor.peek(index)
        if mark == ",":
            cursor.take()
            if cursor.peek(index) == "]":
                raise AnnotationError(cursor.path, "a ',' ends the list: get the file again.", index)
        elif mark != "]":
            raise AnnotationError(cursor.path, f"{mark!r} stands where ',' or ']' should: get the file again.", index)
    cursor.take()


class _Cursor:
    """A place in a text file that is read as far as needed."""

    def __init__(self, path: Path, file: Any) -> None:
        self.path = path
        self._file = file
        self._decoder = json.JSONDecoder()
        self._text = ""
        self._at = 0

    def peek(self, index: int | None = None) -> str:
        """The next character that is no white space; "" at the end, which is an error inside a list."""
        while True:
            while self._at < len(self._text) and self._text[self._at] in _SPACE:
                self._at += 1
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more(_CHUNK):
                if index is not None:
                    raise AnnotationError(self.path, "the file ends here: it was cut off, get it again.", index)
                return ""

    def take(self) -> str:
        mark = self.peek()
        self._at += len(mark)
        return mark

    def value(self, index: int | None = None) -> Any:
        """The next JSON value."""
        self.peek()
        wanted = _CHUNK
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                # Damaged, or not all there yet; reading twice as much each time keeps the sum of all attempts linear.
                if not self._more(wanted):
                    raise AnnotationError(
                        self.path, f"is not valid JSON ({error.msg}): get the file again.", index
                    ) from error
                wanted *= 2
                continue
            except RecursionError as error:
                raise AnnotationError(self.path, "is nested too deeply to be one of these files.", index) from error
            # What was read may end within a number, "12" of "12.5": one is whole when something else follows it.
            number = isinstance(value, (int, float))
            if number and self._text[end : end + 1] not in _AFTER_NUMBER and self._more(wanted):
                continue
            self._at = end
            return value

    def _more(self, size: int) -> bool:
        text = self._file.read(size)
        self._text = self._text[self._at :] + text
        self._at = 0
        return bool(text)
