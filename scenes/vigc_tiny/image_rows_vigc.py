"""Which rows of a batch have an image, in each of the forms in which images are given."""

from __future__ import annotations

from typing import Any, cast

from transformers.image_utils import make_flat_list_of_images


def image_rows(images: Any) -> tuple[list[Any] | None, list[bool]]:
    """The images as a list, None if there are none, and which rows have one.

    Args:
        images: One image, a list of images (None: a row without), or a list of lists of one or none, as TRL's.
    """
    nested = images if isinstance(images, (list, tuple)) else ()
    rows = [one if isinstance(one, (list, tuple)) else [one] for one in nested]
    rows = [[one for one in row if one is not None] for row in rows]
    if all(len(row) == 1 for row in rows) or any(len(row) > 1 for row in rows):
        flat = [] if images == [] else cast(list[Any], make_flat_list_of_images(images))
        return flat, [True] * len(flat)
    return [row[0] for row in rows if row] or None, [bool(row) for row in rows]
