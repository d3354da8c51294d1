"""Restricts a dataset to its own files, in its folder or in its repository on the Hub.

`datasets` reads whatever the README of a dataset names: files of other folders, URLs, nested archives. So names are
checked before `datasets` resolves them (which lists folders and contacts servers), and the resolved files are checked
before they are opened.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import datasets
from datasets import DatasetBuilder, load_dataset_builder
from datasets.data_files import get_data_patterns, resolve_pattern
from datasets.packaged_modules import _PACKAGED_DATASETS_MODULES
from datasets.packaged_modules.folder_based_builder.folder_based_builder import FolderBasedBuilder
from huggingface_hub import constants, hf_hub_download, resolve_revision
from huggingface_hub.errors import RevisionResolutionError
from huggingface_hub.file_download import repo_folder_name
from yaml import YAMLError

from vigc.errors import DatasetError, ImagePathError
from vigc.processing.bounded_parsing import (
    MAX_JSON_BYTES,
    MAX_YAML_BYTES,
    parse_card,
    parse_json,
    parse_yaml,
    read_text,
)
from vigc.processing.confined_paths import confined, leads_into, located, shown

_README, _YAML, _INFOS = "README.md", ".huggingface.yaml", "dataset_infos.json"
# File formats that contain their rows. Others, such as HDF5 and Lance, may refer to files anywhere.
_FORMS = ("arrow", "cache", "csv", "imagefolder", "json", "parquet", "text", "webdataset")
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")


class OwnFiles:
    """The files that the rows of a dataset may name.

    Args:
        path: A folder, a file, or a name on the Hub.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.local = Path(path).exists()
        place = Path(path).resolve()
        # The dataset's folder, as given and with links resolved.
        own = place if place.is_dir() else place.parent
        lies = os.path.abspath(path if place.is_dir() else os.path.dirname(path))
        self.folders = list(dict.fromkeys((str(own), lies)))
        if not self.local:
            self.folders = [os.path.join(constants.HF_HUB_CACHE, repo_folder_name(repo_id=path, repo_type="dataset"))]

    def add_unpacked(self) -> None:
        """Allows files that `datasets` downloaded or unpacked, which the rows of image folders name."""
        self.folders += [str(datasets.config.DOWNLOADED_DATASETS_PATH), str(datasets.config.EXTRACTED_DATASETS_PATH)]

    def add(self, folder: str | os.PathLike[str]) -> None:
        """Allows the files of a folder that the user gave."""
        self.folders += dict.fromkeys((os.path.abspath(folder), os.path.realpath(folder)))

    def confined(self, path: str, name: str) -> str:
        """The path of a file that a row names.

        Args:
            path: The path in the row, absolute or relative to the dataset's folder.
            name: The file's name in errors.

        Raises:
            ImagePathError: The file is outside the allowed folders.
        """
        if "://" in path[:16]:
            raise ImagePathError(name, "is a URL, which is not followed: embed the image")
        if self.local and not os.path.isabs(path):
            return located(self._real(self.folders[0]), path)
        for folder in self.folders:
            start = os.path.join(folder, "")
            if path.startswith(start):
                return confined(self._real(folder), path.removeprefix(start), listed=True)
        raise ImagePathError(name, "names a file outside the dataset's folder, which is not followed: embed the image")

    def _real(self, folder: str) -> str:
        if folder not in self._resolved:
            self._resolved[folder] = os.path.realpath(folder)
        return self._resolved[folder]

    @cached_property
    def _resolved(self) -> dict[str, str]:
        return {}


def confined_builder(
    path: str, name: str | None = None, *, revision: str | None = None, cache_dir: str | None = None
) -> DatasetBuilder:
    """Like `datasets.load_dataset_builder`, for a dataset that uses only its own files.

    Args:
        path: A folder, or a name on the Hub.
        name: The configuration.
        revision: Commit, tag or branch on the Hub.
        cache_dir: Where `datasets` caches its copy.

    Raises:
        DatasetError: A data file lies outside the folder or repository, or the settings are damaged.
        OSError: The dataset cannot be read or reached.
    """
    local = os.path.isdir(path)
    try:
        if local:
            path = os.path.abspath(path)  # to `datasets`, "json" and "parquet" are names of builders
            _check_folder(path)
        else:
            path, revision = _check_repository(path, revision)
        builder = load_dataset_builder(path, name, revision=revision, cache_dir=cache_dir)
    except (TypeError, AttributeError, LookupError, RuntimeError, AssertionError, YAMLError) as error:
        reason = " ".join(str(error).split())[:300]
        raise DatasetError(f"{path!r}: its settings cannot be read ({type(error).__name__}: {reason}).") from error
    form = type(builder).__module__.split(".")[-1]
    if form not in _FORMS:
        raise DatasetError(f"{path!r} has files of the format {form!r}: use one of {', '.join(_FORMS)}.")
    files = [str(file) for listed in (builder.config.data_files or {}).values() for file in listed]
    if local:
        _check_links(path, files)
    else:
        _check_remote(path, files, str(builder.base_path))
    return builder


def is_folder_of_pictures(builder: DatasetBuilder) -> bool:
    """Whether `datasets` lists the image files itself, so that their names do not come from the dataset's texts."""
    return isinstance(builder, FolderBasedBuilder)


