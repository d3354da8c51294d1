"""Locks of a dataset folder. The system releases them when their process dies."""

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
        name: What is locked: "plan", "finish", a rank, a shard.
        wait: Wait until it is free, instead of going on without it.

    Raises:
        GenerationError: A link stands where locks lie, and would have files made and removed elsewhere.
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
        except FileNotFoundError:  # another process finished the job and cleared the locks in between
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
    """Names of the locks that some process holds now."""
    names = []
    for path in sorted((folder / LOCKS).glob("*.lock")):
        with hold(folder, path.stem) as free:
            if not free:
                names.append(path.stem)
    return names


def clear(folder: Path, mine: str) -> None:
    """Removes the lock files that nobody else holds.

    A file is only removed by who holds its lock, and who waited for it notices: filelock compares the file that it
    locked with the one that is there.

    Args:
        folder: The dataset folder.
        mine: The lock that the caller holds.
    """
    if os.name != "posix":  # elsewhere files in use cannot be removed; the empty files harm nobody
        return
    for path in (folder / LOCKS).glob("*.lock"):
        if path.stem == mine:
            path.unlink(missing_ok=True)
            continue
        with hold(folder, path.stem) as free:
            if free:
                path.unlink(missing_ok=True)
    with suppress(OSError):  # another process is at work: it clears up itself
        (folder / LOCKS).rmdir()
