"""The interface of sources, and folders of images, listed in a stable order with unique ids."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Protocol, TypedDict

from vigc.errors import GenerationError, ImageError, ImagePathError
from vigc.formats.boxes import Boxes, ObjectCell, PackedObjects, unpack_objects
from vigc.processing.bounded_parsing import JsonObject
from vigc.processing.confined_paths import confined, located, printable, shown
from vigc.processing.images import HEIF_FIX, HEIF_SUFFIXES, Picture, load_picture, picture_suffixes

from .urls import Addresses, is_address

# Counts links to folders among file extensions; no extension contains "/".
_LINKED = "/"
# Number of extensions in messages.
_ENDINGS = 5


class DraftPair(TypedDict, total=False):
    """A question and its draft in the list of inputs, without unknown fields.

    `extra` has the fields that the layout of the record needs for export.
    """

    question: str
    answer: str
    conversation_id: str
    turn: int
    extra: str
    source: str
    license: str
    type: str


@dataclass(frozen=True, slots=True)
class Source:
    """One input: an image with its metadata.

    Args:
        name: The path relative to the root, with "/" as separator, or the position in a dataset.
        image_id: The image's id in the rows.
        refused: The reason if it must not be opened, else None.
        license: The licence of the image, if the source states one.
        boxes: The annotated objects, packed (`formats/boxes.py`), alone or among those of other images.
        where: In a dataset of tables, the indices of the file and of the row in it.
        same: Names of exact copies represented by this input.
        pairs: The pairs to correct.
        size: Size of the file in bytes at the listing, if known.
        absent: Whether its folder was empty at the start of the job, so that it is permanently missing; not recorded.
    """

    name: str
    image_id: str
    refused: str | None = None
    license: str | None = None
    boxes: Boxes | PackedObjects | None = None
    where: list[int] | None = None
    same: list[str] | None = None
    pairs: list[DraftPair] | None = None
    size: int | None = None
    absent: bool = False

    @property
    def objects(self) -> list[ObjectCell] | None:
        """The annotated objects: `{"category", "bbox"}` with the box as x, y, width, height in pixels."""
        packed = self.boxes.pack() if isinstance(self.boxes, Boxes) else self.boxes
        return unpack_objects(packed) if packed else None

    @property
    def count(self) -> int:
        """Number of inputs: this one and its exact copies."""
        return 1 + len(self.same or ())

    def to_record(self) -> JsonObject:
        """The JSON record, without unknown fields."""
        record: JsonObject = {"name": self.name, "image_id": self.image_id}
        for name in _KNOWN:
            if (value := getattr(self, name)) is not None:
                record[name] = value.pack() if isinstance(value, Boxes) else value
        return record


_KNOWN = tuple(item.name for item in fields(Source) if item.default is None)


class Collection(Protocol):
    """Lists and opens the inputs of one format."""

    @property
    def name(self) -> str:
        """The name of the source in rows and card; not a local path."""

    @property
    def facts(self) -> JsonObject:
        """The source's entry in the plan, besides the list of inputs."""

    def __iter__(self) -> Iterator[Source]:
        """All inputs in a stable order."""

    def open(self, source: Source) -> Picture:
        """Opens the image of an input; raises an `ImageError` with the reason if that fails."""

    def locate(self, source: Source) -> str | None:
        """The path of the image file; None if images are not files."""

    def is_there(self, source: Source) -> bool:
        """Whether the folder or dataset of an input is still available."""

    @property
    def unlisted(self) -> dict[str, int]:
        """Number of other files beside the inputs in the last listing, by description."""


class Files:
    """Image files under one root: the base of collections of files.

    Args:
        root: The folder that image names are relative to.
        urls: Allowed hosts for images given by URL.
    """

    format = "folder"

    def __init__(self, root: Path, urls: Sequence[str] = ()) -> None:
        self.root, self.addresses = root, Addresses(urls)
        self._real_root = os.path.realpath(root)
        self.unlisted: dict[str, int] = {}

    @property
    def name(self) -> str:
        """The name of the root folder."""
        return printable(Path(self._real_root).name) or "pictures"

    @property
    def facts(self) -> JsonObject:
        """The format."""
        return {"format": self.format}

    def open(self, source: Source) -> Picture:
        """Opens an image from a path under the root, or from a URL of an allowed host."""
        if source.refused is not None:
            raise ImageError(shown(source.name), source.refused)
        path, name = self.locate(source), shown(source.name)
        picture = load_picture(self.addresses.fetch(source.name) if path is None else path, name=name)
        if source.size is not None and source.size != len(picture.original):
            raise ImageError(
                name, f"was changed since the job was planned ({source.size:,} bytes, now {len(picture.original):,})"
            )
        return picture

    def locate(self, source: Source) -> str | None:
        """The path of the file, resolved under the root; None for a URL."""
        return None if is_address(source.name) else located(self._real_root, source.name)

    def is_there(self, source: Source) -> bool:
        """Whether the input's folder exists and is not empty; an unmounted share leaves it empty or missing."""
        try:
            path = self.locate(source)
        except ImagePathError:  # refused in any case
            return True
        if path is None:
            return True
        place = os.path.dirname(path)
        while len(place) > len(self._real_root) and not os.path.isdir(place):
            place = os.path.dirname(place)
        try:
            with os.scandir(place) as entries:
                return any(True for _ in entries)
        except OSError:
            return False


