"""What a file holds, judged by its first bytes: names are wrong as often as tools rename, pack and convert files."""

from __future__ import annotations

import codecs
import gzip
import zlib
from enum import Enum
from io import BufferedReader
from pathlib import Path, PurePath
from typing import cast

from vigc.processing.bounded_parsing import parse_json

# What reading a damaged or cut gzip file raises.
DAMAGED_GZIP = (gzip.BadGzipFile, EOFError, zlib.error)
_GZIP = b"\x1f\x8b"
# The longest first line that is looked at, in bytes. What is longer is no line of JSON Lines.
_LINE = 16 * 2**20
_START = 2**16
_LINE_SUFFIXES = (".jsonl", ".ndjson")


class Form(Enum):
    """The form of a file's content."""

    PARQUET = "parquet"
    ARROW = "arrow"
    LIST = "a JSON list"
    OBJECT = "a JSON object"
    LINES = "JSON Lines"
    OTHER = "something else"


JSON_FORMS = (Form.LIST, Form.OBJECT, Form.LINES)
_MAGIC = (
    (b"PAR1", Form.PARQUET),
    (b"ARROW1", Form.ARROW),
    (b"\xff\xff\xff\xff", Form.ARROW),  # a stream, as `save_to_disk` writes it
)


def opened(path: Path) -> BufferedReader:
    """A file to read from its beginning, decompressed where its content is gzip's.

    Raises:
        OSError: It cannot be opened. Reading a damaged gzip file raises one of `DAMAGED_GZIP`.
    """
    file = path.open("rb")
    try:
        start = file.read(len(_GZIP))
        file.seek(0)
    except OSError:
        file.close()
        raise
    if start != _GZIP:
        return file
    file.close()
    return cast(BufferedReader, gzip.open(path, "rb"))  # which has the methods of one, and closes its own file


def form_of(path: Path) -> Form:
    """The form of a file's content, also where it is compressed by gzip.

    The name decides only where the content fits two forms: one object, or a list on the first line, may be all of a
    JSON file or the first row of JSON Lines.

    Raises:
        OSError: It cannot be read, or as [`opened`] says.
    """
    with opened(path) as file:
        start = file.read(8)
        for magic, form in _MAGIC:
            if start.startswith(magic):
                return form
        file.seek(0)
        first = _first_line(file)
        if first[:1] not in (b"{", b"["):
            return Form.LINES if is_named_lines(path) else Form.OTHER
        if first[:1] == b"[" and not is_named_lines(path):
            return _list_or_text(first)
        first = _whole_line(file, first)
        more = _first_line(file)
    if first[:1] == b"[":
        return Form.LINES if more and _parsed(first) is not None else _list_or_text(first)
    row = is_named_lines(path) or (more[:1] == b"{" and isinstance(_parsed(first), dict))
    return Form.LINES if row else Form.OBJECT


def is_named_lines(path: PurePath) -> bool:
    """Whether a file is called as JSON Lines are."""
    return PurePath(_unpacked(path)).suffix.lower() in _LINE_SUFFIXES


def stem_of(path: PurePath) -> str:
    """A file's name without its suffix and that of gzip: "rows" of "rows.json.gz"."""
    return PurePath(_unpacked(path)).stem


def suffix_of(path: PurePath) -> str:
    """A file's suffix in small letters, without that of gzip: ".json" of "rows.JSON.gz"."""
    return PurePath(_unpacked(path)).suffix.lower()


def _unpacked(path: PurePath) -> str:
    return path.stem if path.suffix.lower() == ".gz" else path.name


def _first_line(file: BufferedReader) -> bytes:
    """The beginning of the next line that is not blank, and with it the line's end where it is near."""
    while line := file.readline(_START):
        if first := line.removeprefix(codecs.BOM_UTF8).lstrip():
            return first
    return b""


def _whole_line(file: BufferedReader, start: bytes) -> bytes:
    return start if start.endswith(b"\n") else start + file.readline(_LINE)


def _parsed(line: bytes) -> dict | list | None:
    """A line's object or list; None where it is neither, or no JSON."""
    try:
        value = parse_json(line.decode("utf-8", "surrogateescape"))
    except ValueError:
        return None
    return value if isinstance(value, (dict, list)) else None


def _list_or_text(first: bytes) -> Form:
    """Tells the beginning of a list from a line such as `[1].jpg`."""
    first = first.rstrip()
    inside = first[1:].lstrip()[:1]
    begins = not inside or inside in b'"{[' or first.endswith(b",") or _parsed(first) is not None
    return Form.LIST if begins or b"," in first[:64] else Form.OTHER
