"""Annotated objects of images: categories and boxes, in rows and packed in the list of inputs."""

from __future__ import annotations

import math
from binascii import a2b_base64, b2a_base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

EDGES = 4  # x, y, width, height
NO_BOX = "boxes skipped: a number is missing or not finite, or a side is not above 0"


class ObjectCell(TypedDict):
    """One object in a row: its category, and its box as x, y, width, height in pixels."""

    category: str
    bbox: list[float]


class PackedObjects(TypedDict):
    """The objects of an image in the list of inputs: categories, and all boxes as one text."""

    category: list[str]
    bbox: str


class Columns(Protocol):
    """The objects of many images, stored in columns."""

    def pack(self, start: int, end: int) -> PackedObjects:
        """Packs the objects `start` to `end - 1`, like [`pack_objects`]."""


@dataclass(frozen=True, slots=True)
class Boxes:
    """The objects of one image, a slice of the columns for many images.

    Args:
        columns: The objects of all images.
        start: Index of the first object of this image.
        end: Index after its last object.
    """

    columns: Columns
    start: int
    end: int

    def pack(self) -> PackedObjects:
        """Packs the objects, like [`pack_objects`]."""
        return self.columns.pack(self.start, self.end)


class ObjectColumn:
    """The objects of some rows of a table, stored as arrays of numbers.

    Args:
        column: For each row a list of `{"category", "bbox": [x, y, width, height]}`, or one `{"category", "bbox"}` of
            lists, which is how `datasets` stores a `Sequence`.
        names: Category names, for categories that are numbers.

    Attributes:
        unusable: How many boxes were skipped so far ([`usable_boxes`]).
    """

    def __init__(self, column: pa.Array, names: Sequence[str] | None = None) -> None:
        self._names = names
        self._rows: list[Any] | None = None
        self.unusable = 0
        try:
            lengths, kinds, boxes = _parts(column)
            boxes = boxes.cast(pa.list_(pa.float64()))
            edges = boxes.flatten()
            regular = not kinds.null_count + boxes.null_count + edges.null_count
            regular = regular and bool((boxes.value_lengths().to_numpy() == EDGES).all())
            encoded = kinds.dictionary_encode()
        except (pa.ArrowException, AttributeError, KeyError, TypeError, ValueError):
            regular = False
        if not regular:  # rows differ in structure, or have another one
            self._rows = column.to_pylist()
            return
        values = as_float32(edges.to_numpy().reshape(-1, EDGES).T)
        kept = usable_boxes(values)
        self.unusable = len(kept) - int(kept.sum())
        self._kinds = [_category(kind, names) for kind in encoded.dictionary.to_pylist()]
        self._codes = encoded.indices.to_numpy()[kept]
        self._edges = np.ascontiguousarray(values[:, kept])
        kept_before = np.concatenate([[0], np.cumsum(kept)])
        self._ends = kept_before[np.concatenate([[0], np.cumsum(lengths)])]

    def of(self, row: int) -> Boxes | PackedObjects | None:
        """The objects of one row; None if it has none, or has them in another form."""
        if self._rows is not None:
            found = _pairs(self._rows[row], self._names)
            if found is None:
                return None
            self.unusable += len(found[0]) - int(found[2].sum())
            return _packed_pairs(*found)
        start, end = self._ends[row : row + 2].tolist()
        return Boxes(self, start, end) if start < end else None

    def pack(self, start: int, end: int) -> PackedObjects:
        """Packs the objects `start` to `end - 1`, like [`pack_objects`]."""
        return packed(
            [self._kinds[code] for code in self._codes[start:end].tolist()], self._edges[:, start:end].tobytes()
        )


def _parts(column: pa.Array) -> tuple[np.ndarray, pa.Array, pa.Array]:
    """(number of objects of each row, categories, boxes) of all rows."""
    if pa.types.is_struct(column.type):
        kinds, boxes = (pc.struct_field(column, name) for name in ("category", "bbox"))
        lengths = kinds.value_lengths().fill_null(0).to_numpy()
        if (lengths != boxes.value_lengths().fill_null(0).to_numpy()).any():
            raise ValueError("a row has more categories than boxes, or fewer")
        return lengths, kinds.flatten(), boxes.flatten()
    lengths, objects = column.value_lengths().fill_null(0).to_numpy(), column.flatten()
    return lengths, pc.struct_field(objects, "category"), pc.struct_field(objects, "bbox")


def _category(kind: Any, names: Sequence[str] | None) -> str:
    if isinstance(kind, (list, Mapping)):
        raise TypeError("one object has several categories")
    return names[kind] if names is not None and isinstance(kind, int) and 0 <= kind < len(names) else str(kind)


def pack_objects(objects: Any, names: Sequence[str] | None = None) -> PackedObjects | None:
    """Packs objects for the list of inputs: names, and all boxes as one text of about 21 characters per box.

    Boxes that cannot be used ([`usable_boxes`]) are skipped.

    Args:
        objects: A list of `{"category", "bbox": [x, y, width, height]}`, or such a dictionary of lists.
        names: Category names, for categories that are numbers.

    Returns:
        The packed objects; None if there is none, or `objects` has another form.
    """
    found = _pairs(objects, names)
    return None if found is None else _packed_pairs(*found)


def _pairs(objects: Any, names: Sequence[str] | None) -> tuple[list[str], np.ndarray, np.ndarray] | None:
    """Categories, boxes as float32 (objects, 4), and a mask of usable boxes; None if `objects` has another form."""
    try:
        if isinstance(objects, Mapping):
            pairs = list(zip(objects["category"], objects["bbox"], strict=True))
        else:
            pairs = [(item["category"], item["bbox"]) for item in objects]
        kinds = [_category(kind, names) for kind, _ in pairs]
        boxes = [[math.nan if edge is None else edge for edge in box or [None] * EDGES] for _, box in pairs]
        edges = as_float32(np.array(boxes, dtype=np.float64))
    except (TypeError, KeyError, ValueError):
        return None
    if not kinds or edges.shape != (len(kinds), EDGES):
        return None
    return kinds, edges, usable_boxes(edges.T)


def _packed_pairs(kinds: list[str], edges: np.ndarray, kept: np.ndarray) -> PackedObjects | None:
    names = [kind for kind, good in zip(kinds, kept, strict=True) if good]
    return packed(names, edges[kept].T.tobytes()) if names else None


def as_float32(edges: np.ndarray) -> np.ndarray:
    """Numbers as float32, little-endian; too large ones become infinite."""
    with np.errstate(over="ignore"):
        return edges.astype("<f4")


def usable_boxes(edges: np.ndarray) -> np.ndarray:
    """A mask, bool (objects,), of the boxes with four finite numbers and a width and height above 0.

    Args:
        edges: float32 (4, objects): x, y, width, height.
    """
    return np.isfinite(edges).all(axis=0) & (edges[2:] > 0).all(axis=0)


def packed(names: list[str], edges: bytes) -> PackedObjects:
    """Packs objects, given their names and the bytes of their boxes, little-endian float32 (4, objects)."""
    return {"category": names, "bbox": b2a_base64(edges, newline=False).decode("ascii")}


def unpack_objects(packed: PackedObjects) -> list[ObjectCell]:
    """Unpacks objects; their boxes have the precision of float32."""
    edges = np.frombuffer(a2b_base64(packed["bbox"]), dtype="<f4").reshape(EDGES, -1)
    return [{"category": name, "bbox": box} for name, box in zip(packed["category"], edges.T.tolist(), strict=True)]
