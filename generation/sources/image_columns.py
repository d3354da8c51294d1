"""Which column of a dataset holds the images, and the names of its categories."""

from __future__ import annotations

from typing import Any

import datasets

from vigc.errors import MAX_REASON, GenerationError, cut

# Of columns that datasets itself does not know for pictures: bytes, or texts that are paths or addresses.
_PICTURES = ("image", "images", "image_url", "url", "URL")
_PICTURE_TYPES = ("string", "large_string", "binary", "large_binary")


def class_names(feature: Any) -> list[str] | None:
    """The names of the categories of a column of objects, where its features have them."""
    inner = getattr(feature, "feature", feature)
    category = inner.get("category") if isinstance(inner, dict) else None
    return getattr(getattr(category, "feature", category), "names", None)


def image_column(features: Any, path: str) -> tuple[str, bool]:
    """The first column of pictures, and whether its rows hold several."""
    for name, feature in features.items():
        if isinstance(feature, datasets.Image):
            return name, False
        if isinstance(getattr(feature, "feature", None), datasets.Image):
            return name, True
    for name in _PICTURES:
        feature = features.get(name)
        inner = getattr(feature, "feature", feature)
        named = isinstance(inner, datasets.Value) and inner.dtype in _PICTURE_TYPES
        if named or (isinstance(inner, dict) and "bytes" in inner):
            return name, inner is not feature
    raise GenerationError(
        f"The dataset {path!r} has no column of images: its columns are {cut(', '.join(features), MAX_REASON)}."
    )
