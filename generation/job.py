"""The job: a plan, its shards one by one, and the end. Whatever kills it, the same command goes on where it was."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vigc.errors import BusyError, GenerationError, TransientError, VigcError
from vigc.generation.sources.base import Source
from vigc.generation.sources.empty_folders import EmptyFolders
from vigc.jobs import ledger, locks
from vigc.jobs.output_folder import check_output, remove_dataset, sweep
from vigc.processing.digest import file_digest

from .plan import Selection, check_readable, check_same, complete_plan, excluded_digest
from .shards import MakeShard, commit


@contextmanager
def alone(folder: Path, rank: int, world_size: int) -> Iterator[None]:
    """Makes sure that no other process works as the same rank of the same folder.

    Raises:
        BusyError: One does.
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
    """Leaves no trace of a job that was refused before it had a plan."""
    state = folder / ledger.STATE
    if state.is_dir() and not any(state.iterdir()):
        state.rmdir()
    if created and not any(folder.iterdir()):
        folder.rmdir()


def settle_plan(
    folder: Path, plan: dict[str, Any], selection: Selection, *, overwrite: bool, ready: Callable[[], Any]
) -> dict[str, Any]:
    """Writes the plan of a new job, or makes sure that the folder's is the same.

    Args:
        folder: The dataset folder.
        plan: The plan without its inputs.
        selection: The inputs.
        overwrite: Whether another job, or a finished one, may be replaced.
        ready: Loads the model: called before anything is replaced or claimed, so that a model that cannot be loaded
            costs nothing.

    Raises:
        ConflictError: The folder holds another job.
        BusyError: It should be replaced, and somebody is at work on it.
    """
    if not check_output(folder):
        with locks.hold(folder, "plan", wait=True):
            if not check_output(folder):
                return _begin(folder, plan, selection, ready)
    # Of many ranks one makes the plan. The others compare it with theirs, which takes as long, side by side.
    done = complete_plan(folder, plan, selection, write=False)
    if not overwrite and _is_settled(folder, done, selection):
        return done
    with locks.hold(folder, "plan", wait=True):
        if check_output(folder):
            old_finished = ledger.is_finished(folder, done["fingerprint"])
            try:
                check_same(folder, done, selection.sources(folder))
            except VigcError:
                if not overwrite:
                    raise
                old_finished = True
            if not (overwrite and old_finished):
                return _rebuilt(folder, done, selection, plan)
            check_readable(selection)
            ready()
            remove_dataset(folder)
        return _begin(folder, plan, selection, ready)


def _begin(folder: Path, plan: dict[str, Any], selection: Selection, ready: Callable[[], Any]) -> dict[str, Any]:
    """Writes the plan into a folder without one."""
    done = complete_plan(folder, plan, selection, write=True)
    try:
        check_readable(selection)
        ready()
    except VigcError:
        for name in (ledger.INPUTS, ledger.EXCLUDED, ledger.EMPTY_FOLDERS):
            (folder / name).unlink(missing_ok=True)
        raise
    ledger.write_plan(folder, done)
    return done


def _is_settled(folder: Path, done: dict[str, Any], selection: Selection) -> bool:
    """Whether the folder has this plan, whole, and its list of inputs.

    Raises:
        ConflictError: It holds another job.
    """
    check_same(folder, done, selection.sources(folder))
    try:
        plan = ledger.read_plan(folder)
    except GenerationError:
        return False
    whole = ledger.is_whole(plan) and plan["fingerprint"] == done["fingerprint"]
    return whole and _is_listed(folder, done, selection)


def _rebuilt(folder: Path, done: dict[str, Any], selection: Selection, plan: dict[str, Any]) -> dict[str, Any]:
    """The plan, with files that were torn or lost written again."""
    if not _is_settled(folder, done, selection):
        complete_plan(folder, plan, selection, write=True)
        ledger.write_plan(folder, done)
    return done


def _is_listed(folder: Path, plan: dict[str, Any], selection: Selection) -> bool:
    """Whether both lists of inputs are the plan's to the byte: a cut in the last line changes no count."""
    if selection.excluded and file_digest(folder / ledger.EXCLUDED) != excluded_digest(selection):
        return False
    return file_digest(folder / ledger.INPUTS) == plan["inputs"]["sha256"]


def unfinished(
    folder: Path, plan: dict[str, Any], selection: Selection, shards: Iterable[int], passed: Callable[[], Any]
) -> Iterator[tuple[int, list[Source]]]:
    """The shards that are not finished, each with its inputs; `passed` is called for each that is.

    Raises:
        TransientError: Nothing can be read any more of what the job was begun with.
    """
    inputs, checked = ledger.Inputs(folder / ledger.INPUTS), False
    empty = EmptyFolders(folder, selection.collection)
    for shard in shards:
        if _is_done(folder, plan, shard):
            passed()
            continue
        if not checked:
            _check_still_readable(selection)
            checked = True
        yield shard, [empty.mark(Source(**record)) for record in inputs[shard]]


def _check_still_readable(selection: Selection) -> None:
    try:
        check_readable(selection)
    except TransientError:
        raise
    except GenerationError as error:
        raise TransientError(
            f"{error} Some could when the job was begun: run the same command again when their place is back."
        ) from error


def run_shard(
    folder: Path, plan: dict[str, Any], shard: int, sources: list[Source], make: MakeShard, say: Callable[[str], Any]
) -> None:
    """Makes and commits one shard. One that another process holds is left to it."""
    with locks.hold(folder, f"shard-{shard:05d}") as free:
        # Looked at again: it may have been finished between the first look and the lock.
        if free and not _is_done(folder, plan, shard):
            commit(folder, plan, shard, sources, make(sources, say))


def _is_done(folder: Path, plan: dict[str, Any], shard: int) -> bool:
    record = ledger.read_shard(folder, shard)
    return record is not None and record.fingerprint == plan["fingerprint"]


def missing_shards(folder: Path, plan: dict[str, Any], shards: Iterable[int] | None = None) -> int:
    """How many shards are not finished, of all or of some."""
    asked = range(plan["inputs"]["shards"]) if shards is None else shards
    return sum(not _is_done(folder, plan, shard) for shard in asked)


def finish(folder: Path, plan: dict[str, Any], write: Callable[[], dict[str, int]]) -> bool:
    """If all shards are finished, writes what is made from them together, once; returns whether the job is finished.

    Args:
        folder: The dataset folder.
        plan: Its plan.
        write: Writes card and report, and returns figures for the mark of the end.
    """
    if missing_shards(folder, plan):
        return False
    with locks.hold(folder, "finish", wait=True):
        if not ledger.is_finished(folder, plan["fingerprint"]):
            (folder / ledger.FINISHED).unlink(missing_ok=True)
            sweep(folder)
            ledger.write_finished(folder, plan, write())
    return True
