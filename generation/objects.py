"""What is annotated in a picture, as rows have it and as the list of inputs holds it."""

from __future__ import annotations

from binascii import a2b_base64, b2a_base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

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


def pack_objects(objects: Any) -> dict[str, Any] | None:
    """Objects as the list of inputs holds them: names, and all boxes as one text, 21 characters each, quick to read.

    Args:
        objects: A list of `{"category", "bbox": [x, y, width, height]}`; None is made of anything else.
    """
    try:
        names = [str(item["category"]) for item in objects]
        edges = np.array([item["bbox"] for item in objects], dtype=np.float32)
    except (TypeError, KeyError, ValueError):
        return None
    return packed(names, edges.T.astype("<f4").tobytes()) if names and edges.shape == (len(names), EDGES) else None


def packed(names: list[str], edges: bytes) -> dict[str, Any]:
    """Objects by their names and the bytes of their boxes, little-endian float32 (4, objects)."""
    return {"category": names, "bbox": b2a_base64(edges, newline=False).decode("ascii")}


def unpack_objects(packed: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What was packed, with boxes as float32 holds them."""
    edges = np.frombuffer(a2b_base64(packed["bbox"]), dtype="<f4").reshape(EDGES, -1)
    return [{"category": name, "bbox": box} for name, box in zip(packed["category"], edges.T.tolist(), strict=True)]
