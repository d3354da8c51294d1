"""Locks of a dataset folder. The system releases them when the process dies."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from vigc.errors import GenerationError, LinkError
from vigc.processing.atomic import refuse_link

STATE = "_vigc"
LOCKS = f"{STATE}/locks"


@contextmanager
def hold(folder: Path, name: str, *, wait: bool = False) -> Iterator[bool]:
    """Holds the lock `name` of a dataset folder; yields whether it was free.

    Args:
        folder: The dataset folder.
        name: The name of the lock: "plan", "finish", a rank or a shard.
        wait: Whether to wait until the lock is free, instead of yielding False.

    Raises:
        GenerationError: The lock file or its folder is a symbolic link, which could lead to files elsewhere.
    """
    path = folder / LOCKS / f"{name}.lock"
    _refuse_links(folder, path)
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path, timeout=-1 if wait else 0, thread_local=False)
        try:
            lock.acquire()
            break
        except Timeout:
            yield False
            return
        except FileNotFoundError:  # another process finished the job and removed the locks
            continue
    try:
        yield True
    finally:
        lock.release()


def _refuse_links(folder: Path, path: Path) -> None:
    try:
        for place in (folder / STATE, folder / LOCKS, path):
            refuse_link(place)
    except LinkError as error:
        raise GenerationError(str(error)) from error


def held(folder: Path) -> list[str]:
    """Names of the locks that are held now."""
    names = []
    for path in sorted((folder / LOCKS).glob("*.lock")):
        with hold(folder, path.stem) as free:
            if not free:
                names.append(path.stem)
    return names


def clear(folder: Path, mine: str) -> None:
    """Removes the lock files that no other process holds.

    Only the holder of a lock removes its file. A waiting process notices this, because filelock compares the locked
    file with the one on the disk.

    Args:
        folder: The dataset folder.
        mine: The lock that the caller holds.
    """
    if os.name != "posix":  # Windows cannot remove open files; they are empty
        return
    for path in (folder / LOCKS).glob("*.lock"):
        if path.stem == mine:
            path.unlink(missing_ok=True)
            continue
        with hold(folder, path.stem) as free:
            if free:
                path.unlink(missing_ok=True)
    with suppress(OSError):  # not empty: another process removes it later
        (folder / LOCKS).rmdir()
