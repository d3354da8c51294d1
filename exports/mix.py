"""A mixture as a dataset folder: read, mixed, written with a manifest of what was taken from where."""

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
    """A data set to be mixed.

    Args:
        paths: A dataset folder or name that `load_dataset` reads, or published files.
        images: The folder of the files' pictures, or of those that a dataset's rows name instead of holding them.
        layout: Of the files, one of `LAYOUTS`.
        type: Their type of instruction, where layout and name do not say it; of conversations, where the rows do not.
        split: Which part of a dataset.
    """

    paths: tuple[str, ...]
    images: str | None = None
    layout: str = "llava"
    type: str | None = None
    split: str = "train"

    @property
    def name(self) -> str:
        """What it is called in ids and records: its files' or folders' names, without their suffixes."""
        paths = [Path(path) for path in self.paths]
        return " + ".join(stem_of(path) if suffix_of(path) in _SUFFIXES else path.name for path in paths)

    def read(self, *, name: str = "", text: str = "answer") -> Dataset:
        """Its rows, as [`training_rows`] makes them.

        Raises:
            MixError: It cannot be read.
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
            raise MixError(f"{files[0]!r} names its pictures: give the folder that they lie in (--image-root).")
        if self.layout not in LAYOUTS:
            raise MixError(f"layout {self.layout!r} is not known: use one of {', '.join(LAYOUTS)}.")
        sets = [files] if LAYOUTS[self.layout].lists else [[path] for path in files]
        # Absolute, so that a mixture which only names its pictures can be read from anywhere.
        images = Path(self.images).resolve()
        return [read_annotations(given, images, layout=self.layout, type=self.type).rows for given in sets]


def _is_annotations(path: Path) -> bool:
    """Whether a path is a file of published annotations; of a file that is there its content tells."""
    if not path.is_file():
        return suffix_of(path) in _SUFFIXES and not path.is_dir()
    try:
        return json_form(path) in JSON_FORMS or suffix_of(path) in _SUFFIXES
    except AnnotationError as error:
        raise MixError(str(error)) from error


@dataclass(frozen=True)
class MixRequest:
    """What is mixed.

    Args:
        base: What the mixture starts from.
        extra: Where instances are taken from; without it, and with nothing to add or replace, the base alone.
        add: How many instances of which type are added; None takes all.
        replace: How many instances of which type take the place of as many.
        text: What generated rows answer: "answer" (VIC) or "draft" (VIG).
        seed: Decides which instances.
        images: "path" leaves pictures as they are, named or embedded; "embed" embeds all.
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
    """A mixture that was made.

    Args:
        rows: Its rows, with the columns of `TRAIN_FEATURES`, pictures undecoded.
        manifest: What was taken from where, without the ids of instances.
        instances: A record for each instance that was added or removed: operation, type, id.
        num_bytes: Size of the rows in memory, once they are written.
        download_bytes: Size of the files.
    """

    rows: Dataset
    manifest: JsonObject
    instances: list[JsonObject]
    num_bytes: int = 0
    download_bytes: int = 0


def mix(request: MixRequest) -> Mixture:
    """Reads both data sets and mixes them; nothing is written.

    Raises:
        MixError: The request, the data sets or the counts do not go together.
    """
    if (request.extra is None) != (not request.add and not request.replace):
        raise MixError("say what to add or to replace, and --from where: one was given without the other.")
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
    """Writes a mixture as a dataset folder, which is there whole or not at all; False if it is there already.

    Args:
        mixture: What to write.
        output: A new or empty folder, or one with the same mixture.
        card: Called with the folder before it gets its name, to add a README.

    Raises:
        ConflictError: The folder holds something else.
        MixError: A picture cannot be embedded.
        BusyError: Another process is writing it.
    """
    target = Path(output)
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        if _manifest(target) == mixture.manifest:
            return False
        raise ConflictError(f"{str(target)!r} exists and holds no such mixture: give a new or empty folder.")
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
    """The rows as `data/train-*.parquet`, a new file whenever one is large."""
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
                    table = pa.Table.from_pylist(_with_pictures(batch), schema=schema) if embed else batch.cast(schema)
                    writer.write_table(table)
                    mixture.num_bytes += table.nbytes
                    batch = next(batches, None)
            file.flush()
            os.fsync(file.fileno())
        mixture.download_bytes += path.stat().st_size
        number += 1


def _with_pictures(batch: pa.Table) -> list[Record]:
    rows = batch.to_pylist()
    for row in rows:
        picture = row["image"]
        if picture is not None and picture["bytes"] is None:
            try:
                row["image"] = {"bytes": load_picture(Path(picture["path"]), name=picture["path"]).data, "path": None}
            except ImageError as error:
                raise MixError(f"{error}; row {row['conversation_id']!r} names it.") from error
    return rows
