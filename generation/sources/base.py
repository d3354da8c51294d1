"""Where pictures come from: a folder's pictures in a stable order, each with an id of its own."""

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

# Counted among the endings of files, none of which is like it: a link to a folder.
_LINKED = "/"
# So many endings are named.
_ENDINGS = 5


class DraftPair(TypedDict, total=False):
    """A question and its answer that are to be corrected, as the list of inputs holds them, less what is not known.

    `extra` is what the record's layout keeps of it.
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
    """One input: a picture, with what is known of it.

    Args:
        name: Its path relative to the root with "/" between the parts, or its place in a dataset.
        image_id: Its id in the rows.
        refused: Why it must not be opened, if so.
        license: Its own licence, where the source states one.
        boxes: What is annotated in it, packed (`formats/boxes.py`) or still among that of other pictures.
        where: The number of the file and of the row in it, in a dataset of tables.
        same: Names of exact copies that are represented by this one.
        pairs: What is to be corrected.
        size: Bytes of the file when it was listed, where listing looks at files.
        absent: Whether its folder held nothing when the job was begun, so that it is missing for good; not recorded.
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
        """What is annotated in it: `{"category", "bbox"}` with the box as x, y, width, height in pixels."""
        packed = self.boxes.pack() if isinstance(self.boxes, Boxes) else self.boxes
        return unpack_objects(packed) if packed else None

    @property
    def count(self) -> int:
        """How many inputs it stands for: itself and its exact copies."""
        return 1 + len(self.same or ())

    def to_record(self) -> JsonObject:
        """As JSON holds it, without what is not known."""
        record: JsonObject = {"name": self.name, "image_id": self.image_id}
        for name in _KNOWN:
            if (value := getattr(self, name)) is not None:
                record[name] = value.pack() if isinstance(value, Boxes) else value
        return record


_KNOWN = tuple(item.name for item in fields(Source) if item.default is None)


class Collection(Protocol):
    """Inputs of one kind. What differs between kinds is how they are listed and opened."""

    @property
    def name(self) -> str:
        """What the rows and the card call it; no path of one machine."""

    @property
    def facts(self) -> JsonObject:
        """What enters the plan beside the list of inputs."""

    def __iter__(self) -> Iterator[Source]:
        """All inputs in a stable order."""

    def open(self, source: Source) -> Picture:
        """The picture of one of them; an `ImageError` says why there is none."""

    def locate(self, source: Source) -> str | None:
        """The path of the file, where each picture is one."""

    def is_there(self, source: Source) -> bool:
        """Whether the place that it should be in can still be seen."""

    @property
    def unlisted(self) -> dict[str, int]:
        """What lay beside the inputs when they were listed last and is none of them, in words."""


