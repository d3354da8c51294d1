"""Datasets as they are now, and not as they were when `datasets` last copied them; confined to their own files."""

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
    """`datasets.load_dataset` of one split, without stale copies, and without files that are not the dataset's.

    `datasets` knows its copy of a folder with a README.md by the folder's last name and what that README.md lists: of
    two such folders, or of one that was written again, it gives the rows that it read first. Here a copy belongs to the
    very files it was made of.

    Args:
        path: A folder, also one that `save_to_disk` wrote; a file; or a name on the Hub, where the commit tells copies
            apart.
        name: The configuration.
        split: Which split.
        revision: Commit, tag or branch on the Hub.
        images: Folders, beside the dataset's own, that pictures may lie in which rows name instead of holding them.

    Returns:
        The rows; a picture's path that was relative to the dataset is absolute.

    Raises:
        DatasetError: Its settings or a row name a file that lies elsewhere, or an address.
        ValueError: There is no such configuration or split; `datasets` raises others, too, where it cannot read.
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
    """As [`load_rows`], for who opens images by [`OwnFiles.confined`]: rows are not looked at.

    Returns:
        The builder, None for a single file and for a folder of `save_to_disk`; and the rows.
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
    """Makes sure that `datasets` will not read metadata without bounds in a parquet file that lies here."""
    for path in files:
        if not path.endswith(".parquet") or "://" in path:
            continue
        try:
            with open_parquet(path) as file:
                features_of(file.schema_arrow)
        except (ValueError, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:  # the disk's; parquet's own have no number
                raise
            raise DatasetError(f"{path!r} cannot be read ({' '.join(str(error).split())}): get it again.") from error


def files_state(files: Iterable[str]) -> str:
    """16 hexadecimal digits that change with the files' names, sizes (bytes) or times of change (ns).

    Of a file elsewhere, such as "https://...", only the name counts.
    """
    listed: list[tuple[str, int, int]] = []
    for file in files:
        found = Path(file).stat() if "://" not in file else None
        listed.append((file, found.st_size if found else 0, found.st_mtime_ns if found else 0))
    return hashlib.sha256(json.dumps(listed).encode()).hexdigest()[:16]


def _confined_rows(rows: Dataset, own: OwnFiles) -> Dataset:
    """The rows, if all pictures that they name are the dataset's own."""
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
                        f"{own.path!r}: row {at + offset} names the picture {shown(path)!r}, which lies out of the "
                        "dataset or is an address: embed the pictures, or say which folder they may lie in (a "
                        "recipe's 'images', --image-root)."
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
    """The rows that name a picture instead of holding it, each with the name."""
    at = 0
    for chunk in column.chunks:  # joining them would copy the pictures that others hold
        yield from ((at + place, path) for place, path in _paths(chunk) if path)
        at += len(chunk)


def _paths(values: pa.Array) -> Iterator[tuple[int, str | None]]:
    """Place in the array, and text or path, of all that name something, of lists each part."""
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
