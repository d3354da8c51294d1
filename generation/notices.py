"""What the reader of a dataset must know before its figures: that the model does not know such images."""

from __future__ import annotations

import os
from pathlib import Path

# What a model's configuration may say that it was trained on alone (`trained_on`), what such images are, and the file
# beside them by which they are known.
_KNOWN_BY = {"vigc-scenes": ("rendered scenes", "scenes.jsonl")}


def notice_of(model: str, trained_on: str | None, places: list[str | os.PathLike[str]]) -> str | None:
    """A warning where a model was trained on one kind of images only, and those of a job are not known to be of it.

    Args:
        model: Its name.
        trained_on: The only data that it was trained on, as its configuration says; None where that says nothing.
        places: Where the images of the job are: folders, or files that name or hold them.
    """
    if trained_on not in _KNOWN_BY or any(_holds(Path(place), trained_on) for place in places):
        return None
    what, _ = _KNOWN_BY[trained_on]
    return (
        f"{model} was trained on {what} only, and these images are not known to be {what}: expect wrong questions and "
        "wrong answers, whatever the counts say. Use a model that was trained on images like these."
    )


def _holds(place: Path, data: str) -> bool:
    """Whether images at a place are of this data: its file lies in their folder, or in the one above."""
    folder = place if place.is_dir() else place.parent
    return any((above / _KNOWN_BY[data][1]).is_file() for above in (folder, folder.absolute().parent))
