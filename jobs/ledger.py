"""The files of a dataset folder, and the functions that read and write them.

A job can be killed at any moment because files are written in this order: the lists of inputs, then the plan; the rows
and the quarantine of a shard, then its record; card and report, then `finished.json`. A file without a record is
written again with the same bytes. A record is removed before its files are written again.
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
from vigc.processing.atomic import atomic_write as atomic_write  # used through this module
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
# The settings of the command. Not hashed and not published, because they contain local paths.
JOB = f"{STATE}/job.yaml"
CARD = "README.md"
REPORT = "report/index.html"
QUARANTINE = "quarantine"

# Sample images that `finished.json` records; their number depends on the rows.
_SAMPLES = f"{SAMPLES}/*-[0-9].[jp][np]g"

# Small row groups, because images are large and viewers read whole groups.
_ROWS_PER_GROUP = 64


def _pretty(value: Any) -> bytes:
    return f"{json.dumps(value, indent=2, sort_keys=True, ensure_ascii=True)}\n".encode()


def _sealed(values: Record) -> bytes:
    """JSON of an object with a hash of its values, which detects damage."""
    return _pretty({**values, "sha256": hashlib.sha256(canonical_json(values).encode()).hexdigest()})


def _unsealed(data: bytes) -> Record:
    """Parses the output of [`_sealed`] and removes the hash, which older versions did not write.

    Raises:
        ValueError: The file is damaged.
    """
    values = parse_json(data)
    if not isinstance(values, dict):
        raise ValueError("no object")
    sha256 = values.pop("sha256", None)
    if sha256 is not None and sha256 != hashlib.sha256(canonical_json(values).encode()).hexdigest():
        raise ValueError("damaged")
    return values


def write_plan(folder: Path, plan: Plan) -> None:
    """Writes the plan, which claims the folder for the job."""
    atomic_write(folder / PLAN, _pretty(plan.to_json()))


def read_plan(folder: Path) -> Plan:
    """Reads a plan of any version, with the parts that readers of the rows need.

    Raises:
        GenerationError: The folder is not a vigc dataset, or its plan is damaged.
    """
    values = read_plan_json(folder)
    try:
        return Plan.from_json(values)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise _no_plan(folder) from error


def read_plan_json(folder: Path) -> Record:
    """Reads the JSON of a plan of any version.

    Raises:
        GenerationError: The folder is not a vigc dataset, or its plan is damaged.
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
    # Types name folders whose files are read and, with `overwrite`, deleted.
    if not isinstance(types, list) or not all(isinstance(kind, str) and TYPE_NAME.fullmatch(kind) for kind in types):
        raise _no_plan(folder)
    return plan


def _no_plan(folder: Path) -> GenerationError:
    return GenerationError(f"{str(folder / PLAN)!r} is not a valid plan: generate the dataset again.")


def write_empty_folders(folder: Path, names: list[str]) -> None:
    """Records which sub-folders of the inputs were empty at the start of the job; without any, there is no file."""
    if names:
        atomic_write(folder / EMPTY_FOLDERS, _pretty(names))
    else:  # left by a job that was killed before it had a plan
        (folder / EMPTY_FOLDERS).unlink(missing_ok=True)


def read_empty_folders(folder: Path) -> list[str]:
    """Reads the list of [`write_empty_folders`]; empty if the file is missing or damaged."""
    try:
        names = read_json(folder / EMPTY_FOLDERS)
    except (FileNotFoundError, ValueError):
        return []
    return [str(name) for name in names] if isinstance(names, list) else []


class Inputs:
    """The inputs of a job by shard, read from `_vigc/inputs.jsonl` on access. Only line offsets are kept in memory.

    Args:
        path: The file, with a line per shard.
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
    """The record of a finished shard; None if the record or one of its files is missing or damaged."""
    record = read_record(folder, shard)
    if record is None or any(mark.fault(folder / name) for name, mark in record.files.items()):
        return None
    return record


def read_record(folder: Path, shard: int) -> ShardRecord | None:
    """The record of a finished shard, without a check of its files; None if the record is missing or damaged."""
    try:
        return ShardRecord.from_json(_unsealed(record_file(folder, shard).read_bytes()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError, AttributeError):  # damaged: the shard is made again
        return None


def write_shard(folder: Path, record: ShardRecord) -> None:
    """Marks a shard as finished. Its files must be written before."""
    atomic_write(record_file(folder, record.shard), _sealed(record.to_json()))


def record_name(shard: int) -> str:
    """The path of a shard's record in the dataset folder."""
    return f"{SHARDS}/{shard:05d}.json"


