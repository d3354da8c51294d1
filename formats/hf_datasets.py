"""Loads datasets without stale caches, and without files from outside the dataset."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
from datasets import Dataset, DatasetBuilder

from vigc.errors import DatasetError, ImagePathError
from vigc.processing.bounded_parsing import features_of, open_parquet
from vigc.processing.confined_paths import shown
from vigc.processing.rows import Row

from .dataset_files import OwnFiles, confined_builder, is_folder_of_pictures
from .local_datasets import file_rows, is_saved, saved_rows

_ROWS = 10_000


def load_rows(
    path: str,
    name: str | None = None,
    *,
    split: str = "train",
    revision: str | None = None,
    images: Sequence[str | os.PathLike[str]] = (),
) -> Dataset:
    """Like `datasets.load_dataset` for one split, without stale caches, and without files from outside the dataset.

    For a folder with a README.md, `datasets` derives its cache key from the folder's last name and the README.md. After
    the folder has been written again, or for another folder of that name, it returns the rows that it cached first.
    Here the cache key depends on the data files.

    Args:
        path: A folder (`save_to_disk` folders included), a file, or a name on the Hub, where the commit is the key.
        name: The configuration.
        split: The split.
        revision: Commit, tag or branch on the Hub.
        images: Further folders that may hold images, for rows that have image paths.

    Returns:
        The rows; image paths that were relative to the dataset are absolute.

    Raises:
        DatasetError: The settings or a row name a URL or a file outside the dataset.
        ValueError: There is no such configuration or split. `datasets` may also raise other errors.
    """
    builder, rows = load_split(path, name, split=split, revision=revision)
    own = OwnFiles(path)
    if builder is not None and is_folder_of_pictures(builder):
        own.add_unpacked()
    for folder in images:
        own.add(folder)
    return _confined_rows(rows, own)


def load_split(
    path: str, name: str | None = None, *, split: str = "train", revision: str | None = None
) -> tuple[DatasetBuilder | None, Dataset]:
    """Like [`load_rows`], but image paths are not checked: open the images with [`OwnFiles.confined`].

    Returns:
        The builder (None for a single file or a `save_to_disk` folder) and the rows.
    """
    place = Path(path)
    if place.is_file():
        _check_schemas([str(place)])
        copies = Path(datasets.config.HF_DATASETS_CACHE) / "vigc"
        return None, file_rows(place, split, copies / files_state([str(place)]))
    if is_saved(place):
        return None, saved_rows(place, split)
    builder = confined_builder(path, name, revision=revision)
    if Path(path).is_dir():
        found = builder.config.data_files or {}
        state = files_state(file for files in found.values() for file in files)
        cache = Path(datasets.config.HF_DATASETS_CACHE) / "vigc" / state
        builder = confined_builder(path, name, cache_dir=str(cache))
    if not os.path.exists(builder.cache_dir):
        _check_schemas(str(file) for files in (builder.config.data_files or {}).values() for file in files)
    try:
        builder.download_and_prepare()
        return builder, builder.as_dataset(split=split)
    except RecursionError as error:
        raise DatasetError(f"{path!r} is nested too deeply to be read.") from error


def _check_schemas(files: Iterable[str]) -> None:
    """Checks the metadata of local parquet files against our limits, since `datasets` reads it without limits."""
    for path in files:
        if not path.endswith(".parquet") or "://" in path:
            continue
        try:
            with open_parquet(path) as file:
                features_of(file.schema_arrow)
        except (ValueError, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:  # from the disk; parquet's errors have no errno
                raise
            raise DatasetError(f"{path!r} cannot be read ({' '.join(str(error).split())}): get it again.") from error


def files_state(files: Iterable[str]) -> str:
    """16 hexadecimal digits that change with the names, sizes (bytes) or modification times (ns) of files.

    For a remote file, such as "https://...", only the name is used.
    """
    listed: list[tuple[str, int, int]] = []
    for file in files:
        found = Path(file).stat() if "://" not in file else None
        listed.append((file, found.st_size if found else 0, found.st_mtime_ns if found else 0))
    return hashlib.sha256(json.dumps(listed).encode()).hexdigest()[:16]


def _confined_rows(rows: Dataset, own: OwnFiles) -> Dataset:
    """Checks that all image paths in the rows lie in the dataset; relative ones become absolute."""
    columns = [name for name, feature in rows.features.items() if name in ("image", "images") or _is_image(feature)]
    relative, known = False, set[str]()
    for column in columns:
        at = 0
        for batch in rows.select_columns(column).with_format("arrow").iter(_ROWS):
            for offset, path in _named(batch.column(0)):
                if path in known:
                    continue
                known.add(path)
                try:
                    relative |= own.confined(path, shown(path)) != path
                except ImagePathError as error:
                    raise DatasetError(
                        f"{own.path!r}: row {at + offset} names the image {shown(path)!r}, which is a URL or outside "
                        "the dataset: embed the images, or name the folder that they lie in ('images' in a recipe, "
                        "--image-root)."
                    ) from error
            at += batch.num_rows
    if not relative:
        return rows
    plain = {name: _undecoded(feature) for name, feature in rows.features.items()}
    for name in columns:
        rows = rows.cast_column(name, plain[name])
    absolute = {"columns": columns, "own": own}
    return rows.map(_absolute, fn_kwargs=absolute, features=rows.features)


def _is_image(feature: Any) -> bool:
    return isinstance(getattr(feature, "feature", feature), datasets.Image)


def _undecoded(feature: Any) -> Any:
    if isinstance(feature, datasets.Image):
        return datasets.Image(decode=False)
    return datasets.List(datasets.Image(decode=False)) if _is_image(feature) else feature


def _named(column: pa.ChunkedArray) -> Iterator[tuple[int, str]]:
    """(row, path) of the rows that hold an image path instead of an image."""
    at = 0
    for chunk in column.chunks:  # joining the chunks would copy embedded images
        yield from ((at + place, path) for place, path in _paths(chunk) if path)
        at += len(chunk)


def _paths(values: pa.Array) -> Iterator[tuple[int, str | None]]:
    """(index, path) of each value of an array, and of each item of its lists; the path of an embedded image is None."""
    kind = values.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        yield from enumerate(values.to_pylist())
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind):
        parents = values.value_parent_indices().to_pylist()
        yield from ((parents[at], path) for at, path in _paths(values.flatten()))
    elif pa.types.is_struct(kind) and kind.get_field_index("path") >= 0:
        parts = values.flatten()
        paths, bytes_at = parts[kind.get_field_index("path")].to_pylist(), kind.get_field_index("bytes")
        held = parts[bytes_at].is_valid().to_pylist() if bytes_at >= 0 else [False] * len(paths)
        yield from enumerate(None if has else path for path, has in zip(paths, held, strict=True))


def _absolute(row: Row, columns: Sequence[str], own: OwnFiles) -> Row:
    return {name: _with_paths(row[name], own) for name in columns}


def _with_paths(value: Any, own: OwnFiles) -> Any:
    if isinstance(value, list):
        return [_with_paths(one, own) for one in value]
    if isinstance(value, str) and value:
        return own.confined(value, shown(value))
    if isinstance(value, dict) and value.get("path") and value.get("bytes") is None:
        return {**value, "path": own.confined(value["path"], shown(value["path"]))}
    return value
