"""JSON files larger than memory, an element or a block of them at a time, with the place of what is wrong in them."""

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
# After elements that are no block: so many are read one by one before another block is tried.
_ONE_BY_ONE = 20_000
# Characters of one value: more than any entry has, and few enough to parse.
MAX_VALUE = 256 * 2**20
_SPACE = re.compile(r"[ \t\n\r]*")
_AFTER_NUMBER = (*" \t\n\r", ",", "]", "}")


@contextmanager
def naming_trouble(path: Path, index: int | None = None) -> Iterator[None]:
    """What comes of opening or reading a file as an `AnnotationError`."""
    try:
        yield
    except DAMAGED_GZIP as error:
        raise AnnotationError(path, f"is a damaged gzip file ({error}): get it again.", index) from error
    except OSError as error:
        raise AnnotationError(path, f"cannot be read ({error.strerror or error}): check the path.", index) from error


class JsonReader:
    """Reads one JSON file, or one that gzip compressed, from its beginning to its end, once.

    Bytes that are not UTF-8 come out as lone surrogates (`is_text` finds them), so that one bad entry does not cost the
    others. Every method raises an `AnnotationError` that names line and entry where the file is no JSON, and one caused
    by the `OSError` where it cannot be read.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.index: int | None = None  # of the element that is being read
        with naming_trouble(path):
            self._file = opened(path)
        weakref.finalize(self, self._file.close)  # nobody has to read to the end for it to be closed
        self._damage: Exception | None = None
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")("surrogateescape")
        self._text, self._at, self._lines, self._counted = "", 0, 1, 0
        self._fill()

    @property
    def line(self) -> int:
        """The line that is being read, from 1."""
        # Asked for each row: what was counted is not counted again.
        self._lines += self._text.count("\n", self._counted, self._at)
        self._counted = self._at
        return self._lines

    def top(self) -> str:
        """The character that comes next: "[" of a list, "{" of an object; "" at the end of the file."""
        while True:
            match = _SPACE.match(self._text, self._at)
            self._at = match.end() if match else self._at
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._fill():
                return ""

    def elements(self) -> Iterator[Any]:
        """The elements of the list that comes next, each parsed alone."""
        self._expect("[")
        self.index = 0
        while self._goes_on("]"):
            yield self.value()
            self._after_element()
        self.index = None

    def blocks(self, kind: pa.StructType) -> Iterator[pa.StructArray | list[Any]]:
        """The elements of the list that comes next, thousands at a time where they are alike.

        `index` is that of the block's first element. What many alike elements hold is read into columns, without a
        Python object for each, several times as fast as [`elements`] reads them.

        Args:
            kind: Names and types of the fields to be read; others are passed by.

        Yields:
            An array of `kind`, null where an element lacks a field; or elements as Python values, whole, where one has
            a field of another type and at the end of the list.
        """
        self._expect("[")
        self.index = 0
        while self._goes_on("]"):
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
        """The names in the object that comes next; read each member's value before asking for the next name."""
        self._expect("{")
        while self._goes_on("}"):
            name = self.value()
            self._expect(":")
            yield str(name)
            self._after("}", "object")

    def value(self) -> Any:
        """The value that comes next, whole."""
        self._next()
        while True:
            try:
                value, end = decode_json(self._text, self._at)
            except json.JSONDecodeError as error:
                # Damaged, or not all there yet.
                if len(self._text) - self._at > MAX_VALUE:
                    reason = f"has a value of more than {MAX_VALUE:,} characters, or one that never ends: correct it."
                    raise self._wrong(reason) from None
                if not self._fill():
                    raise self._wrong(f"is not valid JSON ({error.msg}): get the file again.", error.pos) from error
                continue
            except NestingError as error:
                raise self._wrong("is nested too deeply to be one of these files.") from error
            except ValueError as error:
                # Python makes no integer of more than 4,300 digits, which none of these files has.
                raise self._wrong(f"holds no sound number ({error}): correct it.") from error
            # What was read may end within a number, "12" of "12.5": one is whole when something else follows it.
            number = isinstance(value, (int, float))
            if number and self._text[end : end + 1] not in _AFTER_NUMBER and self._fill():
                continue
            self._at = end
            return value

    def skip(self) -> None:
        """Passes by the value that comes next; a list's elements one by one."""
        if self.top() == "[":
            for _ in self.elements():
                pass
        else:
            self.value()

    def end(self) -> None:
        """Makes sure that nothing follows: of two files that were joined the second would be lost without a word."""
        if rest := self.top():
            raise self._wrong(f"goes on with {rest!r} after its end: join lists into one, or get the file again.")

    def _next(self) -> str:
        mark = self.top()
        if not mark:
            raise self._wrong("the file ends here: it was cut off, get it again.")
        return mark

    def _expect(self, mark: str) -> None:
        if (found := self._next()) != mark:
            raise self._wrong(f"{found!r} stands where {mark!r} should: get the file again.")
        self._at += 1

    def _goes_on(self, end: str) -> bool:
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
            raise self._wrong(f"{mark!r} stands where ',' or {end!r} should: get the file again.")

    def _arrays(self, kind: pa.StructType) -> Iterator[pa.StructArray]:
        """Blocks of the elements that come next, until one is none; they are parsed ahead of being asked for."""
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
        """How many characters, from so many ahead, hold whole elements, as far as that can be seen; 0 if none."""
        while len(self._text) - self._at - ahead < _BLOCK and self._fill(_BLOCK):
            pass
        start = self._at + ahead
        comma = _last_comma(self._text, start, start + _BLOCK)
        return comma - start if comma > 0 else 0

    def _fill(self, size: int = 0) -> bool:
        """Reads on; what was used up is let go. Larger steps for larger values keep parsing anew affordable."""
        data = self._read(max(_CHUNK, size, len(self._text) - self._at))
        self._lines += self._text.count("\n", self._counted, self._at)
        self._text = self._text[self._at :] + self._decoder.decode(data, final=not data)
        self._at = self._counted = 0
        return bool(data)

    def _read(self, size: int) -> bytes:
        """So many bytes, fewer at the end. What stands before the damage in a gzip file is read before it is raised."""
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
    """The last comma between two objects that are not known to lie in another one; -1 if there is none."""
    while (brace := text.rfind("{", start, end)) > start:
        before = text[max(start, brace - 64) : brace].rstrip()
        if before.endswith(",") and before[:-1].rstrip().endswith("}"):
            return text.rfind(",", start, brace)
        end = brace
    return -1


def _array(text: str, kind: pa.StructType) -> pa.StructArray | None:
    """Elements of a list, with commas between them, as an array; None if they are not all of that kind.

    A text that was not cut between two elements is none: in brackets of its own it is no JSON, since within an element
    or a string something stays open, and past the list's end a name would stand in a list.
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
    """Whether all texts in a value that was read are valid Unicode."""
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
