"""Pictures that a JSON file lists: COCO and Objects365 annotations, and LLaVA's conversations."""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from .errors import GenerationError
from .json_stream import JsonReader, is_text, read_rows
from .sources import Files, Source, distinct, printable


class Annotated(Files):
    """The pictures of an annotation file in COCO's form, with their licences and objects.

    Args:
        annotations: The JSON file.
        root: The folder that its `file_name`s are relative to; Objects365 files may also lie in its patches.
        format: "coco", where the id is the file's name, or "objects365", where it is the digits after the last "_".
    """

    def __init__(self, annotations: Path, root: Path, format: str = "coco") -> None:
        if not root.is_dir():
            raise GenerationError(f"{str(root)!r} is no folder: give the folder of the pictures as --image-root.")
        super().__init__(root)
        self.annotations, self.format = annotations, format

    @property
    def name(self) -> str:
        """The annotation file's name without its suffix."""
        return printable(self.annotations.stem)

    def __iter__(self) -> Iterator[Source]:
        """All pictures, sorted by their names."""
        content = _Content(self.annotations)
        order = sorted(range(len(content.names)), key=content.names.__getitem__)
        shown = [printable(content.names[index]) for index in order]
        ids = distinct([self._id(name) for name in shown], shown)
        for index, image_id in zip(order, ids, strict=True):
            name = content.names[index]
            license = content.licenses.get(content.license_ids[index])
            yield Source(name, image_id, None, license, content.objects(content.ids[index]))

    def _id(self, name: str) -> str:
        stem = PurePosixPath(name).stem
        last = stem.rsplit("_", 1)[-1]
        return last if self.format == "objects365" and last.isdigit() else stem


class _Content:
    """What is needed of an annotation file, read as a stream: boxes of millions of objects as plain numbers.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.names: list[str] = []
        self.ids = array("q")
        self.license_ids: list[Any] = []
        self.licenses: dict[Any, str] = {}
        self._categories: dict[int, str] = {}
        self._boxes = array("f")
        self._kinds = array("q")
        self._by_image: defaultdict[int, array[int]] = defaultdict(lambda: array("q"))
        reader = JsonReader(path)
        if reader.top() != "{":
            raise GenerationError(f"{str(path)!r} holds no object with 'images': give annotations in COCO's form.")
        found = set()
        for member in reader.members():
            found.add(member)
            read = getattr(self, f"_read_{member}", None) if member in _MEMBERS and reader.top() == "[" else None
            if read is None:
                reader.value()
                continue
            for element in reader.elements():
                try:
                    read(element)
                except (KeyError, TypeError, ValueError, OverflowError) as error:
                    what = f"{type(error).__name__}: {error}"
                    raise GenerationError(
                        f"{str(path)!r}, line {reader.line()}: an entry of {member!r} is not in COCO's form ({what})."
                    ) from error
        if "images" not in found or not self.names:
            raise GenerationError(f"{str(path)!r} lists no 'images': give annotations in COCO's form.")

    def _read_images(self, entry: dict[str, Any]) -> None:
        name = entry["file_name"]
        if not isinstance(name, str):
            raise TypeError(f"file_name is {name!r}")
        self.ids.append(int(entry["id"]))
        self.names.append(name)
        self.license_ids.append(entry.get("license"))

    def _read_licenses(self, entry: dict[str, Any]) -> None:
        text = entry.get("name") or entry.get("url")
        if text and is_text(text):
            self.licenses[entry["id"]] = str(text)

    def _read_categories(self, entry: dict[str, Any]) -> None:
        self._categories[int(entry["id"])] = printable(str(entry["name"]))

    def _read_annotations(self, entry: dict[str, Any]) -> None:
        if "bbox" not in entry or "category_id" not in entry:  # a caption, say
            return
        x, y, width, height = entry["bbox"]
        box = (float(x), float(y), float(width), float(height))
        kind, image = int(entry["category_id"]), int(entry["image_id"])
        self._by_image[image].append(len(self._kinds))
        self._boxes.extend(box)
        self._kinds.append(kind)

    def objects(self, image: int) -> list[dict[str, Any]] | None:
        """What is annotated in a picture, in the file's order; None if nothing is."""
        if image not in self._by_image:
            return None
        return [
            {
                "category": self._categories.get(self._kinds[index], str(self._kinds[index])),
                "bbox": self._boxes[4 * index : 4 * index + 4].tolist(),
            }
            for index in self._by_image[image]
        ]


_MEMBERS = ("images", "licenses", "categories", "annotations")


class LlavaPictures(Files):
    """The pictures that a LLaVA file names, each once, in the file's order.

    Args:
        conversations: The JSON or JSON Lines file.
        root: The folder that its `image`s are relative to.
    """

    format = "llava"

    def __init__(self, conversations: Path, root: Path) -> None:
        if not root.is_dir():
            raise GenerationError(f"{str(root)!r} is no folder: give the folder of the pictures as --image-root.")
        super().__init__(root)
        self.conversations = conversations

    @property
    def name(self) -> str:
        """The file's name without its suffix."""
        return printable(self.conversations.stem)

    def __iter__(self) -> Iterator[Source]:
        """The pictures; an entry that cannot be read is one that is refused. Entries without picture are passed by."""
        names: dict[str, str | None] = {}
        for place, entry in read_rows(self.conversations):
            label = f"{self.conversations.name}, {place}"
            if isinstance(entry, GenerationError):
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
