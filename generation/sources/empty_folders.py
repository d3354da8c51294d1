"""Distinguishes empty sub-folders from unmounted shares.

Images in a sub-folder that was empty at the start of the job are skipped. A sub-folder that becomes empty later is
treated as an unavailable share, which is a transient error.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from vigc.errors import ImageError
from vigc.jobs import ledger

from .base import Collection, Source


class EmptyFolders:
    """The sub-folders that were empty at the start of a job; read from the disk for a new job.

    Args:
        folder: The dataset folder.
        collection: The inputs.
    """

    def __init__(self, folder: Path, collection: Collection) -> None:
        self.collection = collection
        self._begun = any((folder / name).exists() for name in (ledger.PLAN, ledger.SHARDS))
        self._empty: dict[str, bool] = {}
        if self._begun:
            self._empty = dict.fromkeys(ledger.read_empty_folders(folder), True)

    def mark(self, source: Source) -> Source:
        """Sets `absent` of an input."""
        name = os.path.dirname(source.name)
        if not name or source.refused is not None:
            return source
        if name not in self._empty:
            self._empty[name] = not self._begun and self._is_empty(source)
        return replace(source, absent=True) if self._empty[name] else source

    @property
    def names(self) -> list[str]:
        """The empty sub-folders of marked inputs, relative to the root."""
        return sorted(name for name, empty in self._empty.items() if empty)

    def _is_empty(self, source: Source) -> bool:
        root = getattr(self.collection, "root", None)
        path = None
        with suppress(ImageError):  # a name outside of the root is reported when it is opened
            path = self.collection.locate(source)
        if root is None or path is None:
            return False
        top, place = os.path.realpath(root), os.path.dirname(path)
        while len(place) > len(top) and not os.path.isdir(place):
            place = os.path.dirname(place)
        try:
            return len(place) > len(top) and not os.listdir(place)
        except OSError:
            return False