def _check_folder(path: str) -> None:
    """Checks all files that a folder's settings name, and the files of its first configuration."""
    if os.path.isfile(os.path.join(path, f"{os.path.basename(path)}.py")):
        raise DatasetError(f"{path!r} has a dataset script, which is code and is not run: convert it to parquet.")
    kept = [file for name in (_README, _YAML, _INFOS) if os.path.lexists(file := os.path.join(path, name))]
    _check_links(path, kept)
    patterns: list[str] | None = None
    for name in (_README, _YAML):
        if (settings := Path(path, name)).is_file():
            found = _check_settings(path, name, settings)
            patterns = found or patterns
    if (infos := Path(path, _INFOS)).is_file():
        _parsed(path, _INFOS, infos)
    real = os.path.realpath(path)
    if patterns is None:
        try:
            patterns = [pattern for listed in get_data_patterns(real).values() for pattern in listed]
        except FileNotFoundError:  # there are no data files; `datasets` reports that
            return
    for pattern in patterns:
        try:
            _check_links(path, resolve_pattern(pattern, real))
        except FileNotFoundError:  # `datasets` reports this too
            continue


def _check_repository(name: str, revision: str | None) -> tuple[str, str | None]:
    """Checks all files that a repository's settings name; returns its name and the commit that was checked."""
    name = name.removeprefix("hf://datasets/")
    if name in _PACKAGED_DATASETS_MODULES or name.startswith(("buckets/", "hf://")) or name.count("/") > 1:
        raise DatasetError(f"{name!r} is neither a folder nor the name of a dataset on the Hub: correct it.")
    try:
        offline = constants.HF_HUB_OFFLINE
        found = resolve_revision(name, repo_type="dataset", revision=revision, local_files_only=offline)
        revision = found.resolved
    except (OSError, ValueError, RevisionResolutionError):  # `datasets` reports the error, or uses its cache
        return name, revision
    for file in (_README, _YAML):
        try:
            found_at = hf_hub_download(name, file, repo_type="dataset", revision=revision)
        except (OSError, ValueError):  # no such file, or `datasets` reports why it is unavailable
            continue
        _check_settings(name, file, Path(found_at))
    return name, revision


def _check_settings(dataset: str, name: str, file: Path) -> list[str] | None:
    """Checks that all data files have relative names; returns the patterns of the first configuration."""
    values = _parsed(dataset, name, file)
    configs = values.get("configs") if isinstance(values, dict) else None
    first: list[str] | None = None
    for config in configs if isinstance(configs, list) else ():
        if not isinstance(config, dict):
            raise DatasetError(f"{dataset!r}: {name} has {str(config)[:80]!r} among its 'configs': correct it.")
        own = list(_texts(config.get("data_files")))
        for pattern in filter(None, (*own, *_texts(config.get("data_dir")))):
            _check_pattern(dataset, name, pattern)
        if first is None:
            first = own
    return first or None


def _parsed(dataset: str, name: str, file: Path) -> Any:
    try:
        if name == _INFOS:
            return parse_json(read_text(file, MAX_JSON_BYTES))
        text = read_text(file, 8 * MAX_YAML_BYTES)
        return parse_card(text) if name == _README else parse_yaml(text)
    except ValueError as error:
        raise DatasetError(f"{dataset!r}: {name} cannot be read: {error}.") from error


def _texts(value: Any) -> Iterator[str]:
    """All strings in the value of a setting, at any depth."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, dict)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _texts(part)


def _check_pattern(dataset: str, name: str, pattern: str) -> None:
    parts = pattern.replace("\\", "/").split("/")
    if _ADDRESS.match(pattern) or "://" in pattern or "::" in pattern:
        raise DatasetError(
            f"{dataset!r}: {name} names the data file {shown(pattern)!r}, a URL, which is not followed: download "
            "the file into the dataset, and name it there."
        )
    if not parts[0] or ".." in parts or pattern.startswith("~"):
        raise DatasetError(
            f"{dataset!r}: {name} names the data file {shown(pattern)!r}, which is outside the dataset: move the file "
            "into it, and name it there."
        )


def _check_links(folder: str, files: Iterable[str]) -> None:
    """Checks that files lie in a folder, and not behind a link out of it."""
    real_root = os.path.realpath(folder)
    parents: dict[str, str] = {}
    for file in files:
        parent, base = os.path.split(file)
        if parent not in parents:
            parents[parent] = os.path.realpath(parent)
        real = os.path.realpath(file) if os.path.islink(file) else os.path.join(parents[parent], base)
        if "://" in file or not leads_into(real, real_root):
            raise DatasetError(
                f"{folder!r}: its file {shown(os.path.relpath(file, real_root))!r} is a link out of the dataset, or "
                "is outside it: copy the file into it."
            )


def _check_remote(name: str, files: Iterable[str], base: str) -> None:
    start = base.rstrip("/") + "/"
    for file in files:
        if not file.startswith(start) or "::" in file or ".." in file.split("/"):
            raise DatasetError(
                f"{name!r} names the data file {shown(file)!r}, which is outside its repository: it is not followed."
            )
