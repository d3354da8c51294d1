"""Pictures of a dataset: parquet files, here or on the Hub, or whatever else `load_dataset` reads."""

from __future__ import annotations

import os
import re
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

from vigc.errors import (
    MAX_REASON,
    GenerationError,
    ImageDataError,
    ImageError,
    ImagePathError,
    NoImageError,
    TransientError,
    cut,
    reason_of,
    short,
)
from vigc.formats.boxes import NO_BOX, ObjectColumn
from vigc.formats.dataset_files import OwnFiles, confined_builder, is_folder_of_pictures
from vigc.formats.file_forms import Form
from vigc.formats.hf_datasets import files_state, load_split
from vigc.formats.json_rows import json_form
from vigc.formats.local_datasets import is_saved, saved_files
from vigc.hub.errors import asking_the_hub, is_hub_away
from vigc.processing.bounded_parsing import JsonObject, features_of, open_parquet
from vigc.processing.confined_paths import printable
from vigc.processing.image_names import unusable
from vigc.processing.images import Picture, load_picture
from vigc.processing.rows import Row

from .base import Source
from .image_columns import class_names, image_column
from .urls import Addresses, is_address

_ID_COLUMNS = ("image_id", "id")
_LABEL = re.compile(r"row (\d+:)?\d+")

# At a time, where columns beside the pictures are read.
_ROWS = 8192


