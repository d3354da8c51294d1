"""Loads local datasets that `load_dataset` does not accept directly: single files, and `save_to_disk` folders."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import datasets
from datasets import Dataset, load_dataset

from vigc.errors import cut
from vigc.processing.bounded_parsing import JsonObject, read_json

from .file_forms import JSON_FORMS, Form, suffix_of
from .json_rows import json_form

_STATE, _PARTS = "state.json", "dataset_dict.json"
# Formats that cannot be detected by content.
_BY_SUFFIX: dict[str, tuple[str, dict[str, str]]] = {
    ".csv": ("csv", {}),
    ".tsv": ("csv", {"sep": "\t"}),
    ".tar": ("webdataset", {}),
}


def file_rows(path: Path, split: str, cache: Path) -> Dataset:
    """Loads the rows of one file: parquet, Arrow and JSON are detected by content, CSV and WebDataset by name.

    Args:
        path: The file.
        split: Must be "train", the only split of a file.
        cache: Where `datasets` caches its copy.

    Raises:
        ValueError: The file has another format, or another split is requested. `datasets` may raise other errors.
    """
    if split != "train":
        raise ValueError(f"{str(path)!r} is one file, which has the split 'train' and no {split!r}.")
    form = json_form(path)
    module: tuple[str, dict[str, str]] | None = _BY_SUFFIX.get(suffix_of(path))
    if form in (Form.PARQUET, Form.ARROW):
        module = form.value, {}
    elif form in JSON_FORMS:
        module = "json", {}
    if module is None:
        known = ", ".join(("parquet", "Arrow", "JSON", *_BY_SUFFIX))
        raise ValueError(f"{str(path)!r} is not a file of rows: give one of {known}, or a folder.")
    name, settings = module
    files = {"train": [str(path.resolve())]}
    return load_dataset(name, data_files=files, split="train", cache_dir=str(cache), **settings)  # nosec B615: a file


def is_saved(folder: Path) -> bool:
    """Whether a folder was written by `save_to_disk`."""
    return any((folder / name).is_file() for name in (_STATE, _PARTS))


def saved_files(folder: Path, split: str) -> list[Path]:
    """The files of one split in a `save_to_disk` folder, `state.json` first. All are inside the folder.

    Raises:
        ValueError: There is no such split, the folder is damaged, or it names files outside itself.
    """
    if (folder / _PARTS).is_file():
        splits = _read(folder / _PARTS).get("splits")
        if not isinstance(splits, list) or split not in splits or not _is_plain(split):
            raise ValueError(
                f"{str(folder)!r} has no split {split!r}: use one of {cut(', '.join(map(str, splits or ())))}."
            )
        folder = folder / split
    state = _read(folder / _STATE)
    files = [folder / _STATE]
    for entry in [*_listed(state, "_data_files"), *_listed(state, "_indices_data_files")]:
        name = entry.get("filename") if isinstance(entry, dict) else None
        if not isinstance(name, str) or not _is_plain(name):
            raise ValueError(
                f"{str(folder / _STATE)!r} names the file {cut(repr(name))}: only files beside it are read."
            )
        path = folder / name
        if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder)):
            raise ValueError(f"{str(path)!r} is a link out of its folder: copy the file into it.")
        if not path.is_file():
            raise ValueError(f"{str(path)!r} is missing, which {_STATE} names: get the folder again.")
        files.append(path)
    return files


def saved_rows(folder: Path, split: str) -> Dataset:
    """The rows of one split in a `save_to_disk` folder, memory-mapped from there.

    A folder with a single dataset is returned for "train" and for the split that it was saved as.

    Raises:
        ValueError: As in [`saved_files`], or the folder cannot be read.
    """
    place = saved_files(folder, split)[0].parent
    try:
        rows = datasets.load_from_disk(str(place))
    except (KeyError, TypeError) as error:
        raise ValueError(f"{str(place)!r} is not a complete save_to_disk folder ({error!r}): get it again.") from error
    if not isinstance(rows, Dataset):
        raise ValueError(f"{str(place)!r} holds several datasets: give the folder of one.")
    own = str(rows.split or "train")
    if place == folder and split not in (own, "train"):
        raise ValueError(f"{str(folder)!r} has no split {split!r}: it was saved as {own!r}.")
    return rows.with_format(None)  # the format that it was saved with does not matter


def _is_plain(name: str) -> bool:
    return name not in ("", ".", "..") and not set(name) & set("/\\\0")


def _read(path: Path) -> JsonObject:
    try:
        value = read_json(path)
    except FileNotFoundError as error:
        raise ValueError(f"{str(path)!r} is missing: get the folder again.") from error
    except ValueError as error:
        raise ValueError(f"{str(path)!r} is not valid JSON ({error}): get the folder again.") from error
    if not isinstance(value, dict):
        raise ValueError(f"{str(path)!r} is not a JSON object: get the folder again.")
    return value


def _listed(state: JsonObject, name: str) -> list[Any]:
    value = state.get(name) or []
    return value if isinstance(value, list) else [value]
