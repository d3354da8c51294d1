"""The filters of a job, by the setting that each is given. A new one is a file, and a line here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .base import Filter
from .duplicates import Duplicates
from .ids import ListedIds
from .look_alikes import LookAlikes

# In the order in which they are asked. Those that need names alone come before all that read files; copies come last.
FILTERS: dict[str, type[Filter]] = {
    "exclude_ids": ListedIds,
    "exclude_images": LookAlikes,
    "dedup": Duplicates,
}


def open_filters(given: Mapping[str, Any], hashes: Path) -> list[Filter]:
    """The filters that are given something, in the order of the table.

    Args:
        given: What each is given.
        hashes: The folder that hashes are kept in.

    Raises:
        GenerationError: A list or a folder that one compares with cannot be read.
    """
    return [kind(given[name], hashes) for name, kind in FILTERS.items() if given.get(name)]
