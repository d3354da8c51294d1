"""Atomic writes of files and folders, with a lock that admits one writer at a time."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from vigc.errors import BusyError, LinkError


def atomic_write(path: Path, data: bytes | Iterable[bytes]) -> None:
    """Writes a file atomically: after a crash the file is complete, or it is as it was before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # The name cannot be guessed, so nobody can plant a link there; mode "x" does not follow links either.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        with temporary.open("xb") as file:
            for part in (data,) if isinstance(data, bytes) else data:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """A temporary folder to write into: renamed to `target` on success, deleted after an error.

    The remains of a killed writer are deleted first. A lock shows whether a writer is alive; its process id does not,
    because another machine or container may have given the same id to another process.

    Args:
        target: The folder to create. It does not exist, or is empty.

    Raises:
        BusyError: Another process is writing the folder.
        LinkError: The lock file is a symbolic link.
    """
    unfinished = target.with_name(f".{target.name}.tmp")
    busy = BusyError(f"{str(target)!r} is being written by another process: wait for it to finish.")
    with sole_writer(target, busy):
        try:
            if unfinished.is_symlink():  # planted: it would redirect the output
                unfinished.unlink()
            elif unfinished.exists():
                shutil.rmtree(unfinished)
            unfinished.mkdir()
            yield unfinished
            if target.exists():
                target.rmdir()
            unfinished.rename(target)
            _sync_folder(target.parent)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)


@contextmanager
def sole_writer(target: Path, busy: Exception) -> Iterator[None]:
    """Locks a file or folder against other writers. The system releases the lock when its holder dies.

    Args:
        target: The file or folder to write. The lock file lies beside it.
        busy: The error to raise if another process holds the lock.

    Raises:
        LinkError: The lock file is a symbolic link.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    path = target.with_name(f".{target.name}.lock")
    refuse_link(path)
    lock = FileLock(path, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise busy from error
    try:
        yield
    finally:
        if os.name == "posix":  # Windows cannot delete an open file; an empty lock file is harmless
            path.unlink(missing_ok=True)
        lock.release()


def refuse_link(path: Path) -> None:
    """Checks that a path is not a symbolic link.

    Raises:
        LinkError: The path is a symbolic link.
    """
    if path.is_symlink():
        raise LinkError(f"{str(path)!r} is a symbolic link, which is not followed: remove it.")


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