class Files:
    """Picture files under one root: what collections of files have in common.

    Args:
        root: The folder that names of pictures are relative to.
        urls: Hosts that pictures are fetched from, where an address stands in place of a name.
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
        """The picture, from a path that stays under the root, or an address whose host was named."""
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
        """The path of the file, resolved under the root; None for an address."""
        return None if is_address(source.name) else located(self._real_root, source.name)

    def is_there(self, source: Source) -> bool:
        """Whether the folder that it should be in holds anything: a share that is gone leaves an empty one, or none."""
        try:
            path = self.locate(source)
        except ImagePathError:  # whatever the disk holds
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
    """All pictures under a folder, or one picture.

    Args:
        images: The folder or file.
    """

    def __init__(self, images: Path) -> None:
        if not images.is_file() and not images.is_dir():
            raise GenerationError(f"{str(images)!r} is neither a folder nor a file: give a folder of pictures.")
        super().__init__(images.parent if images.is_file() else images)
        self.images = images

    def __iter__(self) -> Iterator[Source]:
        """All pictures, sorted by their names."""
        others: Counter[str] = Counter()
        sources = list_images(self.images, others)
        self.unlisted = _in_words(others)
        return iter(sources)

    def locate(self, source: Source) -> str | None:
        """The path of the file, resolved under the root. Its name was listed, not written: it may hold any mark."""
        return confined(self._real_root, source.name, listed=True)


def list_images(images: Path, others: Counter[str] | None = None) -> Sequence[Source]:
    """All pictures under a folder, its sub-folders included, sorted by their names; or the one file given.

    Links to folders are not followed. A link to a file is, unless it leads out of the folder, into nothing, or in a
    circle: such a file is listed as refused.

    Args:
        images: The folder or file.
        others: Where files that are no pictures are counted by their ending, and links to folders.

    Raises:
        GenerationError: There is nothing at `images`, no picture in it, or a sub-folder that cannot be listed.
    """
    if images.is_file():
        return [Source(*_ids([images.name])[0], size=images.stat().st_size)]
    if not images.is_dir():
        raise GenerationError(f"{str(images)!r} is neither a folder nor a file: give a folder of pictures.")
    links: set[str] = set()
    others = Counter() if others is None else others
    sizes = dict(sorted(_names(str(images), "", links, others)))
    if not sizes:
        suffixes = ", ".join(sorted(picture_suffixes()))
        beside = "".join(f"; {count:,} {what}" for what, count in _in_words(others).items())
        raise GenerationError(f"{str(images)!r} holds no picture: no file there ends in {suffixes}{beside}.")
    root = images.resolve()
    return [
        Source(name, id_, _refusal(images / name, root) if name in links else None, size=sizes[name])
        for name, id_ in _ids(list(sizes))
    ]


def _in_words(others: Counter[str]) -> dict[str, int]:
    """What is no picture: links to folders, and files, of whose endings the most frequent are named."""
    by_ending = Counter({ending: count for ending, count in sorted(others.items()) if ending != _LINKED})
    named = [f"{ending or 'none'} {count:,}" for ending, count in by_ending.most_common(_ENDINGS)]
    more = ", ..." if len(by_ending) > _ENDINGS else ""
    unread = sorted(HEIF_SUFFIXES & by_ending.keys())
    fix = f"; {HEIF_FIX} {', '.join(unread)}" if unread else ""
    found = {
        "passed by: links to folders, which are not followed": others[_LINKED],
        f"passed by: files whose ending is no picture's ({', '.join(named)}{more}{fix})": by_ending.total(),
    }
    return {what: count for what, count in found.items() if count}


def _names(folder: str, prefix: str, links: set[str], others: Counter[str]) -> Iterator[tuple[str, int | None]]:
    """Names and sizes of the pictures under a folder. Its own walk: the disk is asked once about a file."""
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
        # Left out, its pictures would be missing without a word.
        raise GenerationError(
            f"The folder {folder!r} cannot be listed ({error.strerror}): make it readable."
        ) from error
    for name in below:
        yield from _names(os.path.join(folder, name), f"{prefix}{name}/", links, others)


def _size(entry: os.DirEntry[str]) -> int | None:
    try:
        return entry.stat().st_size
    except OSError:  # a link that leads nowhere, or a file that went away: the reason is given when its turn comes
        return None


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a circle of links: a file that is refused
        return False


def _refusal(path: Path, root: Path) -> str | None:
    try:
        target = path.resolve(strict=True)
    except (OSError, RuntimeError) as error:
        return f"is a link that leads nowhere ({type(error).__name__}): replace it by the file"
    return None if target.is_relative_to(root) else "is a link out of the folder: copy the file into it"


def _ids(names: list[str]) -> list[tuple[str, str]]:
    """Each name with its id: without suffix, unless that would be another file's name or id."""
    shown_names = [printable(name) for name in names]
    stems = [os.path.splitext(name)[0] for name in shown_names]
    ids = distinct(stems, shown_names)
    return list(zip(names, ids, strict=True))


def distinct(ids: Sequence[str], names: Sequence[str]) -> list[str]:
    """The ids, where two inputs would share one or it is another's name the name instead."""
    counts, taken = Counter(ids), set(names)
    return [id_ if counts[id_] == 1 and id_ not in taken else name for id_, name in zip(ids, names, strict=True)]