class Folder(Files):
    """All images under a folder, or one image.

    Args:
        images: The folder or file.
    """

    def __init__(self, images: Path) -> None:
        if not images.is_file() and not images.is_dir():
            raise GenerationError(f"{str(images)!r} is neither a folder nor a file: give a folder of images.")
        super().__init__(images.parent if images.is_file() else images)
        self.images = images

    def __iter__(self) -> Iterator[Source]:
        """All images, sorted by name."""
        others: Counter[str] = Counter()
        sources = list_images(self.images, others)
        self.unlisted = _in_words(others)
        return iter(sources)

    def locate(self, source: Source) -> str | None:
        """The path of the file, resolved under the root. A listed name can contain any character."""
        return confined(self._real_root, source.name, listed=True)


def list_images(images: Path, others: Counter[str] | None = None) -> Sequence[Source]:
    """All images under a folder (recursively), sorted by name; or the given file.

    Links to folders are not followed. Links to files are followed; one that leads out of the folder, is broken or is
    circular is listed as refused.

    Args:
        images: The folder or file.
        others: Counts other files by extension, and links to folders.

    Raises:
        GenerationError: `images` does not exist, contains no image, or has a sub-folder that cannot be listed.
    """
    if images.is_file():
        return [Source(*_ids([images.name])[0], size=images.stat().st_size)]
    if not images.is_dir():
        raise GenerationError(f"{str(images)!r} is neither a folder nor a file: give a folder of images.")
    links: set[str] = set()
    others = Counter() if others is None else others
    sizes = dict(sorted(_names(str(images), "", links, others)))
    if not sizes:
        suffixes = ", ".join(sorted(picture_suffixes()))
        beside = "".join(f"; {count:,} {what}" for what, count in _in_words(others).items())
        raise GenerationError(f"{str(images)!r} has no image: no file name ends in {suffixes}{beside}.")
    root = images.resolve()
    return [
        Source(name, id_, _refusal(images / name, root) if name in links else None, size=sizes[name])
        for name, id_ in _ids(list(sizes))
    ]


def _in_words(others: Counter[str]) -> dict[str, int]:
    """Describes files that are not images, with the most frequent extensions, and links to folders."""
    by_ending = Counter({ending: count for ending, count in sorted(others.items()) if ending != _LINKED})
    named = [f"{ending or 'none'} {count:,}" for ending, count in by_ending.most_common(_ENDINGS)]
    more = ", ..." if len(by_ending) > _ENDINGS else ""
    unread = sorted(HEIF_SUFFIXES & by_ending.keys())
    fix = f"; {HEIF_FIX} {', '.join(unread)}" if unread else ""
    found = {
        "ignored: links to folders, which are not followed": others[_LINKED],
        f"ignored: files with other extensions ({', '.join(named)}{more}{fix})": by_ending.total(),
    }
    return {what: count for what, count in found.items() if count}


def _names(folder: str, prefix: str, links: set[str], others: Counter[str]) -> Iterator[tuple[str, int | None]]:
    """Names and sizes of the images under a folder. Unlike `os.walk`, it stats each file once."""
    below, suffixes = [], picture_suffixes()
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                ending = os.path.splitext(entry.name)[1].lower()
                if entry.is_dir(follow_symlinks=False):
                    below.append(entry.name)
                elif entry.is_symlink() and _is_folder(entry):
                    others[_LINKED] += 1
                elif ending not in suffixes:
                    others[ending] += 1
                else:
                    if entry.is_symlink():
                        links.add(f"{prefix}{entry.name}")
                    yield f"{prefix}{entry.name}", _size(entry)
    except OSError as error:
        # If it were ignored, its images would be missing silently.
        raise GenerationError(
            f"The folder {folder!r} cannot be listed ({error.strerror}): make it readable."
        ) from error
    for name in below:
        yield from _names(os.path.join(folder, name), f"{prefix}{name}/", links, others)


def _size(entry: os.DirEntry[str]) -> int | None:
    try:
        return entry.stat().st_size
    except OSError:  # a broken link or a deleted file; the reason is reported when it is opened
        return None


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # circular links: listed as a refused file
        return False


def _refusal(path: Path, root: Path) -> str | None:
    try:
        target = path.resolve(strict=True)
    except (OSError, RuntimeError) as error:
        return f"is a link that leads nowhere ({type(error).__name__}): replace it by the file"
    return None if target.is_relative_to(root) else "is a link out of the folder: copy the file into it"


def _ids(names: list[str]) -> list[tuple[str, str]]:
    """Each name with its id: the name without extension, unless that is the name or id of another file."""
    shown_names = [printable(name) for name in names]
    stems = [os.path.splitext(name)[0] for name in shown_names]
    ids = distinct(stems, shown_names)
    return list(zip(names, ids, strict=True))


def distinct(ids: Sequence[str], names: Sequence[str]) -> list[str]:
    """The ids; an id that is not unique, or is another input's name, is replaced by the input's name."""
    counts, taken = Counter(ids), set(names)
    return [id_ if counts[id_] == 1 and id_ not in taken else name for id_, name in zip(ids, names, strict=True)]
