"""The files of a dataset folder, and the functions that read and write them.

A job can be killed at any moment because files are written in this order: the lists of inputs, then the plan; the rows
and the quarantine of a shard, then its record; card and report, then the mark that the job is finished. Files are
written again, with the same bytes, until the file that records them is there. Before recorded files are written again,
their record is removed.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vigc.errors import GenerationError
from vigc.hub_cards import SAMPLES
from vigc.processing.atomic import atomic_write as atomic_write  # the job calls it by this module
from vigc.processing.bounded_parsing import parse_json, read_json

from .canonical import canonical_json
from .plan import Plan
from .protocols import Record
from .records import TYPE_NAME, FileMark, ShardRecord

STATE = "_vigc"
PLAN = f"{STATE}/plan.json"
INPUTS = f"{STATE}/inputs.jsonl"
EXCLUDED = f"{STATE}/excluded.jsonl"
EMPTY_FOLDERS = f"{STATE}/empty_folders.json"
SHARDS = f"{STATE}/shards"
HASHES = f"{STATE}/hashes"
FINISHED = f"{STATE}/finished.json"
# What the command was given. No hash counts it, and it is not published: it holds paths of this machine.
JOB = f"{STATE}/job.yaml"
CARD = "README.md"
REPORT = "report/index.html"
QUARANTINE = "quarantine"

# Samples that the mark of the end records; their number depends on the rows.
_SAMPLES = f"{SAMPLES}/*-[0-9].[jp][np]g"

# Small row groups: images are large, and viewers read a group at a time.
_ROWS_PER_GROUP = 64


def _pretty(value: Any) -> bytes:
    return f"{json.dumps(value, indent=2, sort_keys=True, ensure_ascii=True)}\n".encode()


def _sealed(values: Record) -> bytes:
    """An object with the hash of the rest of it, by which a damaged one is known."""
    return _pretty({**values, "sha256": hashlib.sha256(canonical_json(values).encode()).hexdigest()})


def _unsealed(data: bytes) -> Record:
    """What [`_sealed`] made, less the hash; older versions wrote none.

    Raises:
        ValueError: It is damaged.
    """
    values = parse_json(data)
    if not isinstance(values, dict):
        raise ValueError("no object")
    sha256 = values.pop("sha256", None)
    if sha256 is not None and sha256 != hashlib.sha256(canonical_json(values).encode()).hexdigest():
        raise ValueError("damaged")
    return values


def write_plan(folder: Path, plan: Plan) -> None:
    """Claims the folder for a job and says which."""
    atomic_write(folder / PLAN, _pretty(plan.to_json()))


def read_plan(folder: Path) -> Plan:
    """What [`write_plan`] wrote, or another version of it: as far as it is needed to read the rows.

    Raises:
        GenerationError: The folder is not a dataset of ours, or its plan is damaged.
    """
    values = read_plan_json(folder)
    try:
        return Plan.from_json(values)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise _no_plan(folder) from error


def read_plan_json(folder: Path) -> Record:
    """The plan as its file holds it, of any version.

    Raises:
        GenerationError: The folder is not a dataset of ours, or its plan is damaged.
    """
    path = folder / PLAN
    if not path.is_file():
        raise GenerationError(f"{str(folder)!r} is not a dataset of vigc: it has no {PLAN}.")
    try:
        plan = read_json(path)
    except ValueError as error:
        raise GenerationError(f"{str(path)!r} is not valid JSON ({error}): generate the dataset again.") from error
    configuration = plan.get("configuration") if isinstance(plan, dict) else None
    types = configuration.get("types") if isinstance(configuration, dict) else None
    # They name folders, of which files are read and, with `overwrite`, deleted.
    if not isinstance(types, list) or not all(isinstance(kind, str) and TYPE_NAME.fullmatch(kind) for kind in types):
        raise _no_plan(folder)
    return plan


def _no_plan(folder: Path) -> GenerationError:
    return GenerationError(f"{str(folder / PLAN)!r} is no plan of vigc: generate the dataset again.")


def write_empty_folders(folder: Path, names: list[str]) -> None:
    """Records which sub-folders of the inputs were empty when the job was begun; usually there is none, and no file."""
    if names:
        atomic_write(folder / EMPTY_FOLDERS, _pretty(names))
    else:  # of a job that was killed before it had a plan
        (folder / EMPTY_FOLDERS).unlink(missing_ok=True)


def read_empty_folders(folder: Path) -> list[str]:
    """What [`write_empty_folders`] wrote; nothing if it is missing or damaged: the job then waits for such a folder."""
    try:
        names = read_json(folder / EMPTY_FOLDERS)
    except (FileNotFoundError, ValueError):
        return []
    return [str(name) for name in names] if isinstance(names, list) else []


class Inputs:
    """The inputs of a job by shard, a line of `_vigc/inputs.jsonl` each; only where the lines begin is kept.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.offsets = [0]
        with path.open("rb") as file:
            for line in file:
                self.offsets.append(self.offsets[-1] + len(line))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, shard: int) -> list[Record]:
        with self.path.open("rb") as file:
            file.seek(self.offsets[shard])
            return parse_json(file.read(self.offsets[shard + 1] - self.offsets[shard]))


def read_shard(folder: Path, shard: int) -> ShardRecord | None:
    """The record of a finished shard; None if it, or a file that it records, is missing or damaged."""
    record = read_record(folder, shard)
    if record is None or any(mark.fault(folder / name) for name, mark in record.files.items()):
        return None
    return record


