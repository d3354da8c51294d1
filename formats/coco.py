"""Reads instance annotations in COCO's form (COCO, Objects365, LVIS) into columns: Objects365 has 25 million boxes."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vigc.errors import MAX_REASON, AnnotationError, GenerationError, LayoutError, cut, reason_of, short
from vigc.processing.bounded_parsing import JsonObject
from vigc.processing.confined_paths import printable

from .boxes import EDGES, Boxes, PackedObjects, as_float32, packed, usable_boxes
from .json_stream import JsonReader, is_text

# LVIS has no file_name, but the URL of the image at COCO.
_IMAGE = pa.struct({"id": pa.int64(), "file_name": pa.string(), "license": pa.int64(), "coco_url": pa.string()})
# Boxes are parsed as float64, like in Python.
_OBJECT = pa.struct({"image_id": pa.int64(), "category_id": pa.int64(), "bbox": pa.list_(pa.float64())})
_CATEGORY = pa.struct({"image_id": pa.int64(), "category_id": pa.int64()})

_SIDES: tuple[Literal["left"], Literal["right"]] = ("left", "right")


@dataclass(frozen=True, slots=True)
class InstanceFormat:
    """A dataset with annotations in COCO's form, and how it names its images.

    Args:
        name: The name in `--format`.
        title: The name in texts.
        is_numbered: Whether the image id is the digits after the last "_" of the file name, and not the whole stem.
        is_repacked: Whether names have folders that the published archives lack, so that files are also searched
            without them.
    """

    name: str
    title: str
    is_numbered: bool = False
    is_repacked: bool = False

    def image_id(self, stem: str) -> str:
        """The id of an image, given its file name without suffix."""
        last = stem.rsplit("_", 1)[-1]
        return last if self.is_numbered and last.isdigit() else stem


INSTANCES = {
    one.name: one
    for one in (
        InstanceFormat("coco", "COCO and LVIS"),
        InstanceFormat("objects365", "Objects365", is_numbered=True, is_repacked=True),
    )
}


def coco_names(image_id: int, subset: str | None = None) -> tuple[str, ...]:
    """Names of a COCO image, alone and in its subset's folder, those of `subset` ("train2014", ...) first."""
    subsets = ("train2014", "val2014", "test2015", "train2017", "val2017", "test2017")
    ordered = sorted(subsets, key=lambda name: name != subset)
    names = {
        name: f"COCO_{name}_{image_id:012d}.jpg" if name.endswith(("14", "15")) else f"{image_id:012d}.jpg"
        for name in ordered
    }
    return tuple(dict.fromkeys(path for name in ordered for path in (names[name], f"{name}/{names[name]}")))


class CocoFile:
    """The images, objects and licences of a file in COCO's form.

    Args:
        path: The file.

    Attributes:
        names: The image file names, in the file's order; a URL where the file has no name.
        unusable: How many boxes were skipped because a number is missing or not finite, or a side is not above 0.

    Raises:
        GenerationError: The file is not in COCO's form; the message names the entry.
        AnnotationError: The file is not JSON, or cannot be read.
    """

    def __init__(self, path: Path) -> None:
        read = _Reading(path)
        self.names, self.unusable = read.names, read.unusable
        self._license_ids, self._licenses = read.license_ids, read.licenses
        self._categories = [read.categories.get(kind, str(kind)) for kind in read.codes]
        # Each of these columns may take hundreds of megabytes, so it is freed as early as possible.
        images = _narrow(np.frombuffer(read.images, dtype=np.int64))
        del read.images
        order = np.argsort(images, kind="stable")
        images = images[order]
        ids = np.frombuffer(read.ids, dtype=np.int64)
        self._starts, self._ends = (array("q", np.searchsorted(images, ids, side=side).tobytes()) for side in _SIDES)
        del images
        # From here on the objects of an image are adjacent, in the file's order.
        self._kinds = np.frombuffer(read.kinds, dtype=np.int32)[order]
        del read.kinds
        self._edges = []
        while read.edges:
            column = np.frombuffer(read.edges.pop(0), dtype=np.float32)[order]
            self._edges.append(memoryview(column.astype("<f4", copy=False).data).cast("B"))

    def license(self, index: int) -> str | None:
        """The licence of an image; None if the file has none."""
        return self._licenses.get(self._license_ids[index])

    def objects(self, index: int) -> Boxes | None:
        """The objects of an image; None if it has none."""
        start, end = self._starts[index], self._ends[index]
        return Boxes(self, start, end) if start < end else None

    def pack(self, start: int, end: int) -> PackedObjects:
        """Packs the objects `start` to `end - 1` for the list of inputs."""
        names = [self._categories[code] for code in self._kinds[start:end].tolist()]
        return packed(names, b"".join([column[4 * start : 4 * end] for column in self._edges]))


