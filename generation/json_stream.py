"""JSON files larger than memory, an element at a time, with the file and line of what is wrong in them."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .errors import GenerationError, is_passing

_BLOCK = 2**20
_SPACE = re.compile(r"[ \t\n\r]*")
_DECODER = json.JSONDecoder()


class JsonReader:
    """Reads one JSON file from its beginning to its end, once.

    Bytes that are not UTF-8 come out as lone surrogates (`is_text` finds them), so that one bad row does not cost the
    others.

    Args:
        path: The file.

    Raises:
        GenerationError: It cannot be opened, or, while reading, it is not JSON: the message names the line.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self._text, self._at, self._lines = "", 0, 1
        self._fill()
        self._text = self._text.removeprefix("\ufeff")

    def top(self) -> str:
        """The character that the file begins with: "[" for a list, "{" for an object."""
        return self._peek()

    def elements(self) -> Iterator[Any]:
        """The elements of the list that comes next, each parsed alone."""
        self._expect("[")
        if self._peek() == "]":
            self._expect("]")
            return
        while True:
            yield self.value()
            if self._peek() == "]":
                self._expect("]")
                return
            self._expect(",")

    def members(self) -> Iterator[str]:
        """The names in the object that comes next; read each member's value before asking for the next name."""
        self._expect("{")
        if self._peek() == "}":
            self._expect("}")
            return
        while True:
            name = self.value()
            self._expect(":")
            yield str(name)
            if self._peek() == "}":
                self._expect("}")
                return
            self._expect(",")

    def value(self) -> Any:
        """The value that comes next, whole."""
        self._peek()
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                if not self._fill():
                    raise self._wrong(f"{error.msg}", error.pos) from error
                continue
            # A number may go on in the next block.
            if end == len(self._text) and self._fill():
                continue
            self._at = end
            return value

    def line(self) -> int:
        """The line that is being read, from 1."""
        return self._lines + self._text.count("\n", 0, self._at)

    def _peek(self) -> str:
        while True:
            match = _SPACE.match(self._text, self._at)
            self._at = match.end() if match else self._at
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._fill():
                raise self._wrong("the file ends here", self._at)

    def _expect(self, mark: str) -> None:
        if self._peek() != mark:
            raise self._wrong(f"{mark!r} is expected", self._at)
        self._at += 1

    def _fill(self) -> bool:
        """Reads on; what was used up is let go. Larger steps for larger values keep parsing anew affordable."""
        try:
            with self.path.open("rb") as file:  # anew each time: nobody has to read to the end for it to be closed
                file.seek(self._offset)
                data = file.read(max(_BLOCK, len(self._text) - self._at))
        except OSError as error:
            if is_passing(error):
                raise
            raise GenerationError(f"{str(self.path)!r} cannot be read ({error.strerror}): give a JSON file.") from error
        self._offset += len(data)
        self._lines += self._text.count("\n", 0, self._at)
        self._text = self._text[self._at :] + self._decoder.decode(data, final=not data)
        self._at = 0
        return bool(data)

    def _wrong(self, what: str, at: int) -> GenerationError:
        line = self._lines + self._text.count("\n", 0, at)
        return GenerationError(f"{str(self.path)!r}, line {line}: not valid JSON ({what}): get the file again.")


def is_text(value: Any) -> bool:
    """Whether all texts in a value that was read are valid Unicode."""
    if isinstance(value, str):
        return value.isascii() or not any("\ud800" <= char <= "\udfff" for char in value)
    if isinstance(value, dict):
        return all(is_text(item) for pair in value.items() for item in pair)
    return all(map(is_text, value)) if isinstance(value, list) else True


def read_rows(path: Path) -> Iterator[tuple[str, Any]]:
    """Where each row of a JSON list or a JSON Lines file stands, with the row; or a `GenerationError` in its place.

    Of JSON Lines a line that is no JSON costs itself. A list that is cut off ends with an error as its last row.
    """
    if path.suffix.lower() in (".jsonl", ".ndjson"):
        yield from _read_lines(path)
        return
    reader = JsonReader(path)
    if reader.top() != "[":
        raise GenerationError(f"{str(path)!r} holds no list of rows: give a JSON list, or JSON Lines as .jsonl.")
    rows, number = reader.elements(), 0
    while True:
        place = f"entry {number}, line {reader.line()}"  # many files are one line
        number += 1
        try:
            row = next(rows)
        except StopIteration:
            return
        except GenerationError as error:
            yield place, error
            return
        yield place, row


def _read_lines(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        file = path.open(encoding="utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise GenerationError(f"{str(path)!r} cannot be read ({error.strerror}): give a JSON file.") from error
    with file:
        for number, text in enumerate(file, 1):
            if not text.strip():
                continue
            try:
                yield f"line {number}", json.loads(text)
            except ValueError as error:
                yield f"line {number}", GenerationError(f"{path.name!r}, line {number}: not valid JSON ({error}).")