class DatasetRows:
    """The rows of a dataset with a column of pictures.

    Parquet is read in place, a row group at a time: nothing is downloaded or copied as a whole, and any shard of a job
    finds its rows at once. Other forms are loaded by `datasets`, which keeps a copy on disk.

    Args:
        path: A file of rows; a folder, also one that `save_to_disk` wrote; or a name on the Hub.
        subset: The dataset's configuration.
        split: Which split.
        revision: Commit, tag or branch on the Hub.
        urls: Hosts that pictures are fetched from, where an address stands in place of a picture.

    Raises:
        GenerationError: It cannot be loaded, or has no column of pictures.
    """

    def __init__(
        self,
        path: str,
        *,
        subset: str | None = None,
        split: str = "train",
        revision: str | None = None,
        urls: Sequence[str] = (),
    ) -> None:
        self.path, self.subset, self.split, self.revision = path, subset, split, revision
        self.addresses = Addresses(urls)
        self.local = Path(path).exists()
        self.unlisted: dict[str, int] = {}
        self.table: _ParquetRows | _LoadedRows
        try:
            self._open(path, subset, split, revision)
        except (ValueError, OSError, KeyError, datasets.exceptions.DatasetsError) as error:
            if isinstance(error, GenerationError):
                raise
            reason = reason_of(error)
            if is_hub_away(error):
                raise TransientError(
                    f"The Hub is unavailable for {path!r} ({reason}): run the same command again later."
                ) from error
            raise GenerationError(f"The dataset {path!r} cannot be loaded: {reason}.") from error
        self.features = self.table.features
        self.image_column, self.several = image_column(self.features, path)

    def _open(self, path: str, subset: str | None, split: str, revision: str | None) -> None:
        self._own = OwnFiles(path)
        if (place := Path(path)).is_file() or is_saved(place):
            self._open_local(place, split)
            return
        builder = confined_builder(path, subset, revision=revision)
        found = builder.config.data_files or {}
        if split not in (found or {split}):
            raise GenerationError(f"The dataset {path!r} has no split {split!r}: use one of {', '.join(found)}.")
        if builder.dataset_name and type(builder).__module__.endswith("parquet.parquet") and found:
            paths = list(map(str, found[split]))
            self.table, known = _ParquetRows(paths), found[split].origin_metadata
            self._origin = [_state(file) for file in paths] if self.local else [list(map(str, x)) for x in known]
        else:
            self.table = _LoadedRows(load_split(path, subset, split=split, revision=revision)[1])
            if is_folder_of_pictures(builder):
                self._own.add_unpacked()
            # What `datasets` calls the fingerprint of a folder stays the same when its files change.
            changes = found and Path(path).is_dir()
            self._origin = [[files_state(found[split]) if changes else self.table.fingerprint]]

    def _open_local(self, place: Path, split: str) -> None:
        """Opens a single file, or a folder that `save_to_disk` wrote."""
        if place.is_file() and (json_form(place) is Form.PARQUET or place.suffix == ".parquet"):
            self.table, self._origin = _ParquetRows([str(place)]), [_state(str(place))]
            return
        files = [place] if place.is_file() else saved_files(place, split)
        self.table = _LoadedRows(load_split(str(place), split=split)[1])
        self._origin = [[files_state(map(str, files))]]

    @property
    def name(self) -> str:
        """The Hub's name, or the file's or folder's."""
        path = Path(self.path)
        return printable(path.resolve().name) if path.exists() else self.path

    @property
    def facts(self) -> JsonObject:
        """The format, what was chosen of the dataset, and its state."""
        chosen = {"format": "dataset", "subset": self.subset, "split": self.split, "origin": self._origin}
        return {**chosen, "data_revision": self.revision} if self.revision else chosen

    def __iter__(self) -> Iterator[Source]:
        """All rows in their order, by the columns beside the pictures."""
        id_column = next((name for name in _ID_COLUMNS if name in self.features), None)
        columns = [name for name in (id_column, "license", "objects") if name is not None and name in self.features]
        repeated = self._repeated(id_column)
        names = class_names(self.features.get("objects"))
        self.unlisted = {}
        for file, start, rows, damage in self.table.batches(columns):
            objects = ObjectColumn(_whole(rows["objects"]), names) if "objects" in columns else None
            ids, licenses = (
                rows[name].to_pylist() if name in columns else [None] * rows.num_rows for name in (id_column, "license")
            )
            for offset, (id_, license) in enumerate(zip(ids, licenses, strict=True)):
                place = [file, start + offset]
                label = self.label(place)
                yield Source(
                    label,
                    _image_id(label, id_, repeated) if id_column else label.replace(" ", "-").replace(":", "-"),
                    damage,
                    license=cut(str(license), MAX_REASON) if license else None,
                    boxes=objects.of(offset) if objects else None,
                    where=place,
                )
            if objects and objects.unusable:
                self.unlisted = {NO_BOX: self.unlisted.get(NO_BOX, 0) + objects.unusable}

    def _repeated(self, column: str | None) -> set[str]:
        """Ids that several rows have. Apart from these nothing is kept of a row, of which there may be millions."""
        if column is None:
            return set()
        counts: Counter[str] = Counter()
        for _, _, rows, _ in self.table.batches([column]):
            counts.update(cut(str(id_)) for id_ in rows[column].to_pylist())
        return {id_ for id_, count in counts.items() if count > 1}

    def label(self, place: list[int]) -> str:
        """What a row is called."""
        file, index = place
        return f"row {file}:{index}" if self.table.files > 1 else f"row {index}"

    def read(self, columns: list[str]) -> Iterator[tuple[list[int], Row, str | None]]:
        """The rows in their order, each with its place and, if it lies in a damaged part of a file, that reason."""
        for file, start, rows, damage in self.table.batches(columns):
            for offset, row in enumerate(rows.to_pylist()):
                yield [file, start + offset], row, damage

    def open(self, source: Source) -> Picture:
        """The first picture of the row."""
        if source.refused is not None:
            raise ImageError(source.name, source.refused)
        file, index = source.where or [0, 0]
        try:
            value = self.table.row(file, index, self.image_column)
        except _DamagedError as error:
            raise ImageDataError(source.name, error.reason) from error.__cause__
        if self.several:
            value = self.chosen(value or (), source.name)
        if value is None:
            raise NoImageError(source.name, "has no image: fill the row")
        if isinstance(value, bytes):
            value = {"bytes": value}
        if isinstance(value, str):
            value = {"path": value}
        if value.get("bytes") is not None:
            return load_picture(value["bytes"], name=source.name)
        if not value.get("path"):
            raise ImageError(source.name, "has neither bytes nor a path of an image: fill the row")
        if reason := unusable(value["path"]):
            raise ImagePathError(source.name, f"holds the name {short(value['path'])}, which {reason}")
        if is_address(value["path"]):
            return load_picture(self.addresses.fetch(value["path"]), name=source.name)
        return load_picture(self._own.confined(value["path"], source.name), name=source.name)

    def chosen(self, pictures: Sequence[Any], name: str) -> Any:
        """The first of a row's pictures, or None."""
        return pictures[0] if pictures else None

    def locate(self, source: Source) -> str | None:
        """None: pictures lie in the dataset."""
        return None

    def is_there(self, source: Source) -> bool:
        """Whether the dataset can still be seen; one on the Hub says so itself."""
        return not self.local or Path(self.path).exists()


def _image_id(label: str, id_: Any, repeated: set[str]) -> str:
    """The id of a row: that of its column, or its label where it has none, or one that names other rows as well."""
    own = cut(str(label if id_ is None else id_))
    return label if own in repeated or _LABEL.fullmatch(own) else own