def record_file(folder: Path, shard: int) -> Path:
    """The path of a shard's record."""
    return folder / record_name(shard)


def reopen_shard(folder: Path, shard: int) -> None:
    """Removes the record of a shard and `finished.json`, since card and report describe the rows of that shard."""
    (folder / FINISHED).unlink(missing_ok=True)
    record_file(folder, shard).unlink(missing_ok=True)


def remove_leftovers(folder: Path, record: ShardRecord) -> None:
    """Deletes files of an earlier attempt at a shard that are not in its new record."""
    names = [*(rows_file(kind, record.shard) for kind in record.types), quarantine_file(record.shard)]
    for name in names:
        if name not in record.files:
            (folder / name).unlink(missing_ok=True)


def shard_records(folder: Path) -> Iterator[ShardRecord]:
    """The records of all finished shards, in order."""
    for path in sorted((folder / SHARDS).glob("*.json")):
        if path.stem.isdigit() and (record := read_shard(folder, int(path.stem))) is not None:
            yield record


def write_finished(folder: Path, plan: Plan, totals: Mapping[str, int]) -> None:
    """Writes `finished.json`, the last file of a job, with size and hash of all files outside of shards."""
    names = [CARD, REPORT, EXCLUDED, *sorted(f"{SAMPLES}/{path.name}" for path in folder.glob(_SAMPLES))]
    files = {name: asdict(FileMark.of((folder / name).read_bytes())) for name in names if (folder / name).is_file()}
    atomic_write(folder / FINISHED, _sealed({"fingerprint": plan.fingerprint, **totals, "files": files}))


def mark_report(folder: Path) -> None:
    """Records the new report of a finished job."""
    finished = read_finished(folder)
    if REPORT in finished.get("files", {}):
        finished["files"][REPORT] = asdict(FileMark.of((folder / REPORT).read_bytes()))
        atomic_write(folder / FINISHED, _sealed(finished))


def is_finished(folder: Path, fingerprint: str) -> bool:
    """Whether the job of this fingerprint is finished and its final files exist."""
    finished = read_finished(folder)
    if finished.get("fingerprint") != fingerprint:
        return False
    return not any(mark.fault(folder / name, size=False) for name, mark in finished_files(finished).items())


def read_finished(folder: Path) -> Record:
    """Reads `finished.json`; empty if it is missing or damaged, and the final files are then written again."""
    try:
        finished = _unsealed((folder / FINISHED).read_bytes())
        finished_files(finished)
    except (FileNotFoundError, ValueError, TypeError, AttributeError):
        return {}
    return finished


def finished_files(finished: Record) -> dict[str, FileMark]:
    """The files in `finished.json`; older versions listed none and get the files that every job has."""
    if not finished:
        return {}
    files = finished.get("files", {CARD: None, REPORT: None})
    return {name: FileMark.from_json(value) for name, value in files.items()}


def write_rows(folder: Path, kind: str, shard: int, rows: Sequence[Record], schema: pa.Schema) -> tuple[int, FileMark]:
    """Writes the rows of one type and shard as parquet; returns their bytes in memory and the mark of the file."""
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
    """The path of the rows of one type and shard in the dataset folder."""
    return f"{kind}/train-{shard:05d}.parquet"


def quarantine_file(shard: int) -> str:
    """The path of a shard's skipped inputs and rejected samples in the dataset folder."""
    return f"{QUARANTINE}/part-{shard:05d}.jsonl"


def write_quarantine(folder: Path, shard: int, records: Sequence[Record]) -> FileMark:
    """Writes skipped inputs and rejected samples of a shard as JSON Lines; returns the mark of the file."""
    data = "".join(json.dumps(record, ensure_ascii=True) + "\n" for record in records).encode()
    atomic_write(folder / quarantine_file(shard), data)
    return FileMark.of(data)


def inputs_of(record: Record) -> int:
    """Number of inputs of a quarantine record: a file with its exact copies, or one sample."""
    return 1 if record["kind"] == "text" else 1 + len(record.get("same", ()))


def read_quarantine(folder: Path) -> list[Record]:
    """Skipped inputs and rejected samples of all shards."""
    return list(iter_quarantine(folder))


def iter_quarantine(folder: Path) -> Iterator[Record]:
    """Yields skipped inputs and rejected samples of all shards."""
    for file in sorted((folder / QUARANTINE).glob("part-*.jsonl")):
        with file.open(encoding="utf-8") as lines:
            for line in lines:
                yield parse_json(line)
