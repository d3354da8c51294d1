"""The filters of a job, by the name of their setting. To add one, write a file and name it here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .base import Filter
from .duplicates import Duplicates
from .ids import ListedIds
from .look_alikes import LookAlikes

# In order of application. Filters that need only names come before those that read files; copies come last.
FILTERS: dict[str, type[Filter]] = {
    "exclude_ids": ListedIds,
    "exclude_images": LookAlikes,
    "dedup": Duplicates,
}


def open_filters(given: Mapping[str, Any], hashes: Path) -> list[Filter]:
    """The filters whose setting has a value, in the order of the table.

    Args:
        given: The values of the settings.
        hashes: The cache folder for hashes.

    Raises:
        GenerationError: A list or folder of a filter cannot be read.
    """
    return [kind(given[name], hashes) for name, kind in FILTERS.items() if given.get(name)]
