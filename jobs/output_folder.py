"""Checks the output folder, removes an earlier dataset on request, and removes temporary files at the end."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from vigc.errors import BusyError, GenerationError
from vigc.hub_cards import SAMPLES

from . import ledger, locks

_UNFINISHED = re.compile(r"\..+\.[0-9a-f]+\.tmp")  # as `atomic_write` names them


def check_output(folder: Path) -> bool:
    """Whether a folder holds a vigc plan, intact or damaged; raises a `GenerationError` if it holds other files."""
    if not folder.exists():
        return False
    if not folder.is_dir():
        raise GenerationError(f"{str(folder)!r} is a file: give --output a new or empty folder.")
    # A job that was killed before its plan was written leaves only its state folder.
    if not any(path.name != ledger.STATE for path in folder.iterdir()):
        return (folder / ledger.PLAN).is_file()
    # A folder with shard records and a list of inputs has lost its plan, which is written again.
    if not (folder / ledger.PLAN).is_file() and not ((folder / ledger.INPUTS).is_file() and _has_shards(folder)):
        raise GenerationError(f"{str(folder)!r} exists and is no dataset of vigc: give --output a new or empty folder.")
    return True


def _has_shards(folder: Path) -> bool:
    return any((folder / ledger.SHARDS).glob("*.json"))


def remove_dataset(folder: Path, types: Sequence[str]) -> None:
    """Deletes the files of an earlier job and no others. The plan is deleted last, since it identifies the folder.

    Args:
        folder: The dataset folder.
        types: All types that rows can have; used to find the folders if the plan is damaged.

    Raises:
        BusyError: Another process still writes to it.
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
    except GenerationError:  # without a readable plan, try all known types
        return known


def remove_unfinished(folder: Path) -> None:
    """Deletes temporary files of killed writes in one folder."""
    for path in folder.glob(".*.tmp"):
        if _UNFINISHED.fullmatch(path.name):
            path.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Deletes temporary files of killed writes in the whole dataset. No other process may write to it."""
    state = folder / ledger.STATE
    for place in [folder, *(path for path in folder.iterdir() if path.is_dir() and path != state)]:
        remove_unfinished(place)
    hashes = folder / ledger.HASHES
    for place in (state, folder / ledger.SHARDS, hashes, *(path for path in hashes.glob("*") if path.is_dir())):
        remove_unfinished(place)
