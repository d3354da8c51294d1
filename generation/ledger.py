"""The folder of a dataset: what is in it, whose it is, and the one way files get there."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vigc.processing.rows import GENERATED_FEATURES

from .errors import GenerationError

PLAN = "_vigc/plan.json"
CARD = "README.md"
REPORT = "report/index.html"
QUARANTINE = "quarantine"

# Small row groups: pictures weigh a lot, and viewers read by the group.
_ROWS_PER_GROUP = 64


def atomic_write(path: Path, data: bytes) -> None:
    """Writes a file so that it is there whole or not at all, whenever the process or the machine dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def canonical_json(value: Any) -> str:
    """JSON that is the same text for equal values."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def fingerprint(configuration: dict[str, Any]) -> str:
    """16 hexadecimal digits of all that decides what is written."""
    return hashlib.sha256(canonical_json(configuration).encode()).hexdigest()[:16]


def check_output(folder: Path, overwrite: bool) -> None:
    """Raises a `GenerationError` unless a new dataset may be written into `folder`."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not (folder / PLAN).is_file():
        raise GenerationError(f"{str(folder)!r} exists and is no dataset of vigc: give --output a new or empty folder.")
    if not overwrite:
        raise GenerationError(f"{str(folder)!r} holds a dataset: give --overwrite to replace it, or another folder.")


def remove_dataset(folder: Path) -> None:
    """Deletes what an earlier run wrote, and nothing else; the plan goes last, since it says whose folder this is."""
    if not (folder / PLAN).is_file():
        return
    kinds = read_plan(folder)["configuration"]["types"]
    patterns = [f"{kind}/train-*.parquet" for kind in kinds] + [f"{QUARANTINE}/part-*.jsonl"]
    written = [path for pattern in patterns for path in sorted(folder.glob(pattern))]
    for path in [*written, folder / CARD, folder / REPORT, folder / PLAN]:
        path.unlink(missing_ok=True)
        for unfinished in path.parent.glob(f".{path.name}.*.tmp"):
            unfinished.unlink()
    for name in [*kinds, QUARANTINE, Path(REPORT).parent, Path(PLAN).parent]:
        if (folder / name).is_dir() and not any((folder / name).iterdir()):
            (folder / name).rmdir()


def write_plan(folder: Path, plan: dict[str, Any]) -> None:
    """Claims the folder for a job and says which."""
    text = json.dumps(plan, indent=2, sort_keys=True, ensure_ascii=True)
    atomic_write(folder / PLAN, f"{text}\n".encode())


def read_plan(folder: Path) -> dict[str, Any]:
    """What [`write_plan`] wrote.

    Raises:
        GenerationError: The folder is not a dataset of ours, or its plan is damaged.
    """
    path = folder / PLAN
    if not path.is_file():
        raise GenerationError(f"{str(folder)!r} is not a dataset of vigc: it has no {PLAN}.")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise GenerationError(f"{str(path)!r} is not valid JSON ({error}): generate the dataset again.") from error


def write_rows(folder: Path, kind: str, shard: int, rows: Sequence[dict[str, Any]]) -> tuple[int, int]:
    """Writes the rows of one type and shard as parquet; returns their size in memory and on disk, in bytes."""
    schema = GENERATED_FEATURES.arrow_schema
    buffer, size = io.BytesIO(), 0
    with pq.ParquetWriter(buffer, schema) as writer:
        for start in range(0, len(rows), _ROWS_PER_GROUP):
            table = pa.Table.from_pylist(list(rows[start : start + _ROWS_PER_GROUP]), schema=schema)
            writer.write_table(table)
            size += table.nbytes
    data = buffer.getvalue()
    atomic_write(folder / kind / f"train-{shard:05d}.parquet", data)
    return size, len(data)


def write_quarantine(folder: Path, shard: int, records: Sequence[dict[str, Any]]) -> None:
    """Writes what a shard set aside, a line of JSON each."""
    lines = [json.dumps(record, ensure_ascii=True) + "\n" for record in records]
    atomic_write(folder / QUARANTINE / f"part-{shard:05d}.jsonl", "".join(lines).encode())


def read_quarantine(folder: Path) -> list[dict[str, Any]]:
    """What all shards set aside."""
    files = sorted((folder / QUARANTINE).glob("part-*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]
