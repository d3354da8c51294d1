"""Datasets as they are now, and not as they were when `datasets` last copied them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

import datasets
from datasets import Dataset, load_dataset, load_dataset_builder

from .local_datasets import file_rows, is_saved, saved_rows


def load_rows(path: str, name: str | None = None, *, split: str = "train", revision: str | None = None) -> Dataset:
    """`datasets.load_dataset` of one split, without stale copies.

    `datasets` knows its copy of a folder with a README.md by the folder's last name and what that README.md lists: of
    two such folders, or of one that was written again, it gives the rows that it read first. Here a copy belongs to the
    very files it was made of.

    Args:
        path: A folder, also one that `save_to_disk` wrote; a file; or a name on the Hub, where the commit tells copies
            apart.
        name: The configuration.
        split: Which split.
        revision: Commit, tag or branch on the Hub.

    Raises:
        ValueError: There is no such configuration or split; `datasets` raises others, too, where it cannot read.
    """
    place, copies = Path(path), Path(datasets.config.HF_DATASETS_CACHE) / "vigc"
    if place.is_file():
        return file_rows(place, split, copies / files_state([str(place)]))
    if is_saved(place):
        return saved_rows(place, split)
    if not place.is_dir():
        return load_dataset(path, name, split=split, revision=revision)  # nosec B615: the caller's revision
    found = load_dataset_builder(path, name).config.data_files or {}  # nosec B615: a folder
    state = files_state(file for files in found.values() for file in files)
    return load_dataset(path, name, split=split, cache_dir=str(copies / state))  # nosec B615: a folder


def files_state(files: Iterable[str]) -> str:
    """16 hexadecimal digits that change with the files' names, sizes (bytes) or times of change (ns).

    Of a file elsewhere, such as "https://...", only the name counts.
    """
    listed: list[tuple[str, int, int]] = []
    for file in files:
        found = Path(file).stat() if "://" not in file else None
        listed.append((file, found.st_size if found else 0, found.st_mtime_ns if found else 0))
    return hashlib.sha256(json.dumps(listed).encode()).hexdigest()[:16]