@dataclass(frozen=True, slots=True)
class ImageCategories:
    """The categories of each image in a file in COCO's form, from annotations with and without a box.

    Args:
        names: The names of all categories, in the file's order.
        images: The file name of each image, by id.
        held: The names of the categories in each image, by id.
    """

    names: list[str]
    images: dict[int, str]
    held: dict[int, set[str]]


def read_categories(path: Path) -> ImageCategories:
    """Reads the categories of the images in a file, as a stream.

    Raises:
        AnnotationError: The file is not JSON, or an annotation has an image or a category that the file does not list.
        GenerationError: The file is not in COCO's form; the message names the entry.
    """
    read = _CategoryReading(path)
    images = dict(zip(read.ids, read.names, strict=True))
    held: dict[int, set[str]] = {image: set() for image in images}
    ids = list(read.codes)  # in the order of their codes
    for index, (image, code) in enumerate(zip(read.images, read.kinds, strict=True)):
        category = ids[code]
        if image not in held or category not in read.categories:
            reason = f"belongs to image {image!r} and category {category!r}, which the file does not list."
            raise AnnotationError(path, reason, index)
        held[image].add(read.categories[category])
    return ImageCategories(list(read.categories.values()), images, held)


class _Reading:
    """Reads a file as a stream: lists of images and annotations into columns, other members skipped."""

    annotation = _OBJECT  # the fields to read

    def __init__(self, path: Path) -> None:
        self.path = path
        self.unusable = 0
        self.names: list[str] = []
        self.ids = array("q")
        self.license_ids: list[Any] = []
        self.licenses: dict[Any, str] = {}
        self.categories: dict[int, str] = {}
        self.codes: dict[int, int] = {}  # by category id, because the ids may be any numbers
        self.images, self.kinds = array("q"), array("i")
        self.edges = [array("f") for _ in range(EDGES)]
        reader = JsonReader(path)
        if reader.top() != "{":
            raise GenerationError(f"{str(path)!r} has no object with 'images': give annotations in COCO's form.")
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
            self._read_blocks(reader, member, self.annotation, self._take_objects, self._add_object)
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
        add: Callable[[JsonObject], None],
    ) -> None:
        for block in reader.blocks(kind):
            if isinstance(block, pa.StructArray):
                if take(block):
                    continue
                block = [entry and _without_none(entry) for entry in block.to_pylist()]
            for index, entry in enumerate(block, reader.index or 0):
                self._try(add, entry, member, index)

    def _try(self, add: Callable[[JsonObject], None], entry: Any, member: str, index: int | None) -> None:
        try:
            if not isinstance(entry, dict):
                raise LayoutError(f"it is {short(entry)}, but an object with named fields is expected")
            add(entry)
        except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
            raise GenerationError(
                f"{str(self.path)!r}: entry {index} of {member!r} is not in COCO's form ({reason_of(error)}): "
                "correct it."
            ) from error

    def _add_license(self, entry: JsonObject) -> None:
        text = entry.get("name") or entry.get("url")
        if text and is_text(text):
            self.licenses[entry["id"]] = cut(str(text), MAX_REASON)

    def _add_category(self, entry: JsonObject) -> None:
        self.categories[_whole(entry, "id")] = printable(cut(str(_given(entry, "name")), MAX_REASON))

    def _add_image(self, entry: JsonObject) -> None:
        name = entry.get("file_name")
        name = entry.get("coco_url") if name is None else name
        if name is None:
            raise LayoutError(f"it has no 'file_name' and no 'coco_url', only {short(list(entry))}")
        if not isinstance(name, str):
            raise LayoutError(f"'file_name' is {short(name)}, but text is expected")
        self.ids.append(_whole(entry, "id"))
        self.names.append(name)
        self.license_ids.append(entry.get("license"))

    def _take_images(self, block: pa.StructArray) -> bool:
        """Adds a block of entries; returns False if they have to be added one by one instead."""
        ids, names, licenses, urls = block.flatten()
        names = pc.coalesce(names, urls)
        if ids.null_count or names.null_count:
            return False
        self.names += names.to_pylist()
        self.ids.frombytes(ids.to_numpy().tobytes())
        self.license_ids += licenses.to_pylist()
        return True

    def _add_object(self, entry: JsonObject) -> None:
        if entry.get("bbox") is None or entry.get("category_id") is None:  # for example a caption
            return
        kind, image, edges = _whole(entry, "category_id"), _whole(entry, "image_id"), _edges(entry["bbox"])
        if not usable_boxes(edges[:, None])[0]:
            self.unusable += 1
            return
        self.images.append(image)
        self.kinds.append(self._code(kind))
        for column, edge in zip(self.edges, edges.tolist(), strict=True):
            column.append(edge)

    def _take_objects(self, block: pa.StructArray) -> bool:
        """Adds a block of entries; returns False if they have to be added one by one instead."""
        images, kinds, boxes = block.flatten()
        if len(block) in (boxes.null_count, kinds.null_count):
            return True
        if images.null_count or kinds.null_count or boxes.null_count:
            return False
        lengths, edges = boxes.value_lengths().to_numpy(), boxes.flatten()
        if edges.null_count or not (lengths == EDGES).all():
            return False
        values = as_float32(edges.to_numpy().reshape(-1, EDGES).T)
        kept = usable_boxes(values)
        self.unusable += len(kept) - int(kept.sum())
        for column, ours in zip(self.edges, values[:, kept], strict=True):
            column.frombytes(ours.tobytes())
        self._take_categories(images.filter(kept), kinds.filter(kept))
        return True

    def _take_categories(self, images: pa.Array, kinds: pa.Array) -> None:
        """Adds the images and categories of a block of annotations without nulls."""
        self.images.frombytes(images.to_numpy().tobytes())
        encoded = kinds.dictionary_encode()
        codes = np.array([self._code(kind) for kind in encoded.dictionary.to_pylist()], dtype=np.int32)
        self.kinds.frombytes(codes[encoded.indices.to_numpy()].tobytes())

    def _code(self, kind: int) -> int:
        return self.codes.setdefault(kind, len(self.codes))


