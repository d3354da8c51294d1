"""Annotations in COCO's form, as columns: Objects365 has 25 million boxes, and memory holds them as numbers."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from vigc.errors import GenerationError
from vigc.processing.json_stream import JsonReader, is_text

from .objects import EDGES, Boxes, packed
from .sources import printable

_IMAGE = pa.struct({"id": pa.int64(), "file_name": pa.string(), "license": pa.int64()})
# Boxes pass through float64, as they do when Python reads them.
_OBJECT = pa.struct({"image_id": pa.int64(), "category_id": pa.int64(), "bbox": pa.list_(pa.float64())})


_SIDES: tuple[Literal["left"], Literal["right"]] = ("left", "right")


class AnnotationFile:
    """What is needed of a file in COCO's form.

    Args:
        path: The file.

    Attributes:
        names: The pictures' files, in the file's order.

    Raises:
        GenerationError: It is not in COCO's form; the message names the entry.
        AnnotationError: It is no JSON, or cannot be read.
    """

    def __init__(self, path: Path) -> None:
        read = _Reading(path)
        self.names = read.names
        self._license_ids, self._licenses = read.license_ids, read.licenses
        self._categories = [read.categories.get(kind, str(kind)) for kind in read.codes]
        # Each of these columns may take hundreds of megabytes, and is let go as soon as it can be.
        images = _narrow(np.frombuffer(read.images, dtype=np.int64))
        del read.images
        order = np.argsort(images, kind="stable")
        images = images[order]
        ids = np.frombuffer(read.ids, dtype=np.int64)
        self._starts, self._ends = (array("q", np.searchsorted(images, ids, side=side).tobytes()) for side in _SIDES)
        del images
        # The objects of a picture stand together from here on, in the file's order.
        self._kinds = np.frombuffer(read.kinds, dtype=np.int32)[order]
        del read.kinds
        self._edges = []
        while read.edges:
            column = np.frombuffer(read.edges.pop(0), dtype=np.float32)[order]
            self._edges.append(memoryview(column.astype("<f4", copy=False).data).cast("B"))

    def license(self, index: int) -> str | None:
        """The licence of a picture, where the file states one."""
        return self._licenses.get(self._license_ids[index])

    def objects(self, index: int) -> Boxes | None:
        """What is annotated in a picture; None if nothing is."""
        start, end = self._starts[index], self._ends[index]
        return Boxes(self, start, end) if start < end else None

    def pack(self, start: int, end: int) -> dict[str, Any]:
        """Some of the objects, as the list of inputs holds them."""
        names = [self._categories[code] for code in self._kinds[start:end].tolist()]
        return packed(names, b"".join([column[4 * start : 4 * end] for column in self._edges]))


class _Reading:
    """A file, read as a stream: what follows each other in it into columns, the rest passed by."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.names: list[str] = []
        self.ids = array("q")
        self.license_ids: list[Any] = []
        self.licenses: dict[Any, str] = {}
        self.categories: dict[int, str] = {}
        self.codes: dict[int, int] = {}  # of category ids, which may be any numbers
        self.images, self.kinds = array("q"), array("i")
        self.edges = [array("f") for _ in range(EDGES)]
        reader = JsonReader(path)
        if reader.top() != "{":
            raise GenerationError(f"{str(path)!r} holds no object with 'images': give annotations in COCO's form.")
        for member in reader.members():
            self._read_member(reader, member)
        reader.end()
        if not self.names:
            raise GenerationError(f"{str(path)!r} lists no 'images': give annotations in COCO's form.")

    def _read_member(self, reader: JsonReader, member: str) -> None:
        if reader.top() != "[":
            reader.skip()
        elif member == "images":
            self._read_blocks(reader, member, _IMAGE, self._take_images, self._add_image)
        elif member == "annotations":
            self._read_blocks(reader, member, _OBJECT, self._take_objects, self._add_object)
        elif member in ("licenses", "categories"):
            add = self._add_license if member == "licenses" else self._add_category
            for entry in reader.elements():
                self._try(add, entry, member, reader.index)
        else:
            reader.skip()

    def _read_blocks(
        self,
        reader: JsonReader,
        member: str,
        kind: pa.StructType,
        take: Callable[[pa.StructArray], bool],
        add: Callable[[dict[str, Any]], None],
    ) -> None:
        for block in reader.blocks(kind):
            if isinstance(block, pa.StructArray):
                if take(block):
                    continue
                block = [entry and _without_none(entry) for entry in block.to_pylist()]
            for index, entry in enumerate(block, reader.index or 0):
                self._try(add, entry, member, index)

    def _try(self, add: Callable[[dict[str, Any]], None], entry: Any, member: str, index: int | None) -> None:
        try:
            add(entry)
        except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
            raise GenerationError(
                f"{str(self.path)!r}: entry {index} of {member!r} is not in COCO's form "
                f"({type(error).__name__}: {error}): correct it."
            ) from error

    def _add_license(self, entry: dict[str, Any]) -> None:
        text = entry.get("name") or entry.get("url")
        if text and is_text(text):
            self.licenses[entry["id"]] = str(text)

    def _add_category(self, entry: dict[str, Any]) -> None:
        self.categories[int(entry["id"])] = printable(str(entry["name"]))

    def _add_image(self, entry: dict[str, Any]) -> None:
        name = entry["file_name"]
        if not isinstance(name, str):
            raise TypeError(f"file_name is {name!r}")
        self.ids.append(int(entry["id"]))
        self.names.append(name)
        self.license_ids.append(entry.get("license"))

    def _take_images(self, block: pa.StructArray) -> bool:
        """Adds a block of entries; returns whether it could, or they are to be added one by one."""
        ids, names, licenses = block.flatten()
        if ids.null_count or names.null_count:
            return False
        self.names += names.to_pylist()
        self.ids.frombytes(ids.to_numpy().tobytes())
        self.license_ids += licenses.to_pylist()
        return True

    def _add_object(self, entry: dict[str, Any]) -> None:
        if entry.get("bbox") is None or entry.get("category_id") is None:  # a caption, say
            return
        x, y, width, height = map(float, entry["bbox"])
        kind, image = int(entry["category_id"]), int(entry["image_id"])
        self.images.append(image)
        self.kinds.append(self._code(kind))
        for column, edge in zip(self.edges, (x, y, width, height), strict=True):
            column.append(edge)

    def _take_objects(self, block: pa.StructArray) -> bool:
        """Adds a block of entries; returns whether it could, or they are to be added one by one."""
        images, kinds, boxes = block.flatten()
        if len(block) in (boxes.null_count, kinds.null_count):
            return True
        if images.null_count or kinds.null_count or boxes.null_count:
            return False
        lengths, edges = boxes.value_lengths().to_numpy(), boxes.flatten()
        if edges.null_count or not (lengths == EDGES).all():
            return False
        for column, values in zip(self.edges, edges.to_numpy().reshape(-1, EDGES).T, strict=True):
            column.frombytes(values.astype(np.float32).tobytes())
        self.images.frombytes(images.to_numpy().tobytes())
        encoded = kinds.dictionary_encode()
        codes = np.array([self._code(kind) for kind in encoded.dictionary.to_pylist()], dtype=np.int32)
        self.kinds.frombytes(codes[encoded.indices.to_numpy()].tobytes())
        return True

    def _code(self, kind: int) -> int:
        return self.codes.setdefault(kind, len(self.codes))


def _without_none(entry: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in entry.items() if value is not None}


def _narrow(numbers: np.ndarray) -> np.ndarray:
    """Whole numbers in 32 bits, where they fit."""
    small = np.iinfo(np.int32)
    fits = len(numbers) == 0 or (small.min <= numbers.min() and numbers.max() <= small.max)
    return numbers.astype(np.int32) if fits else numbers
