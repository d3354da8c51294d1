"""Estimates time, rows and bytes of a job from a few of its inputs."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, fields
from pathlib import Path

from vigc.generation.sources.base import Source
from vigc.jobs import Plan, ShardOutput, ledger
from vigc.jobs.executors import Executor
from vigc.jobs.protocols import Record

from .row_schema import GeneratedRows


@dataclass(frozen=True)
class Trial:
    """The result of a trial with a few inputs.

    Args:
        output: The rows, skipped inputs and rejected samples.
        inputs: Number of inputs.
        timed: Number of inputs in the timed part, which runs after a warm-up.
        seconds: Duration of the timed part.
    """

    output: ShardOutput
    inputs: int
    timed: int
    seconds: float


@dataclass(frozen=True)
class Estimate:
    """Estimated time and size of a job.

    Args:
        trial: The trial that it is computed from.
        seconds: Time for the remaining inputs, without loading the model.
        rows: Total number of rows.
        size: Total bytes on the disk.
        free: Bytes free on the disk now.
        workers: Number of processes that share the work.
    """

    trial: Trial
    seconds: float
    rows: int
    size: int
    free: int
    workers: int


def spread(total: int, count: int) -> list[int]:
    """Up to `count` evenly spaced integers below `total`."""
    count = min(total, count)
    return [(2 * index + 1) * total // (2 * count) for index in range(count)]


def try_inputs(executor: Executor[Source], plan: Plan, sources: list[Source], first: int) -> Trial:
    """Makes the rows of some inputs and measures the time.

    Args:
        executor: The executor.
        plan: The plan.
        sources: The inputs: a batch and `first` more.
        first: Number of evenly spaced inputs for the warm-up, since the first call of a model is slow.
    """
    before = spread(len(sources), first)
    rest = [source for index, source in enumerate(sources) if index not in before]
    output, seconds = executor.sample(plan, [sources[index] for index in before])
    timed = len(before)
    if rest:
        more, seconds = executor.sample(plan, rest)
        output, timed = _sum(output, more), len(rest)
    return Trial(output, len(sources), timed, seconds)


def _sum(one: ShardOutput, other: ShardOutput) -> ShardOutput:
    names = [field.name for field in fields(ShardOutput)]
    return ShardOutput(**{name: getattr(one, name) + getattr(other, name) for name in names})


def estimate(
    trial: Trial,
    scratch: Path,
    folder: Path,
    plan: Plan,
    *,
    left: int,
    rows_done: int,
    bytes_done: int,
    workers: int,
) -> Estimate:
    """Estimates the rest of a job.

    Args:
        trial: The result of a few inputs.
        scratch: A temporary folder for their rows.
        folder: The dataset folder.
        plan: The plan.
        left: Number of remaining inputs.
        rows_done: Number of rows already written.
        bytes_done: Size of those rows.
        workers: Number of processes that share the work.
    """
    per_input = sum(_bytes(scratch, kind, trial.output.rows) for kind in plan.configuration.types) / trial.inputs
    there = folder.absolute()
    while not there.exists():
        there = there.parent
    return Estimate(
        trial,
        seconds=trial.seconds / trial.timed * left / workers,
        rows=rows_done + round(len(trial.output.rows) / trial.inputs * left),
        size=bytes_done + round(per_input * left),
        free=shutil.disk_usage(there).free,
        workers=workers,
    )


def _bytes(scratch: Path, kind: str, rows: list[Record]) -> int:
    """Bytes of the rows of a type as parquet, without the fixed size of a file, which would bias the estimate."""
    schema, chosen = GeneratedRows().arrow, [row for row in rows if row["type"] == kind]
    _, empty = ledger.write_rows(scratch, kind, 0, [], schema)
    _, full = ledger.write_rows(scratch, kind, 1, chosen, schema)
    return (full.size or 0) - (empty.size or 0)
