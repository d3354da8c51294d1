"""The warning that a model was not trained on images like those of the job."""

from __future__ import annotations

import os
from pathlib import Path

# By `trained_on` of a model's configuration: a name of its only training images, and the file that identifies them.
_KNOWN_BY = {"vigc-scenes": ("rendered scenes", "scenes.jsonl")}


def notice_of(model: str, trained_on: str | None, places: list[str | os.PathLike[str]]) -> str | None:
    """A warning if a model was trained on one data set only and the images of a job are not from it.

    Args:
        model: The model's name.
        trained_on: The only training data; None if the configuration does not name it.
        places: The folders of the images, or the files that name or contain them.
    """
    if trained_on not in _KNOWN_BY or any(_holds(Path(place), trained_on) for place in places):
        return None
    what, _ = _KNOWN_BY[trained_on]
    return (
        f"{model} was trained on {what} only, and these images are not known to be {what}: expect wrong questions and "
        "wrong answers, whatever the counts say. Use a model that was trained on images like these."
    )


def _holds(place: Path, data: str) -> bool:
    """Whether images are from this data set: its file is in their folder or the parent folder."""
    folder = place if place.is_dir() else place.parent
    return any((above / _KNOWN_BY[data][1]).is_file() for above in (folder, folder.absolute().parent))
