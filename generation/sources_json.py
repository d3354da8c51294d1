"""Pictures that a JSON file lists: COCO and Objects365 annotations, and LLaVA's conversations."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from vigc.processing.json_rows import read_rows
from vigc.processing.json_stream import AnnotationError

from .annotation_file import AnnotationFile
from .errors import GenerationError, naming_files
from .objects import Boxes, pack_objects, unpack_objects
from .sources import Files, Source, distinct, printable


class Annotated(Files):
    """The pictures of an annotation file in COCO's form, with their licences and objects.

    Args:
        annotations: The JSON file.
        root: The folder that its `file_name`s are relative to. Objects365's name folders that its archives do not make
            (`images/v1/patch8/x.jpg`): those files may also lie as `patch8/x.jpg` or `x.jpg`.
        format: "coco", where the id is the file's name, or "objects365", where it is the digits after the last "_".
        urls: As of [`Files`].
    """

    def __init__(self, annotations: Path, root: Path, format: str = "coco", urls: Sequence[str] = ()) -> None:
        if not root.is_dir():
            raise GenerationError(f"{str(root)!r} is no folder: give the folder of the pictures as --image-root.")
        super().__init__(root, urls)
        self.annotations, self.format = annotations, format

    @property
    def name(self) -> str:
        """The annotation file's name without its suffix."""
        return printable(self.annotations.stem)

    def __iter__(self) -> Iterator[Source]:
        """All pictures, sorted by their names; one that is listed again is a copy of itself, with the boxes of all."""
        with naming_files():
            file = AnnotationFile(self.annotations)
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
            boxes = _joined([file.objects(index), *map(file.objects, others)]) if others else file.objects(index)
            yield Source(name, image_id, None, file.license(index), boxes, same=[name for _ in others] or None)

    def locate(self, source: Source) -> str | None:
        """The path of the file, resolved under the root; None for an address."""
        path = super().locate(source)
        if path is None or self.format != "objects365" or os.path.lexists(path):
            return path
        parts = source.name.split("/")
        unpacked = (super(Annotated, self).locate(replace(source, name="/".join(parts[-count:]))) for count in (2, 1))
        return next((place for place in unpacked if place and os.path.lexists(place)), path)

    def _id(self, name: str) -> str:
        stem = posixpath.splitext(posixpath.basename(name))[0]
        last = stem.rsplit("_", 1)[-1]
        return last if self.format == "objects365" and last.isdigit() else stem


def _joined(found: list[Boxes | None]) -> Boxes | dict[str, Any] | None:
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
            raise GenerationError(f"{str(root)!r} is no folder: give the folder of the pictures as --image-root.")
        super().__init__(root, urls)
        self.conversations = conversations

    @property
    def name(self) -> str:
        """The file's name without its suffix."""
        return printable(self.conversations.stem)

    def __iter__(self) -> Iterator[Source]:
        """The pictures; an entry that cannot be read is one that is refused. Entries without picture are passed by."""
        names: dict[str, str | None] = {}
        with naming_files():
            for place, entry in read_rows(self.conversations):
                label = f"{self.conversations.name}, {place}"
                if isinstance(entry, AnnotationError):
                    names.setdefault(label, f"is no entry: {entry}")
                elif not isinstance(entry, dict):
                    names.setdefault(label, f"is {type(entry).__name__}, not an object with named fields: correct it")
                elif isinstance(image := entry.get("image"), str):
                    names.setdefault(image, None)
                elif image is not None:
                    names.setdefault(label, f"names its picture {image!r:.60}, which is no text: correct it")
        if not any(reason is None for reason in names.values()):
            raise GenerationError(f"{str(self.conversations)!r} names no picture: give a file in LLaVA's form.")
        shown = [printable(name) for name in names]
        ids = distinct([PurePosixPath(name).stem for name in shown], shown)
        for (name, refused), image_id in zip(names.items(), ids, strict=True):
            yield Source(name, image_id, refused)