class _DamagedError(GenerationError):
    """A parquet file that cannot be read, as a whole or in a part.

    Args:
        path: The file.
        error: What pyarrow says.
    """

    def __init__(self, path: str, error: Exception) -> None:
        super().__init__(f"{path!r} is damaged ({reason_of(error)}): get the file again.")
        name = printable(path.rpartition("/")[2])
        self.reason = f"lies in a damaged part of {name} ({reason_of(error)}): get the file again"


@contextmanager
def _naming_damage(path: str) -> Iterator[None]:
    """What is wrong with a file as a `_DamagedError`; what is wrong with the disk or the Hub as it is."""
    try:
        yield
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, UnicodeDecodeError) as error:
        raise _DamagedError(path, error) from error
    except OSError as error:
        # Parquet's own errors come as this very type and have no number: those of the system and the Hub's client do.
        if type(error) is not OSError or error.errno is not None:
            raise
        raise _DamagedError(path, error) from error


class _ParquetRows:
    """Rows of parquet files, wherever they lie."""

    def __init__(self, paths: list[str]) -> None:
        self._paths = paths
        self._open: dict[int, pq.ParquetFile] = {}
        self._group: tuple[tuple[int, int, str], pa.ChunkedArray | _DamagedError] | None = None
        self._lock = threading.Lock()  # pictures are opened by several threads
        schema = self._file(0).schema_arrow
        self.features = features_of(schema)
        self.files = len(paths)

    def _file(self, number: int) -> pq.ParquetFile:
        if number not in self._open:
            # One file at a time: an annotated dataset may have thousands.
            for file in self._open.values():
                file.close()
            self._open = {number: self._opened(number)}
        return self._open[number]

    def _opened(self, number: int) -> pq.ParquetFile:
        import fsspec

        path = self._paths[number]
        with _naming_damage(path):
            return open_parquet(fsspec.open(path, "rb").open() if "://" in path else path)

    def batches(self, columns: list[str]) -> Iterator[tuple[int, int, pa.RecordBatch, str | None]]:
        for number in range(self.files):
            start = 0
            # Opened for this alone: the caller may open pictures before it has seen all rows.
            with asking_the_hub(self._paths[number]), self._opened(number) as file:
                for group in range(file.num_row_groups):
                    end = start + file.metadata.row_group(group).num_rows
                    try:
                        with _naming_damage(self._paths[number]):
                            for batch in file.iter_batches(_ROWS, [group], columns):
                                yield number, start, batch, None
                                start += batch.num_rows
                    except _DamagedError as error:
                        yield number, start, _nulls(file.schema_arrow, columns, end - start), error.reason
                    start = end

    def row(self, number: int, index: int, column: str) -> Any:
        with self._lock, asking_the_hub(self._paths[number]):
            return self._row(number, index, column)

    def _row(self, number: int, index: int, column: str) -> Any:
        file, start = self._file(number), 0
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            if index < start + rows:
                key = (number, group, column)
                if self._group is None or self._group[0] != key:
                    self._group = key, self._read(number, group, column)
                if isinstance(found := self._group[1], _DamagedError):
                    raise found.with_traceback(None)
                return found[index - start].as_py()
            start += rows
        raise GenerationError(f"{self._paths[number]!r} has no row {index}: it was changed since the job was planned.")

    def _read(self, number: int, group: int, column: str) -> pa.ChunkedArray | _DamagedError:
        try:
            with _naming_damage(self._paths[number]):
                return self._file(number).read_row_group(group, columns=[column]).column(0)
        except _DamagedError as error:  # kept, as a group is: thousands of rows may lie there
            return error


class _LoadedRows:
    """Rows that `load_dataset` keeps on disk."""

    files = 1

    def __init__(self, rows: Any) -> None:
        self.features, self.fingerprint = rows.features, rows._fingerprint
        self._rows = rows.with_format("arrow")  # as they are stored: pictures are opened here, not by `datasets`

    def batches(self, columns: list[str]) -> Iterator[tuple[int, int, pa.Table, None]]:
        if not columns:
            yield 0, 0, pa.table({"": pa.nulls(len(self._rows))}), None
            return
        start = 0
        for table in self._rows.select_columns(columns).iter(_ROWS):
            yield 0, start, table, None
            start += table.num_rows

    def row(self, number: int, index: int, column: str) -> Any:
        return self._rows[index].column(column)[0].as_py()


def _nulls(schema: pa.Schema, columns: list[str], rows: int) -> pa.RecordBatch:
    """In place of rows that cannot be read."""
    return pa.RecordBatch.from_arrays([pa.nulls(rows, schema.field(name).type) for name in columns], columns)


def _state(file: str) -> list[str]:
    """What changes with a file."""
    status = os.stat(file)
    return [f"{status.st_size} bytes", f"mtime {status.st_mtime_ns} ns"]


def _whole(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
