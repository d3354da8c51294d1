"""The output folder: whether it is one of ours, emptied on request, cleared of unfinished files at the end."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from vigc.errors import BusyError, GenerationError
from vigc.hub_cards import SAMPLES

from . import ledger, locks

_UNFINISHED = re.compile(r"\..+\.[0-9a-f]+\.tmp")  # as `atomic_write` names them


def check_output(folder: Path) -> bool:
    """Whether a folder holds a plan of ours, whole or damaged; raises a `GenerationError` if it is somebody else's."""
    if not folder.exists():
        return False
    if not folder.is_dir():
        raise GenerationError(f"{str(folder)!r} is a file: give --output a new or empty folder.")
    # A job that died before its plan was written leaves its state and nothing else.
    if not any(path.name != ledger.STATE for path in folder.iterdir()):
        return (folder / ledger.PLAN).is_file()
    # Whoever has records of shards and the list of inputs lost the plan: it is made again.
    if not (folder / ledger.PLAN).is_file() and not ((folder / ledger.INPUTS).is_file() and _has_shards(folder)):
        raise GenerationError(f"{str(folder)!r} exists and is no dataset of vigc: give --output a new or empty folder.")
    return True


def _has_shards(folder: Path) -> bool:
    return any((folder / ledger.SHARDS).glob("*.json"))


def remove_dataset(folder: Path, types: Sequence[str]) -> None:
    """Deletes what an earlier job wrote, and nothing else; the plan goes last, since it says whose folder this is.

    Args:
        folder: The dataset folder.
        types: All types that rows can have: their folders are looked into if the plan is damaged.

    Raises:
        BusyError: A process is still at work on it.
    """
    busy = [name for name in locks.held(folder) if name.startswith(("shard-", "finish"))]
    if busy:
        raise BusyError(f"{str(folder)!r} is being written by another process ({', '.join(busy)}): wait for its end.")
    (folder / ledger.FINISHED).unlink(missing_ok=True)
    written = list(_written(folder, types))
    for path in written:
        path.unlink(missing_ok=True)
    for path in [*written, folder / ledger.PLAN]:
        remove_unfinished(path.parent)
    (folder / ledger.PLAN).unlink(missing_ok=True)
    for parent in sorted({path.parent for path in written}, reverse=True):
        if parent not in (folder, folder / ledger.STATE) and parent.is_dir() and not any(parent.iterdir()):
            parent.rmdir()


def _written(folder: Path, types: Sequence[str]) -> Iterator[Path]:
    yield from sorted((folder / ledger.SHARDS).glob("*.json"))
    for kind in _types(folder, types):
        yield from sorted((folder / kind).glob("train-*.parquet"))
    yield from sorted((folder / ledger.QUARANTINE).glob("part-*.jsonl"))
    yield from sorted((folder / SAMPLES).glob("*-[0-9].[jp][np]g"))
    yield from (
        folder / name
        for name in (ledger.CARD, ledger.REPORT, ledger.INPUTS, ledger.EXCLUDED, ledger.EMPTY_FOLDERS, ledger.JOB)
    )


def _types(folder: Path, known: Sequence[str]) -> Sequence[str]:
    try:
        return ledger.read_plan_json(folder)["configuration"]["types"]
    except GenerationError:  # damaged, or never written: nothing but the known types can have been
        return known


def remove_unfinished(folder: Path) -> None:
    """Deletes what a write that was killed left behind in one folder."""
    for path in folder.glob(".*.tmp"):
        if _UNFINISHED.fullmatch(path.name):
            path.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Deletes what killed writes left anywhere in a dataset; nobody else may be writing any more."""
    state = folder / ledger.STATE
    for place in [folder, *(path for path in folder.iterdir() if path.is_dir() and path != state)]:
        remove_unfinished(place)
    hashes = folder / ledger.HASHES
    for place in (state, folder / ledger.SHARDS, hashes, *(path for path in hashes.glob("*") if path.is_dir())):
        remove_unfinished(place)
