"""Datasets on this machine that `load_dataset` does not take as they are: single files, and `save_to_disk` folders."""

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
# What has no mark of its own in the content.
_BY_SUFFIX: dict[str, tuple[str, dict[str, str]]] = {
    ".csv": ("csv", {}),
    ".tsv": ("csv", {"sep": "\t"}),
    ".tar": ("webdataset", {}),
}


def file_rows(path: Path, split: str, cache: Path) -> Dataset:
    """The rows of one file: parquet, Arrow or JSON by its content, CSV or WebDataset by its name.

    Args:
        path: The file.
        split: A file has one split, "train".
        cache: Where `datasets` keeps its copy.

    Raises:
        ValueError: It is of no such form, or another split is asked for; `datasets` raises others, too.
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
        raise ValueError(f"{str(path)!r} is no file of rows: give one of {known}, or a folder.")
    name, settings = module
    files = {"train": [str(path.resolve())]}
    return load_dataset(name, data_files=files, split="train", cache_dir=str(cache), **settings)  # nosec B615: a file


def is_saved(folder: Path) -> bool:
    """Whether `save_to_disk` wrote a folder."""
    return any((folder / name).is_file() for name in (_STATE, _PARTS))


def saved_files(folder: Path, split: str) -> list[Path]:
    """The files of one split of a folder that `save_to_disk` wrote, its own state first, each inside its folder.

    Raises:
        ValueError: There is no such split, the folder is damaged, or it names files that lie elsewhere.
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
    """The rows of one split of a folder that `save_to_disk` wrote, mapped into memory where they lie.

    A folder of a single dataset is given for the split it was saved as, and for "train".

    Raises:
        ValueError: As of [`saved_files`], or it cannot be read.
    """
    place = saved_files(folder, split)[0].parent
    try:
        rows = datasets.load_from_disk(str(place))
    except (KeyError, TypeError) as error:
        raise ValueError(f"{str(place)!r} is no whole folder of save_to_disk ({error!r}): get it again.") from error
    if not isinstance(rows, Dataset):
        raise ValueError(f"{str(place)!r} holds several datasets: give the folder of one.")
    own = str(rows.split or "train")
    if place == folder and split not in (own, "train"):
        raise ValueError(f"{str(folder)!r} has no split {split!r}: it was saved as {own!r}.")
    return rows.with_format(None)  # whatever format it was saved with


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
        raise ValueError(f"{str(path)!r} is no object: get the folder again.")
    return value


def _listed(state: JsonObject, name: str) -> list[Any]:
    value = state.get(name) or []
    return value if isinstance(value, list) else [value]
