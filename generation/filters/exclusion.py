"""What must not be generated from: ids of files that others train or test on, and pictures that look like theirs."""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from vigc.errors import AnnotationError, GenerationError, ImageError
from vigc.formats.file_forms import JSON_FORMS, Form, opened
from vigc.formats.json_rows import json_form, read_rows
from vigc.formats.json_stream import JsonReader, naming_trouble
from vigc.generation.sources.base import Folder, Source
from vigc.generation.sources.errors import naming_files
from vigc.processing.bounded_parsing import parse_json
from vigc.processing.confined_paths import printable
from vigc.processing.image_names import spellings

from .hashing import hashed

# COCO's pictures have one number under several names: COCO_val2014_000000000042.jpg, 000000000042.jpg, 42.
_COCO_NAME = re.compile(r"(?:COCO_(?:train|val|test)\d{4}_)?(\d{12})")
_COCO_FOLDER = re.compile(r"(?i:.*coco.*|(?:train|val|test|unlabeled)\d{4})")
_COCO_DIGITS = 12

_NAMES = ("image", "image_id", "file_name", "image_path", "coco_url")
_OF_IMAGES = ("file_name", "coco_url")  # whose id is that of the picture

# Of a file in COCO's form: their ids are not those of pictures, and would leave out the first ninety of COCO's.
_NO_PICTURES = ("categories", "licenses", "info")

# Of 64 bits. A copy that was resized or compressed anew differs in a few, another picture in about half.
MAX_DISTANCE = 4

_NAMED = 3


class ExcludedIds:
    """The ids and file names that a file lists.

    A text has one on each line. Of JSON (a list, JSON Lines, or annotations in COCO's or VQA's form) the values of
    `image`, `image_id`, `file_name`, `image_path` and `coco_url` count, and the `id` of entries without them. The
    categories and licences of annotations are passed by. The content decides, not the file's name.

    Args:
        path: The file.

    Raises:
        GenerationError: It cannot be read, or lists nothing.
    """

    def __init__(self, path: Path) -> None:
        self.name = printable(path.name)
        self.keys: set[str | int] = set()
        with naming_files():
            for entry in _entries(path):
                for value in _values(entry):
                    self.keys.update(_keys(value, listed=True))
        if not self.keys:
            raise GenerationError(
                f"{str(path)!r} lists no picture: give ids or file names, one a line, or a JSON file."
            )

    def reason(self, keys: Iterable[str | int]) -> str | None:
        """Why a picture that is known so is left out, or None."""
        return None if self.keys.isdisjoint(keys) else f"listed in {self.name}"


def _entries(path: Path) -> Iterator[Any]:
    """What a file lists: entries of JSON in any form, or its lines."""
    form = json_form(path)
    if form is Form.LINES:
        for _, row in read_rows(path):
            if isinstance(row, AnnotationError):
                raise row  # a line that cannot be read may be the one that had to be left out
            yield from _of_object(row) if isinstance(row, dict) else [row]
    elif form in JSON_FORMS:
        yield from _of_json(JsonReader(path))
    elif form is Form.OTHER:
        yield from _text_lines(path)
    else:
        raise GenerationError(f"{str(path)!r} is {form.value}: give ids or file names, one a line, or a JSON file.")


def _of_json(reader: JsonReader) -> Iterator[Any]:
    """The elements of a list; of an object itself where it names a picture, and the elements of its lists."""
    if reader.top() == "[":
        yield from reader.elements()
    else:
        own: dict[str, Any] = {}
        for member in reader.members():
            if reader.top() == "[" and member not in _NO_PICTURES:
                yield from reader.elements()
            elif member in _NAMES:
                own[member] = reader.value()
            else:
                reader.skip()
        yield own
    reader.end()


def _of_object(row: dict[str, Any]) -> Iterator[Any]:
    """The row of a JSON Lines file, or the lists in it, where each line is a file in COCO's form."""
    yield row
    for member, value in row.items():
        if isinstance(value, list) and member not in _NO_PICTURES:
            yield from value


def _text_lines(path: Path) -> Iterator[str]:
    """The lines of a text; tools put some names into quotes, as JSON does."""
    try:
        with naming_trouble(path), io.TextIOWrapper(opened(path), "utf-8-sig", "surrogateescape") as file:
            for line in map(str.strip, file):
                if line[:1] == line[-1:] == '"' and isinstance(name := _json_text(line), str):
                    yield name
                elif line:
                    yield line
    except AnnotationError as error:
        raise GenerationError(f"{error} Give a list of ids.") from error.__cause__


