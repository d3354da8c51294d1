"""What a job will take, from a few of its inputs: time, rows, and bytes."""

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
    """What came of a few inputs.

    Args:
        output: The rows and what would be set aside.
        inputs: How many inputs were tried.
        timed: How many of them the time is of, tried after the others, when the model was warm.
        seconds: How long those took.
    """

    output: ShardOutput
    inputs: int
    timed: int
    seconds: float


@dataclass(frozen=True)
class Estimate:
    """What the rest of a job will take, as far as a few inputs tell.

    Args:
        trial: What it rests on.
        seconds: Time for the inputs that are left, the loading of the model not counted.
        rows: How many rows there will be in all.
        size: How many bytes all of them take on disk.
        free: How many bytes are free there now, beside what is written already.
        workers: Among how many processes the time is divided.
    """

    trial: Trial
    seconds: float
    rows: int
    size: int
    free: int
    workers: int


def spread(total: int, count: int) -> list[int]:
    """Up to `count` numbers below `total`, at even distances."""
    count = min(total, count)
    return [(2 * index + 1) * total // (2 * count) for index in range(count)]


def try_inputs(executor: Executor[Source], plan: Plan, sources: list[Source], first: int) -> Trial:
    """Makes the rows of some inputs.

    Args:
        executor: Where.
        plan: The plan.
        sources: The inputs, a batch and `first` more.
        first: How many of them, spread over all, go before the rest: the first call of a model is slow.
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
    """What the rest of a job will take.

    Args:
        trial: What came of a few inputs.
        scratch: A folder to write their rows to.
        folder: The dataset folder.
        plan: The plan.
        left: How many inputs are not done.
        rows_done: Rows that are there already.
        bytes_done: Their size.
        workers: Among how many processes the work is divided.
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
    """What the rows of a type take as parquet, less what any file takes, which few rows would make too much of."""
    schema, chosen = GeneratedRows().arrow, [row for row in rows if row["type"] == kind]
    _, empty = ledger.write_rows(scratch, kind, 0, [], schema)
    _, full = ledger.write_rows(scratch, kind, 1, chosen, schema)
    return (full.size or 0) - (empty.size or 0)