class _CategoryReading(_Reading):
    """Like [`_Reading`], for all annotations, without their boxes."""

    annotation = _CATEGORY

    def _add_object(self, entry: JsonObject) -> None:
        image, kind = _whole(entry, "image_id"), _whole(entry, "category_id")
        self.images.append(image)
        self.kinds.append(self._code(kind))

    def _take_objects(self, block: pa.StructArray) -> bool:
        images, kinds = block.flatten()
        if images.null_count or kinds.null_count:
            return False
        self._take_categories(images, kinds)
        return True


def _given(entry: JsonObject, name: str) -> Any:
    if entry.get(name) is None:
        raise LayoutError(f"it has no {name!r}, only {short(list(entry))}")
    return entry[name]


def _whole(entry: JsonObject, name: str) -> int:
    value = _given(entry, name)
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError):
        raise LayoutError(f"{name!r} is {short(value)}, but a whole number is expected") from None


def _edges(box: Any) -> np.ndarray:
    """A box as float32 (4,), NaN where a number is missing; some tools write an empty list for a missing box."""
    if not isinstance(box, list) or len(box) not in (0, EDGES):
        raise LayoutError(f"'bbox' is {short(box)}, but x, y, width and height are expected")
    try:
        return as_float32(np.array([math.nan if edge is None else float(edge) for edge in box or [None] * EDGES]))
    except (TypeError, ValueError):
        raise LayoutError(f"'bbox' is {short(box)}, but numbers are expected") from None


def _without_none(entry: JsonObject) -> JsonObject:
    return {name: value for name, value in entry.items() if value is not None}


def _narrow(numbers: np.ndarray) -> np.ndarray:
    """Integers as int32 if they fit, else unchanged."""
    small = np.iinfo(np.int32)
    fits = len(numbers) == 0 or (small.min <= numbers.min() and numbers.max() <= small.max)
    return numbers.astype(np.int32) if fits else numbers