def _json_text(line: str) -> Any:
    try:
        return parse_json(line)
    except ValueError:
        return None


def _values(entry: Any) -> Iterator[str | int]:
    if isinstance(entry, (str, int)):
        yield entry
    elif isinstance(entry, dict):
        found = [entry[name] for name in _NAMES if isinstance(entry.get(name), (str, int))]
        if any(name in entry for name in _OF_IMAGES) or not found:
            found += [entry[name] for name in ("id",) if isinstance(entry.get(name), (str, int))]
        yield from found


def keys_of(source: Source) -> set[str | int]:
    """What a picture may be listed as. Millions are asked for theirs, once for all lists.

    A number may be COCO's in any folder here: to leave a picture out costs less than to let a test's slip in.
    """
    return {*_keys(source.image_id), *_keys(source.name)}


def _keys(value: str | int, *, listed: bool = False) -> Iterable[str | int]:
    """The forms under which a picture is known, as it is spelled and decoded."""
    if isinstance(value, int):
        return (value,)
    names = spellings(value)
    if len(names) == 1:
        return _forms(value, listed)
    return {key for name in names for key in _forms(name, listed)}


def _forms(value: str, listed: bool) -> Iterable[str | int]:
    """The forms of one spelling. A listed `vg/VG_100K/42.jpg` is another source's 42, not COCO's."""
    name = value.replace("\\", "/")
    *folders, file = [part for part in name.split("/") if part not in ("", ".")] or [name]
    stem = file.rpartition(".")[0] or file
    if match := _COCO_NAME.fullmatch(stem):
        return name, stem, int(match[1])
    number = stem.isdecimal() and not stem.startswith("0") and len(stem) <= _COCO_DIGITS
    if number and (not listed or not folders or any(map(_COCO_FOLDER.fullmatch, folders))):
        return name, stem, int(stem)
    return name, stem


class ExcludedPictures:
    """Pictures in a folder, by what they look like.

    Args:
        folder: The pictures.
        hashes: Where their hashes are kept, a folder to each such folder: thousands of pictures need not be decoded
            whenever a job goes on.

    Attributes:
        unreadable: Files that nothing can be compared with.
        unlisted: What lies beside the pictures and is none, in words, with its count.

    Raises:
        GenerationError: It holds none that can be read.
    """

    def __init__(self, folder: Path, hashes: Path) -> None:
        pictures, count = Folder(folder), 0
        self.name = printable(folder.resolve().name)
        self._bands: defaultdict[tuple[int, int], list[tuple[int, str]]] = defaultdict(list)
        self.unreadable: list[Source] = []
        place = hashes / hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:16]
        for source, (_, look) in hashed(place, pictures, iter(pictures), looks=True):
            if look is None:
                self.unreadable.append(source)
                continue
            count += 1
            for band in _bands(look):
                self._bands[band].append((look, printable(source.name)))
        self.unlisted = {f"in {self.name}, {what}": count for what, count in pictures.unlisted.items()}
        if not count:
            raise GenerationError(
                f"{str(folder)!r} holds no picture that can be read: {_fault(pictures, self.unreadable[0])}."
            )

    @property
    def uncompared(self) -> dict[str, Any]:
        """How many files nothing could be compared with, and what the first are called."""
        return {"count": len(self.unreadable), "first": [printable(source.name) for source in self.unreadable[:_NAMED]]}

    def reason(self, look: int | None) -> str | None:
        """Why a picture that looks like this is left out, or None."""
        if look is None:
            return None
        for band in _bands(look):
            for other, name in self._bands.get(band, ()):
                if (look ^ other).bit_count() <= MAX_DISTANCE:
                    return f"looks like {name} in {self.name}"
        return None


def _fault(pictures: Folder, source: Source) -> str:
    try:
        pictures.open(source)
    except ImageError as error:
        return str(error)
    return f"{printable(source.name)!r} could not be read before"


def _bands(look: int) -> Iterator[tuple[int, int]]:
    """Pieces of a hash: two that differ in few bits share one of one more piece than that."""
    count = MAX_DISTANCE + 1
    for index in range(count):
        low, high = 64 * index // count, 64 * (index + 1) // count
        yield index, (look >> low) & ((1 << (high - low)) - 1)
