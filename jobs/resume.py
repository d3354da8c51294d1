"""Makes the unfinished shards of a job, each under its lock, and finishes the job once.

A killed job is resumed by the same command.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from vigc.errors import BusyError, GenerationError, TransientError

from . import ledger, locks
from .output_folder import check_output, sweep
from .plan import Plan
from .protocols import InputSet, InputT, MakeShard, Report, RowSchema
from .shards import commit


@contextmanager
def alone(folder: Path, rank: int, world_size: int) -> Iterator[None]:
    """Holds the lock of a rank, so that only one process works as this rank of the folder.

    Raises:
        BusyError: Another process holds the lock.
    """
    created, mine = not folder.exists(), f"rank-{rank}-of-{world_size}"
    check_output(folder)
    with locks.hold(folder, mine) as free:
        if not free:
            raise BusyError(
                f"{str(folder)!r} is being written by another process of rank {rank} (of {world_size}): "
                "wait for its end, or give this one a --rank of its own."
            )
        try:
            yield
        finally:
            locks.clear(folder, mine)
            if not (folder / ledger.PLAN).exists():
                _remove_empty(folder, created)


def _remove_empty(folder: Path, created: bool) -> None:
    """Removes the empty folders of a job that was refused before it had a plan."""
    state = folder / ledger.STATE
    if state.is_dir() and not any(state.iterdir()):
        state.rmdir()
    if created and not any(folder.iterdir()):
        folder.rmdir()


def with_inputs(folder: Path, inputs: InputSet[InputT], shards: Iterable[int]) -> Iterator[tuple[int, list[InputT]]]:
    """Yields each of the given unfinished shards with its inputs.

    Raises:
        TransientError: None of the job's inputs can be read any more.
    """
    listed, checked = ledger.Inputs(folder / ledger.INPUTS), False
    restored = inputs.restorer(folder)
    for shard in shards:
        if not checked:
            _check_still_readable(inputs)
            checked = True
        yield shard, [restored(record) for record in listed[shard]]


def _check_still_readable(inputs: InputSet[InputT]) -> None:
    try:
        inputs.check_readable()
    except TransientError:
        raise
    except GenerationError as error:
        raise TransientError(
            f"{error} They were readable when the job was planned: run the same command again when their folder "
            "is available."
        ) from error


def run_shard(
    folder: Path,
    plan: Plan,
    shard: int,
    sources: list[InputT],
    make: MakeShard[InputT],
    report: Report,
    *,
    schema: RowSchema,
) -> None:
    """Makes and commits one shard, unless another process holds its lock."""
    with locks.hold(folder, f"shard-{shard:05d}") as free:
        # Checked again: another process may have finished it before the lock was taken.
        if free and not _is_done(folder, plan, shard):
            commit(folder, plan, shard, sources, make(sources, report), schema)


def _is_done(folder: Path, plan: Plan, shard: int) -> bool:
    record = ledger.read_shard(folder, shard)
    return record is not None and record.fingerprint == plan.fingerprint


def unfinished(folder: Path, plan: Plan, shards: Iterable[int]) -> list[int]:
    """The unfinished ones of the given shards."""
    return [shard for shard in shards if not _is_done(folder, plan, shard)]


def missing_shards(folder: Path, plan: Plan, shards: Iterable[int] | None = None) -> int:
    """Number of unfinished shards, of all or of the given ones."""
    return len(unfinished(folder, plan, range(plan.inputs.shards) if shards is None else shards))


def finish(folder: Path, plan: Plan, write: Callable[[], dict[str, int]]) -> bool:
    """Once all shards are finished, writes card, report and `finished.json`; returns whether the job is finished.

    Args:
        folder: The dataset folder.
        plan: Its plan.
        write: Writes card and report and returns the totals for `finished.json`.
    """
    if missing_shards(folder, plan):
        return False
    with locks.hold(folder, "finish", wait=True):
        if not ledger.is_finished(folder, plan.fingerprint):
            (folder / ledger.FINISHED).unlink(missing_ok=True)
            sweep(folder)
            ledger.write_finished(folder, plan, write())
    return True
