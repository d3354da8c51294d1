"""Streams JSON files larger than memory, by element or by block; errors name the line and the entry."""

from __future__ import annotations

import codecs
import json
import re
import weakref
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.json

from vigc.errors import AnnotationError, NestingError
from vigc.processing.bounded_parsing import decode_json

from .file_forms import DAMAGED_GZIP, opened

_CHUNK = 1 << 20
_BLOCK = 4 << 20
_BLOCKS_AHEAD = 2
# After a block that failed, this many elements are read one by one before the next block is tried.
_ONE_BY_ONE = 20_000
# Characters of one value: more than a real entry has, and few enough to parse.
MAX_VALUE = 256 * 2**20
_SPACE = re.compile(r"[ \t\n\r]*")
_AFTER_NUMBER = (*" \t\n\r", ",", "]", "}")


@contextmanager
def naming_trouble(path: Path, index: int | None = None) -> Iterator[None]:
    """Turns errors of opening or reading a file into an `AnnotationError`."""
    try:
        yield
    except DAMAGED_GZIP as error:
        raise AnnotationError(path, f"is a damaged gzip file ({error}): get it again.", index) from error
    except OSError as error:
        raise AnnotationError(path, f"cannot be read ({error.strerror or error}): check the path.", index) from error


class JsonReader:
    """Reads a JSON file, optionally compressed by gzip, once from start to end.

    Bytes that are not UTF-8 become lone surrogates (`is_text` finds them), so that one bad entry does not affect the
    others. Every method raises an `AnnotationError` if the file is not valid JSON (it names line and entry) or cannot
    be read (its cause is the `OSError`).

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.index: int | None = None  # of the element being read
        with naming_trouble(path):
            self._file = opened(path)
        weakref.finalize(self, self._file.close)  # closes the file even if it is not read to the end
        self._damage: Exception | None = None
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")("surrogateescape")
        self._text, self._at, self._lines, self._counted = "", 0, 1, 0
        self._fill()

    @property
    def line(self) -> int:
        """The line being read, from 1."""
        # Incremental, because it is called for each row.
        self._lines += self._text.count("\n", self._counted, self._at)
        self._counted = self._at
        return self._lines

    def top(self) -> str:
        """The next character: "[" for a list, "{" for an object; "" at the end of the file."""
        while True:
            match = _SPACE.match(self._text, self._at)
            self._at = match.end() if match else self._at
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._fill():
                return ""

    def elements(self) -> Iterator[Any]:
        """The elements of the next list, parsed one at a time."""
        self._expect("[")
        self.index = 0
        while self._continues("]"):
            yield self.value()
            self._after_element()
        self.index = None

    def blocks(self, kind: pa.StructType) -> Iterator[pa.StructArray | list[Any]]:
        """The elements of the next list, thousands at a time where they have the same structure.

        `index` is that of the block's first element. Elements of the same structure are read into columns, without
        Python objects, several times as fast as by [`elements`].

        Args:
            kind: Names and types of the fields to read; other fields are skipped.

        Yields:
            An array of `kind`, null where an element lacks a field. Near an element with a field of another type, and
            at the end of the list: lists of whole elements as Python values.
        """
        self._expect("[")
        self.index = 0
        while self._continues("]"):
            for block in self._arrays(kind):
                yield block
                self.index = (self.index or 0) + len(block)
            for _ in range(_ONE_BY_ONE):
                if self.top() == "]":
                    break
                yield [self.value()]
                self._after_element()
        self.index = None

    def members(self) -> Iterator[str]:
        """The names in the next object. Read the value of each member before you request the next name."""
        self._expect("{")
        while self._continues("}"):
            name = self.value()
            self._expect(":")
            yield str(name)
            self._after("}", "object")

    def value(self) -> Any:
        """The next value, complete."""
        self._next()
        while True:
            try:
                value, end = decode_json(self._text, self._at)
            except json.JSONDecodeError as error:
                # Damaged, or not read completely yet.
                if len(self._text) - self._at > MAX_VALUE:
                    reason = f"has a value of more than {MAX_VALUE:,} characters, or one that never ends: correct it."
                    raise self._wrong(reason) from None
                if not self._fill():
                    raise self._wrong(f"is not valid JSON ({error.msg}): get the file again.", error.pos) from error
                continue
            except NestingError as error:
                raise self._wrong("is nested too deeply for an annotation file.") from error
            except ValueError as error:
                # Python parses no integer of more than 4,300 digits; no real annotation file has one.
                raise self._wrong(f"has an invalid number ({error}): correct it.") from error
            # The text read so far may end inside a number ("12" of "12.5"): it is complete if another token follows.
            number = isinstance(value, (int, float))
            if number and self._text[end : end + 1] not in _AFTER_NUMBER and self._fill():
                continue
            self._at = end
            return value

    def skip(self) -> None:
        """Skips the next value; the elements of a list are skipped one by one."""
        if self.top() == "[":
            for _ in self.elements():
                pass
        else:
            self.value()

    def end(self) -> None:
        """Checks that nothing follows: if two files were concatenated, the second would be lost silently."""
        if rest := self.top():
            raise self._wrong(f"has {rest!r} after its end: join lists into one, or get the file again.")

    def _next(self) -> str:
        mark = self.top()
        if not mark:
            raise self._wrong("the file ends here: it was cut off, get it again.")
        return mark

    def _expect(self, mark: str) -> None:
        if (found := self._next()) != mark:
            raise self._wrong(f"has {found!r} instead of {mark!r}: get the file again.")
        self._at += 1

    def _continues(self, end: str) -> bool:
        if self._next() != end:
            return True
        self._at += 1
        return False

    def _after_element(self) -> None:
        self.index = (self.index or 0) + 1
        self._after("]", "list")

    def _after(self, end: str, what: str) -> None:
        mark = self._next()
        if mark == ",":
            self._at += 1
            if self._next() == end:
                raise self._wrong(f"a ',' ends the {what}: get the file again.")
        elif mark != end:
            raise self._wrong(f"has {mark!r} instead of ',' or {end!r}: get the file again.")

    def _arrays(self, kind: pa.StructType) -> Iterator[pa.StructArray]:
        """Blocks of the next elements, parsed ahead in threads, until a block cannot be parsed."""
        waiting: deque[tuple[Future[pa.StructArray | None], int]] = deque()
        ahead = 0
        with ThreadPoolExecutor(_BLOCKS_AHEAD) as threads:
            while True:
                while len(waiting) < _BLOCKS_AHEAD and (size := self._block(ahead)):
                    start = self._at + ahead
                    waiting.append((threads.submit(_array, self._text[start : start + size], kind), size))
                    ahead += size + 1
                if not waiting:
                    return
                future, size = waiting.popleft()
                if (block := future.result()) is None:
                    return
                self._at += size + 1  # with its comma
                ahead -= size + 1
                yield block

    def _block(self, ahead: int) -> int:
        """Length of the next block of elements, `ahead` characters from here, probably complete; 0 if none."""
        while len(self._text) - self._at - ahead < _BLOCK and self._fill(_BLOCK):
            pass
        start = self._at + ahead
        comma = _last_comma(self._text, start, start + _BLOCK)
        return comma - start if comma > 0 else 0

    def _fill(self, size: int = 0) -> bool:
        """Reads more text, drops the consumed part. Steps grow with the value, so that parsing it again stays cheap."""
        data = self._read(max(_CHUNK, size, len(self._text) - self._at))
        self._lines += self._text.count("\n", self._counted, self._at)
        self._text = self._text[self._at :] + self._decoder.decode(data, final=not data)
        self._at = self._counted = 0
        return bool(data)

    def _read(self, size: int) -> bytes:
        """Reads `size` bytes, fewer at the end. From a damaged gzip file, all data before the damage is read first."""
        parts, read = [], 0
        with naming_trouble(self.path, self.index):
            if self._damage is not None:
                raise self._damage
            try:
                while read < size and (part := self._file.read1(size - read)):
                    parts.append(part)
                    read += len(part)
            except DAMAGED_GZIP as error:
                if not parts:
                    raise
                self._damage = error
        return b"".join(parts)

    def _wrong(self, reason: str, at: int | None = None) -> AnnotationError:
        line = self.line + (0 if at is None else self._text.count("\n", self._at, at))
        return AnnotationError(self.path, reason, self.index, line)


def _last_comma(text: str, start: int, end: int) -> int:
    """The last comma that probably separates two top-level objects; -1 if there is none."""
    while (brace := text.rfind("{", start, end)) > start:
        before = text[max(start, brace - 64) : brace].rstrip()
        if before.endswith(",") and before[:-1].rstrip().endswith("}"):
            return text.rfind(",", start, brace)
        end = brace
    return -1


def _array(text: str, kind: pa.StructType) -> pa.StructArray | None:
    """Parses comma-separated elements of a list into an array; None if they are not all of type `kind`.

    The result is also None if the text was not cut between two elements: put into brackets, it is then invalid JSON,
    because a bracket or string stays open, or because a member name appears in a list.
    """
    data = b'{"list":[[' + text.encode("utf-8", "surrogateescape") + b"]]}"
    schema = pa.schema([("list", pa.list_(pa.list_(kind)))])
    try:
        table = pyarrow.json.read_json(
            pa.BufferReader(data),
            read_options=pyarrow.json.ReadOptions(use_threads=False, block_size=len(data) + 1),
            parse_options=pyarrow.json.ParseOptions(
                explicit_schema=schema, newlines_in_values=True, unexpected_field_behavior="ignore"
            ),
        )
    except pa.ArrowException:
        return None
    (lists,) = table.column(0).chunks
    return lists.flatten().flatten()


def is_text(value: Any) -> bool:
    """Whether all strings in a parsed value are valid Unicode."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            if not item.isascii() and any("\ud800" <= char <= "\udfff" for char in item):
                return False
        elif isinstance(item, dict):
            waiting += item
            waiting += item.values()
        elif isinstance(item, list):
            waiting += item
    return True
