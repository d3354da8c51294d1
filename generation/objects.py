"""What is annotated in a picture, as rows have it and as the list of inputs holds it."""

from __future__ import annotations

from binascii import a2b_base64, b2a_base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

EDGES = 4  # x, y, width, height


class Columns(Protocol):
    """The objects of many pictures."""

    def pack(self, start: int, end: int) -> dict[str, Any]:
        """Some of them, as [`pack_objects`] has them."""


@dataclass(frozen=True, slots=True)
class Boxes:
    """The objects of one picture among those of many.

    Args:
        columns: Holds them all.
        start: The first of this picture.
        end: The one after its last.
    """

    columns: Columns
    start: int
    end: int

    def pack(self) -> dict[str, Any]:
        """What [`pack_objects`] makes of them."""
        return self.columns.pack(self.start, self.end)


class ObjectColumn:
    """The objects of some rows of a table, kept as numbers.

    Args:
        column: To each row a list of `{"category", "bbox": [x, y, width, height]}`, or one `{"category", "bbox"}` with
            lists in it, as `datasets` keeps a `Sequence` of them.
        names: Of categories that are numbers.
    """

    def __init__(self, column: pa.Array, names: Sequence[str] | None = None) -> None:
        self._names = names
        self._rows: list[Any] | None = None
        try:
            lengths, kinds, boxes = _parts(column)
            boxes = boxes.cast(pa.list_(pa.float64()))
            edges = boxes.flatten()
            regular = not kinds.null_count + boxes.null_count + edges.null_count
            regular = regular and bool((boxes.value_lengths().to_numpy() == EDGES).all())
            encoded = kinds.dictionary_encode()
        except (pa.ArrowException, AttributeError, KeyError, TypeError, ValueError):
            regular = False
        if not regular:  # some rows are not like the others, or all are something else
            self._rows = column.to_pylist()
            return
        self._kinds = [_category(kind, names) for kind in encoded.dictionary.to_pylist()]
        self._codes = encoded.indices.to_numpy()
        self._edges = np.ascontiguousarray(edges.to_numpy().reshape(-1, EDGES).T, dtype="<f4")
        self._ends = np.concatenate([[0], np.cumsum(lengths)])

    def of(self, row: int) -> Boxes | dict[str, Any] | None:
        """What is annotated in one of the rows; None if nothing is, or it is in another form."""
        if self._rows is not None:
            return pack_objects(self._rows[row], self._names)
        start, end = self._ends[row : row + 2].tolist()
        return Boxes(self, start, end) if start < end else None

    def pack(self, start: int, end: int) -> dict[str, Any]:
        """Some of them, as [`pack_objects`] has them."""
        return packed(
            [self._kinds[code] for code in self._codes[start:end].tolist()], self._edges[:, start:end].tobytes()
        )


def _parts(column: pa.Array) -> tuple[np.ndarray, pa.Array, pa.Array]:
    """How many objects each row has; the categories and the boxes of all of them."""
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


def pack_objects(objects: Any, names: Sequence[str] | None = None) -> dict[str, Any] | None:
    """Objects as the list of inputs holds them: names, and all boxes as one text, 21 characters each, quick to read.

    Args:
        objects: A list of `{"category", "bbox": [x, y, width, height]}`, or such a dictionary of lists; None is made of
            anything else.
        names: Of categories that are numbers.
    """
    try:
        if isinstance(objects, Mapping):
            pairs = list(zip(objects["category"], objects["bbox"], strict=True))
        else:
            pairs = [(item["category"], item["bbox"]) for item in objects]
        kinds = [_category(kind, names) for kind, _ in pairs]
        edges = np.array([box for _, box in pairs], dtype=np.float32)
    except (TypeError, KeyError, ValueError):
        return None
    return packed(kinds, edges.T.astype("<f4").tobytes()) if kinds and edges.shape == (len(kinds), EDGES) else None


def packed(names: list[str], edges: bytes) -> dict[str, Any]:
    """Objects by their names and the bytes of their boxes, little-endian float32 (4, objects)."""
    return {"category": names, "bbox": b2a_base64(edges, newline=False).decode("ascii")}


def unpack_objects(packed: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What was packed, with boxes as float32 holds them."""
    edges = np.frombuffer(a2b_base64(packed["bbox"]), dtype="<f4").reshape(EDGES, -1)
    return [{"category": name, "bbox": box} for name, box in zip(packed["category"], edges.T.tolist(), strict=True)]
