"""Listed ids: images that others train or test on, by their ids and file names."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from vigc.errors import AnnotationError, GenerationError
from vigc.formats.file_forms import JSON_FORMS, Form, opened
from vigc.formats.json_rows import json_form, read_rows
from vigc.formats.json_stream import JsonReader, naming_trouble
from vigc.generation.sources.base import Source
from vigc.generation.sources.errors import naming_files
from vigc.jobs.protocols import Record
from vigc.processing.bounded_parsing import parse_json
from vigc.processing.confined_paths import printable
from vigc.processing.image_names import spellings

from .base import Exclusion, Filter

# COCO's images have one number under several names: COCO_val2014_000000000042.jpg, 000000000042.jpg, 42.
_COCO_NAME = re.compile(r"(?:COCO_(?:train|val|test)\d{4}_)?(\d{12})")
_COCO_FOLDER = re.compile(r"(?i:.*coco.*|(?:train|val|test|unlabeled)\d{4})")
_COCO_DIGITS = 12

_NAMES = ("image", "image_id", "file_name", "image_path", "coco_url")
_OF_IMAGES = ("file_name", "coco_url")  # whose id is that of the image

# Of a file in COCO's form: their ids are not those of images, and would exclude the first ninety of COCO's.
_NO_PICTURES = ("categories", "licenses", "info")


class ListedIds(Filter):
    """Excludes what files list.

    Args:
        paths: The files; see [`ExcludedIds`].
        hashes: Not used.

    Raises:
        GenerationError: One cannot be read, or lists nothing.
    """

    def __init__(self, paths: Sequence[str | os.PathLike[str]], hashes: Path) -> None:
        super().__init__(paths, hashes)
        self._lists = [ExcludedIds(Path(path)) for path in paths]
        self.compared = [Path(path).name for path in paths]

    def check(self, source: Source, digest: str | None, look: int | None) -> Exclusion | None:
        """The first list that has it."""
        keys = keys_of(source)
        return next(filter(None, (given.exclusion(keys) for given in self._lists)), None)


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

    def exclusion(self, keys: Iterable[str | int]) -> Exclusion | None:
        """Why an image that is known under these keys is excluded, or None."""
        listed = f"listed in {self.name}"
        return None if self.keys.isdisjoint(keys) else Exclusion(listed, listed)


def _entries(path: Path) -> Iterator[Any]:
    """What a file lists: entries of JSON in any form, or its lines."""
    form = json_form(path)
    if form is Form.LINES:
        for _, row in read_rows(path):
            if isinstance(row, AnnotationError):
                raise row  # a line that cannot be read may be the one that had to be excluded
            yield from _of_object(row) if isinstance(row, dict) else [row]
    elif form in JSON_FORMS:
        yield from _of_json(JsonReader(path))
    elif form is Form.OTHER:
        yield from _text_lines(path)
    else:
        raise GenerationError(f"{str(path)!r} is {form.value}: give ids or file names, one a line, or a JSON file.")


def _of_json(reader: JsonReader) -> Iterator[Any]:
    """The elements of a list; of an object itself where it names an image, and the elements of its lists."""
    if reader.top() == "[":
        yield from reader.elements()
    else:
        own: Record = {}
        for member in reader.members():
            if reader.top() == "[" and member not in _NO_PICTURES:
                yield from reader.elements()
            elif member in _NAMES:
                own[member] = reader.value()
            else:
                reader.skip()
        yield own
    reader.end()


def _of_object(row: Record) -> Iterator[Any]:
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
    """What an image may be listed as. Millions are asked for theirs, once for all lists.

    A number may be COCO's in any folder here: to exclude an image costs less than to miss one of a test.
    """
    return {*_keys(source.image_id), *_keys(source.name)}


def _keys(value: str | int, *, listed: bool = False) -> Iterable[str | int]:
    """The forms under which an image is known, as it is spelled and decoded."""
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
