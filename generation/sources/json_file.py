"""Pictures that a JSON file lists: COCO and Objects365 annotations, and LLaVA's conversations."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from vigc.errors import MAX_SHOWN, AnnotationError, GenerationError, ImageError, ImagePathError, short
from vigc.formats.boxes import NO_BOX, Boxes, PackedObjects, pack_objects, unpack_objects
from vigc.formats.chats import names_of_pictures
from vigc.formats.coco import INSTANCES, CocoFile
from vigc.formats.file_forms import stem_of
from vigc.formats.json_rows import read_rows
from vigc.generation.sources.errors import naming_files
from vigc.processing.bounded_parsing import JsonObject
from vigc.processing.confined_paths import located, printable
from vigc.processing.image_names import name_for_id, names_in_address, unusable
from vigc.processing.images import Picture

from .base import Files, Source, distinct
from .urls import is_address


class Annotated(Files):
    """The pictures of an annotation file in COCO's form, with their licences and objects.

    Args:
        annotations: The JSON file. Pictures that LVIS names by `coco_url` alone are looked for by the name in the
            address, under the root, its train2017 or its val2017; only with `urls` are others fetched.
        root: The folder that its `file_name`s are relative to. Objects365's name folders that its archives do not make
            (`images/v1/patch8/x.jpg`): those files may also lie as `patch8/x.jpg` or `x.jpg`.
        format: The name of one of `INSTANCES`.
        urls: As of [`Files`].
    """

    def __init__(self, annotations: Path, root: Path, format: str = "coco", urls: Sequence[str] = ()) -> None:
        if not root.is_dir():
            raise GenerationError(f"{str(root)!r} is not a folder: give the folder of the images as --image-root.")
        super().__init__(root, urls)
        self.annotations, self.format, self.naming = annotations, format, INSTANCES[format]

    @property
    def name(self) -> str:
        """The annotation file's name without its suffix."""
        return printable(stem_of(self.annotations))

    def __iter__(self) -> Iterator[Source]:
        """All pictures, sorted by their names; one that is listed again is a copy of itself, with the boxes of all."""
        with naming_files():
            file = CocoFile(self.annotations)
        self.unlisted = {NO_BOX: file.unusable} if file.unusable else {}
        order: list[int] = []
        again: dict[int, list[int]] = {}
        for index in sorted(range(len(file.names)), key=file.names.__getitem__):
            if order and file.names[index] == file.names[order[-1]]:
                again.setdefault(order[-1], []).append(index)
            else:
                order.append(index)
        shown = [printable(file.names[index]) for index in order]
        ids = distinct([self._id(name) for name in shown], shown)
        for index, image_id in zip(order, ids, strict=True):
            name, others = file.names[index], again.get(index, ())
            if reason := unusable(name):
                for place in (index, *others):
                    label = f"{self.annotations.name}, entry {place} of 'images'"
                    yield Source(label, label, f"its image name {short(name)} {reason}")
                continue
            boxes = _joined([file.objects(index), *map(file.objects, others)]) if others else file.objects(index)
            yield Source(name, image_id, None, file.license(index), boxes, same=[name for _ in others] or None)

    def locate(self, source: Source) -> str | None:
        """The path of the file, resolved under the root; None for an address."""
        path = super().locate(source)
        if path is None:
            return self._unpacked(source.name)
        if not self.naming.is_repacked or os.path.lexists(path):
            return path
        parts = source.name.replace("\\", "/").split("/")
        unpacked = (super(Annotated, self).locate(replace(source, name="/".join(parts[-count:]))) for count in (2, 1))
        return next((place for place in unpacked if place and os.path.lexists(place)), path)

    def _unpacked(self, address: str) -> str | None:
        """Where the picture of an address lies under the root, or would; None where it is to be fetched."""
        places = [located(self._real_root, name) for name in names_in_address(address)]
        found = next((place for place in places if os.path.lexists(place)), None)
        return found or (None if self.addresses.hosts or not places else places[0])

    def open(self, source: Source) -> Picture:
        """The picture, as of [`Files`]; where an address names it, what was looked for is said."""
        try:
            return super().open(source)
        except ImageError as error:
            if isinstance(error.__cause__, FileNotFoundError) and is_address(source.name):
                names = ", ".join(names_in_address(source.name)[:2])
                reason = (
                    f"is a URL: {names} is not in the folder of the images, and a URL is only fetched if its "
                    "host is named (--allow-urls HOST)"
                )
                raise ImagePathError(error.name, reason) from error.__cause__
            raise

    def _id(self, name: str) -> str:
        return self.naming.image_id(posixpath.splitext(posixpath.basename(name_for_id(name)))[0])


def _joined(found: list[Boxes | None]) -> Boxes | PackedObjects | None:
    """All that is annotated; entries of one id have the same objects, which count once."""
    different = [boxes for boxes in dict.fromkeys(found) if boxes is not None]
    if len(different) < 2:
        return next(iter(different), None)
    return pack_objects([item for boxes in different for item in unpack_objects(boxes.pack())])


class LlavaPictures(Files):
    """The pictures that a LLaVA file names, each once, in the file's order.

    Args:
        conversations: The JSON or JSON Lines file.
        root: The folder that its `image`s are relative to.
        urls: As of [`Files`].
    """

    format = "llava"

    def __init__(self, conversations: Path, root: Path, urls: Sequence[str] = ()) -> None:
        if not root.is_dir():
            raise GenerationError(f"{str(root)!r} is not a folder: give the folder of the images as --image-root.")
        super().__init__(root, urls)
        self.conversations = conversations

    @property
    def name(self) -> str:
        """The file's name without its suffix."""
        return printable(stem_of(self.conversations))

    def __iter__(self) -> Iterator[Source]:
        """The pictures; an entry that cannot be read is one that is refused. Entries without image are ignored."""
        names: dict[str, str | None] = {}
        with naming_files():
            for place, entry in read_rows(self.conversations):
                label = f"{self.conversations.name}, {place}"
                if isinstance(entry, AnnotationError):
                    names.setdefault(label, f"is no entry: {entry}")
                elif not isinstance(entry, dict):
                    names.setdefault(label, f"is {type(entry).__name__}, not an object with named fields: correct it")
                else:
                    names.update(_named(entry, label, names))
        if not any(reason is None for reason in names.values()):
            raise GenerationError(f"{str(self.conversations)!r} names no image: give a file in LLaVA's layout.")
        shown = [printable(name) for name in names]
        ids = distinct([PurePosixPath(name_for_id(name)).stem for name in shown], shown)
        for (name, refused), image_id in zip(names.items(), ids, strict=True):
            yield Source(name, image_id, refused)


def _named(entry: JsonObject, label: str, known: Collection[str]) -> dict[str, str | None]:
    """The names of an entry's pictures that are not known yet; its place, with the reason, for what is no name."""
    found: dict[str, str | None] = {}
    for name in names_of_pictures(entry):
        if not isinstance(name, str):
            found[label] = f"its image name {short(name)} is not text: correct it"
        elif reason := unusable(name):
            place = name if len(name) <= MAX_SHOWN else label
            found[place] = f"its image name {short(name)} {reason}"
        elif name not in known:
            found[name] = None
    return found
