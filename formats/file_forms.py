"""Detects the format of a file by its first bytes, because tools rename, compress and convert files."""

from __future__ import annotations

import codecs
import gzip
import zlib
from enum import Enum
from io import BufferedReader
from pathlib import Path, PurePath
from typing import cast

from vigc.processing.bounded_parsing import parse_json

# Errors that reading a damaged or truncated gzip file raises.
DAMAGED_GZIP = (gzip.BadGzipFile, EOFError, zlib.error)
_GZIP = b"\x1f\x8b"
# The longest first line that is read, in bytes. A longer one is not a line of JSON Lines.
_LINE = 16 * 2**20
_START = 2**16
_LINE_SUFFIXES = (".jsonl", ".ndjson")


class Form(Enum):
    """The format of a file's content."""

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
    """Opens a file for reading; gzip content is decompressed.

    Raises:
        OSError: The file cannot be opened. Reading a damaged gzip file raises one of `DAMAGED_GZIP`.
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
    return cast(BufferedReader, gzip.open(path, "rb"))  # has the same methods


def form_of(path: Path) -> Form:
    """Detects the format of a file's content, after gzip decompression if needed.

    The name decides only if the content is ambiguous: a single object, or a list on the first line, may be a whole
    JSON file or the first row of JSON Lines.

    Raises:
        OSError: The file cannot be read, or as in [`opened`].
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
    """Whether a file has a suffix of JSON Lines."""
    return PurePath(_unpacked(path)).suffix.lower() in _LINE_SUFFIXES


def stem_of(path: PurePath) -> str:
    """A file's name without its suffix and that of gzip: "rows" of "rows.json.gz"."""
    return PurePath(_unpacked(path)).stem


def suffix_of(path: PurePath) -> str:
    """A file's suffix in lower case, without that of gzip: ".json" of "rows.JSON.gz"."""
    return PurePath(_unpacked(path)).suffix.lower()


def _unpacked(path: PurePath) -> str:
    return path.stem if path.suffix.lower() == ".gz" else path.name


def _first_line(file: BufferedReader) -> bytes:
    """The start of the next line that is not blank: the whole line if it is short."""
    while line := file.readline(_START):
        if first := line.removeprefix(codecs.BOM_UTF8).lstrip():
            return first
    return b""


def _whole_line(file: BufferedReader, start: bytes) -> bytes:
    return start if start.endswith(b"\n") else start + file.readline(_LINE)


def _parsed(line: bytes) -> dict | list | None:
    """The object or list on a line; None if the line is anything else, or not JSON."""
    try:
        value = parse_json(line.decode("utf-8", "surrogateescape"))
    except ValueError:
        return None
    return value if isinstance(value, (dict, list)) else None


def _list_or_text(first: bytes) -> Form:
    """Distinguishes the start of a JSON list from a line of text such as `[1].jpg`."""
    first = first.rstrip()
    inside = first[1:].lstrip()[:1]
    begins = not inside or inside in b'"{[' or first.endswith(b",") or _parsed(first) is not None
    return Form.LIST if begins or b"," in first[:64] else Form.OTHER
