"""Mixes datasets into a dataset folder with a manifest, which records the origin of all rows."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, concatenate_datasets
from datasets.exceptions import DatasetGenerationError, DatasetNotFoundError

from vigc.errors import AnnotationError, ConflictError, ImageError, MixError, is_transient, reason_of
from vigc.formats.annotations import read_annotations
from vigc.formats.chats import is_chat, training_chats
from vigc.formats.file_forms import JSON_FORMS, stem_of, suffix_of
from vigc.formats.hf_datasets import load_rows
from vigc.formats.json_rows import json_form
from vigc.formats.table import LAYOUTS
from vigc.processing.atomic import atomic_folder, atomic_write
from vigc.processing.bounded_parsing import JsonObject, read_json
from vigc.processing.images import load_picture
from vigc.processing.rows import TRAIN_FEATURES, Record

from .mixing import MIX_FEATURES, add_rows, content_fingerprint, replace_rows, training_rows

MANIFEST = "_vigc/mix.json"
INSTANCES = "_vigc/instances.jsonl"
IMAGES = ("path", "embed")

_BATCH = 64
_SUFFIXES = (".json", ".jsonl", ".ndjson")
_FILE_BYTES = 400 * 2**20


@dataclass(frozen=True)
class Source:
    """A dataset to mix.

    Args:
        paths: Dataset folders or names that `load_dataset` reads, or published files.
        images: The folder of the images that the files, or the rows of the dataset, name.
        layout: The layout of the files, one of `LAYOUTS`.
        type: The task type, if it is neither in the layout or the file name, nor in the rows of conversations.
        split: The split of the dataset.
    """

    paths: tuple[str, ...]
    images: str | None = None
    layout: str = "llava"
    type: str | None = None
    split: str = "train"

    @property
    def name(self) -> str:
        """The name in ids and records: the names of its files or folders, without suffixes."""
        paths = [Path(path) for path in self.paths]
        return " + ".join(stem_of(path) if suffix_of(path) in _SUFFIXES else path.name for path in paths)

    def read(self, *, name: str = "", text: str = "answer") -> Dataset:
        """Reads the rows, as [`training_rows`] returns them.

        Raises:
            MixError: The dataset cannot be read.
        """
        files = [path for path in self.paths if _is_annotations(Path(path))]
        if not files:
            parts = [self._loaded(path) for path in self.paths]
        elif len(files) < len(self.paths):
            raise MixError(f"{', '.join(self.paths)}: give files of one layout, or dataset folders.")
        else:
            parts = self._annotations(files)
        ours = [training_rows(part, name=name, text=text) for part in parts]
        return concatenate_datasets(ours)

    def _loaded(self, path: str) -> Dataset:
        try:
            rows = load_rows(path, split=self.split, images=() if self.images is None else (self.images,))
            if not is_chat(rows.column_names):
                return rows
            place = Path(path)
            root = place if place.is_dir() else place.parent if place.is_file() else None
            return training_chats(rows, type=self.type, name=self.name, root=root)
        except (OSError, ValueError, KeyError, DatasetNotFoundError, DatasetGenerationError) as error:
            if is_transient(error):
                raise
            raise MixError(f"{path!r} cannot be read as a dataset: {reason_of(error)}") from error

    def _annotations(self, files: Sequence[str]) -> list[Dataset]:
        if self.images is None:
            raise MixError(f"{files[0]!r} only names its images: give the folder that they lie in (--image-root).")
        if self.layout not in LAYOUTS:
            raise MixError(f"layout {self.layout!r} is not known: use one of {', '.join(LAYOUTS)}.")
        sets = [files] if LAYOUTS[self.layout].lists else [[path] for path in files]
        # Absolute, so that a mixture with image paths can be read from any working directory.
        images = Path(self.images).resolve()
        return [read_annotations(given, images, layout=self.layout, type=self.type).rows for given in sets]


def _is_annotations(path: Path) -> bool:
    """Whether a path is a file of published annotations, detected by content if the file exists."""
    if not path.is_file():
        return suffix_of(path) in _SUFFIXES and not path.is_dir()
    try:
        return json_form(path) in JSON_FORMS or suffix_of(path) in _SUFFIXES
    except AnnotationError as error:
        raise MixError(str(error)) from error


@dataclass(frozen=True)
class MixRequest:
    """The description of a mixture.

    Args:
        base: The dataset that the mixture starts from.
        extra: The dataset that instances are taken from. Without it, `add` and `replace` the mixture is the base.
        add: Number of instances to add, by task type; None adds all.
        replace: Number of instances that replace as many of the base, by task type.
        text: The answer of generated rows: "answer" (VIC) or "draft" (VIG).
        seed: Seed of the selection of instances.
        images: "path" keeps images as they are, paths or embedded; "embed" embeds all.
    """

    base: Source
    extra: Source | None = None
    add: Mapping[str, int | None] = field(default_factory=dict)
    replace: Mapping[str, int] = field(default_factory=dict)
    text: str = "answer"
    seed: int = 0
    images: str = "path"


@dataclass
class Mixture:
    """A mixture, before or after it is written.

    Args:
        rows: The rows, with the columns of `TRAIN_FEATURES` and undecoded images.
        manifest: The origin of all rows, without the ids of instances.
        instances: A record for each instance that was added or removed: operation, type, id.
        num_bytes: Size of the rows in memory, after writing.
        download_bytes: Size of the files, after writing.
    """

    rows: Dataset
    manifest: JsonObject
    instances: list[JsonObject]
    num_bytes: int = 0
    download_bytes: int = 0


def mix(request: MixRequest) -> Mixture:
    """Reads both datasets and mixes them, without writing anything.

    Raises:
        MixError: A dataset cannot be read, or the request does not fit the datasets.
    """
    if (request.extra is None) != (not request.add and not request.replace):
        raise MixError("give --from together with --add or --replace: one was given without the other.")
    if request.images not in IMAGES:
        raise MixError(f"images={request.images!r} is not known: use one of {', '.join(IMAGES)}.")
    rows = request.base.read()
    start = {"name": request.base.name, "fingerprint": content_fingerprint(rows), **_counts(rows)}
    steps: list[JsonObject] = []
    instances: list[JsonObject] = []
    if request.extra is not None:
        name = request.extra.name
        extra = request.extra.read(name=name, text=request.text)
        work = [partial(replace_rows, type=kind, count=count) for kind, count in request.replace.items()]
        work += [partial(add_rows, type=kind, count=count) for kind, count in request.add.items()]
        for operation in work:
            rows, record = operation(rows, extra, seed=request.seed, name=name)
            for side in ("added", "removed"):
                what = {"operation": record["operation"], "type": record["type"], "side": side}
                instances += [{**what, "id": one} for one in record.pop(side)]
            steps.append(record)
    manifest = {"base": start, "steps": steps, "text": request.text, "images": request.images, "seed": request.seed}
    manifest |= {"result": {"fingerprint": content_fingerprint(rows), **_counts(rows)}}
    return Mixture(rows, manifest, instances)


def write_mixture(
    mixture: Mixture, output: str | os.PathLike[str], *, card: Callable[[Path, Mixture], object] | None = None
) -> bool:
    """Writes a mixture to a dataset folder, atomically; returns False if the folder already has this mixture.

    Args:
        mixture: The mixture.
        output: A new or empty folder, or one with the same mixture.
        card: Called with the unfinished folder, to add a README.

    Raises:
        ConflictError: The folder has other content.
        MixError: An image cannot be embedded.
        BusyError: Another process is writing the folder.
    """
    target = Path(output)
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        if _manifest(target) == mixture.manifest:
            return False
        raise ConflictError(f"{str(target)!r} exists and has other content: give a new or empty folder.")
    with atomic_folder(target) as unfinished:
        _write_rows(unfinished, mixture)
        (unfinished / MANIFEST).parent.mkdir()
        atomic_write(unfinished / INSTANCES, (f"{json.dumps(one)}\n".encode() for one in mixture.instances))
        atomic_write(unfinished / MANIFEST, f"{json.dumps(mixture.manifest, indent=2)}\n".encode())
        if card is not None:
            card(unfinished, mixture)
    return True


def _counts(rows: Dataset) -> JsonObject:
    instances = dict(zip(rows["conversation_id"][:], rows["type"][:], strict=True))
    licenses = Counter(one or "unknown" for one in rows["license"][:])
    return {
        "rows": len(rows),
        "instances": len(instances),
        "types": dict(sorted(Counter(instances.values()).items())),
        "licenses": dict(licenses.most_common()),
    }


def _manifest(folder: Path) -> Any:
    try:
        return read_json(folder / MANIFEST)
    except (OSError, ValueError):
        return None


def _write_rows(folder: Path, mixture: Mixture) -> None:
    """Writes the rows to `data/train-*.parquet`, with a new file when one is full."""
    schema = TRAIN_FEATURES.arrow_schema
    embed = mixture.manifest["images"] == "embed"
    (folder / "data").mkdir()
    batches = mixture.rows.select_columns(list(MIX_FEATURES)).with_format("arrow").iter(_BATCH)
    batch, number = next(batches, None), 0
    while batch is not None:
        path = folder / "data" / f"train-{number:05d}.parquet"
        with path.open("wb") as file:
            with pq.ParquetWriter(file, schema) as writer:
                while batch is not None and file.tell() < _FILE_BYTES:
                    table = pa.Table.from_pylist(_with_images(batch), schema=schema) if embed else batch.cast(schema)
                    writer.write_table(table)
                    mixture.num_bytes += table.nbytes
                    batch = next(batches, None)
            file.flush()
            os.fsync(file.fileno())
        mixture.download_bytes += path.stat().st_size
        number += 1


def _with_images(batch: pa.Table) -> list[Record]:
    rows = batch.to_pylist()
    for row in rows:
        image = row["image"]
        if image is not None and image["bytes"] is None:
            try:
                row["image"] = {"bytes": load_picture(Path(image["path"]), name=image["path"]).data, "path": None}
            except ImageError as error:
                raise MixError(f"{error}; row {row['conversation_id']!r} names it.") from error
    return rows