def read_record(folder: Path, shard: int) -> ShardRecord | None:
    """The record of a finished shard, whether or not its files are intact; None if it is missing or damaged."""
    try:
        return ShardRecord.from_json(_unsealed(record_file(folder, shard).read_bytes()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError, AttributeError):  # damaged: the shard is made again
        return None


def write_shard(folder: Path, record: ShardRecord) -> None:
    """Marks a shard as finished. All files that it records must be written before."""
    atomic_write(record_file(folder, record.shard), _sealed(record.to_json()))


def record_name(shard: int) -> str:
    """Where the record of a shard lies in the folder."""
    return f"{SHARDS}/{shard:05d}.json"


def record_file(folder: Path, shard: int) -> Path:
    """The file of a shard's record."""
    return folder / record_name(shard)


def reopen_shard(folder: Path, shard: int) -> None:
    """Removes the record of a shard, and the mark of the end: card and report describe the rows of that shard."""
    (folder / FINISHED).unlink(missing_ok=True)
    record_file(folder, shard).unlink(missing_ok=True)


def remove_leftovers(folder: Path, record: ShardRecord) -> None:
    """Deletes files of a shard that an earlier attempt wrote and this record does not have."""
    names = [*(rows_file(kind, record.shard) for kind in record.types), quarantine_file(record.shard)]
    for name in names:
        if name not in record.files:
            (folder / name).unlink(missing_ok=True)


def shard_records(folder: Path) -> Iterator[ShardRecord]:
    """The records of all finished shards, in their order."""
    for path in sorted((folder / SHARDS).glob("*.json")):
        if path.stem.isdigit() and (record := read_shard(folder, int(path.stem))) is not None:
            yield record


def write_finished(folder: Path, plan: Plan, totals: Mapping[str, int]) -> None:
    """Marks the whole job as finished, the last thing that is written, with size and hash of what no shard wrote."""
    names = [CARD, REPORT, EXCLUDED, *sorted(f"{SAMPLES}/{path.name}" for path in folder.glob(_SAMPLES))]
    files = {name: asdict(FileMark.of((folder / name).read_bytes())) for name in names if (folder / name).is_file()}
    atomic_write(folder / FINISHED, _sealed({"fingerprint": plan.fingerprint, **totals, "files": files}))


def mark_report(folder: Path) -> None:
    """Notes that the report of a finished job was drawn again."""
    finished = read_finished(folder)
    if REPORT in finished.get("files", {}):
        finished["files"][REPORT] = asdict(FileMark.of((folder / REPORT).read_bytes()))
        atomic_write(folder / FINISHED, _sealed(finished))


def is_finished(folder: Path, fingerprint: str) -> bool:
    """Whether the job of this fingerprint is finished, and what was written at its end is there."""
    finished = read_finished(folder)
    if finished.get("fingerprint") != fingerprint:
        return False
    return not any(mark.fault(folder / name, size=False) for name, mark in finished_files(finished).items())


def read_finished(folder: Path) -> Record:
    """What [`write_finished`] wrote; nothing if there is none, or it is damaged: then the job is finished again."""
    try:
        finished = _unsealed((folder / FINISHED).read_bytes())
        finished_files(finished)
    except (FileNotFoundError, ValueError, TypeError, AttributeError):
        return {}
    return finished


def finished_files(finished: Record) -> dict[str, FileMark]:
    """The files that the mark of the end names; of an older version, which named none, those that are always there."""
    if not finished:
        return {}
    files = finished.get("files", {CARD: None, REPORT: None})
    return {name: FileMark.from_json(value) for name, value in files.items()}


def write_rows(folder: Path, kind: str, shard: int, rows: Sequence[Record], schema: pa.Schema) -> tuple[int, FileMark]:
    """Writes the rows of one type and shard as parquet; returns their bytes in memory, and the file's mark."""
    buffer, size = io.BytesIO(), 0
    with pq.ParquetWriter(buffer, schema) as writer:
        for start in range(0, len(rows), _ROWS_PER_GROUP):
            table = pa.Table.from_pylist(list(rows[start : start + _ROWS_PER_GROUP]), schema=schema)
            writer.write_table(table)
            size += table.nbytes
    data = buffer.getvalue()
    atomic_write(folder / rows_file(kind, shard), data)
    return size, FileMark.of(data)


def rows_file(kind: str, shard: int) -> str:
    """Where the rows of one type and shard lie in the folder."""
    return f"{kind}/train-{shard:05d}.parquet"


def quarantine_file(shard: int) -> str:
    """Where the inputs that a shard skipped, and the samples that it rejected, lie in the folder."""
    return f"{QUARANTINE}/part-{shard:05d}.jsonl"


def write_quarantine(folder: Path, shard: int, records: Sequence[Record]) -> FileMark:
    """Writes what a shard skipped and rejected, a line of JSON each; returns the file's mark."""
    data = "".join(json.dumps(record, ensure_ascii=True) + "\n" for record in records).encode()
    atomic_write(folder / quarantine_file(shard), data)
    return FileMark.of(data)


def inputs_of(record: Record) -> int:
    """How many inputs a record of the quarantine stands for: a file with its exact copies, or one sample."""
    return 1 if record["kind"] == "text" else 1 + len(record.get("same", ()))


def read_quarantine(folder: Path) -> list[Record]:
    """What all shards skipped and rejected."""
    return list(iter_quarantine(folder))


def iter_quarantine(folder: Path) -> Iterator[Record]:
    """What all shards skipped and rejected, one record at a time."""
    for file in sorted((folder / QUARANTINE).glob("part-*.jsonl")):
        with file.open(encoding="utf-8") as lines:
            for line in lines:
                yield parse_json(line)
