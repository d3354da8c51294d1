"""Listed ids: excludes images of training or test sets by their ids and file names."""

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

# A COCO image has one number but several names: COCO_val2014_000000000042.jpg, 000000000042.jpg, 42.
_COCO_NAME = re.compile(r"(?:COCO_(?:train|val|test)\d{4}_)?(\d{12})")
_COCO_FOLDER = re.compile(r"(?i:.*coco.*|(?:train|val|test|unlabeled)\d{4})")
_COCO_DIGITS = 12

_NAMES = ("image", "image_id", "file_name", "image_path", "coco_url")
_OF_IMAGES = ("file_name", "coco_url")  # the `id` of such entries is that of the image

# Lists of a COCO file whose ids are not ids of images; they would exclude the first ninety COCO images.
_NO_PICTURES = ("categories", "licenses", "info")


class ListedIds(Filter):
    """Excludes the images that files list.

    Args:
        paths: The files; see [`ExcludedIds`].
        hashes: Not used.

    Raises:
        GenerationError: A file cannot be read, or lists nothing.
    """

    def __init__(self, paths: Sequence[str | os.PathLike[str]], hashes: Path) -> None:
        super().__init__(paths, hashes)
        self._lists = [ExcludedIds(Path(path)) for path in paths]
        self.compared = [Path(path).name for path in paths]

    def check(self, source: Source, digest: str | None, look: int | None) -> Exclusion | None:
        """The exclusion by the first list that contains the input."""
        keys = keys_of(source)
        return next(filter(None, (given.exclusion(keys) for given in self._lists)), None)


class ExcludedIds:
    """The ids and file names that a file lists.

    A text file has one per line. In JSON (a list, JSON Lines, or annotations in the layout of COCO or VQA), the values
    of `image`, `image_id`, `file_name`, `image_path` and `coco_url` are read, and the `id` of entries without them.
    Categories and licences of annotations are ignored. The format is detected from the content.

    Args:
        path: The file.

    Raises:
        GenerationError: The file cannot be read, or lists nothing.
    """

    def __init__(self, path: Path) -> None:
        self.name = printable(path.name)
        self.keys: set[str | int] = set()
        with naming_files():
            for entry in _entries(path):
                for value in _values(entry):
                    self.keys.update(_keys(value, listed=True))
        if not self.keys:
            raise GenerationError(f"{str(path)!r} lists no image: give ids or file names, one a line, or a JSON file.")

    def exclusion(self, keys: Iterable[str | int]) -> Exclusion | None:
        """The exclusion of an image with these keys, or None."""
        listed = f"listed in {self.name}"
        return None if self.keys.isdisjoint(keys) else Exclusion(listed, listed)


def _entries(path: Path) -> Iterator[Any]:
    """The entries of a file: JSON entries or lines of text."""
    form = json_form(path)
    if form is Form.LINES:
        for _, row in read_rows(path):
            if isinstance(row, AnnotationError):
                raise row  # an unreadable line may name an image to exclude
            yield from _of_object(row) if isinstance(row, dict) else [row]
    elif form in JSON_FORMS:
        yield from _of_json(JsonReader(path))
    elif form is Form.OTHER:
        yield from _text_lines(path)
    else:
        raise GenerationError(f"{str(path)!r} is {form.value}: give ids or file names, one a line, or a JSON file.")


def _of_json(reader: JsonReader) -> Iterator[Any]:
    """The elements of a list; or an object that names an image, and the elements of its lists."""
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
    """The row of a JSON Lines file, or its lists if each line has the layout of COCO."""
    yield row
    for member, value in row.items():
        if isinstance(value, list) and member not in _NO_PICTURES:
            yield from value


def _text_lines(path: Path) -> Iterator[str]:
    """The lines of a text, without the quotes that some tools put around names."""
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
    """The keys under which an image may be listed; computed once for all lists.

    A number counts as a COCO id in any folder: excluding one image too many is better than missing one of a test set.
    """
    return {*_keys(source.image_id), *_keys(source.name)}


def _keys(value: str | int, *, listed: bool = False) -> Iterable[str | int]:
    """The keys of a value, as spelled and with percent-encoding decoded."""
    if isinstance(value, int):
        return (value,)
    names = spellings(value)
    if len(names) == 1:
        return _forms(value, listed)
    return {key for name in names for key in _forms(name, listed)}


def _forms(value: str, listed: bool) -> Iterable[str | int]:
    """The keys of one spelling. A listed `vg/VG_100K/42.jpg` is not the COCO image 42."""
    name = value.replace("\\", "/")
    *folders, file = [part for part in name.split("/") if part not in ("", ".")] or [name]
    stem = file.rpartition(".")[0] or file
    if match := _COCO_NAME.fullmatch(stem):
        return name, stem, int(match[1])
    number = stem.isdecimal() and not stem.startswith("0") and len(stem) <= _COCO_DIGITS
    if number and (not listed or not folders or any(map(_COCO_FOLDER.fullmatch, folders))):
        return name, stem, int(stem)
    return name, stem
