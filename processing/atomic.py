"""Files and folders that are there whole or not at all, each by one writer at a time."""

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
    """Writes a file so that it is there whole or not at all, whenever the process or the machine dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Nobody can foresee the name and put a link there; "x" follows none, either.
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
    """A folder to write into that becomes `target` at the end, and is gone when something failed.

    What a writer left that was killed is removed. Whether it lives is told by a lock, not by its process number, which
    another machine or container may have given to somebody else.

    Args:
        target: What is written: new, or an empty folder.

    Raises:
        BusyError: Another process is writing it.
        LinkError: Its lock is a symbolic link.
    """
    unfinished = target.with_name(f".{target.name}.tmp")
    busy = BusyError(f"{str(target)!r} is being written by another process: wait for its end.")
    with sole_writer(target, busy):
        try:
            if unfinished.is_symlink():  # somebody else's, who leads us elsewhere
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
    """Keeps other processes from writing the same file or folder, by a lock beside it that dies with its holder.

    Args:
        target: What is written.
        busy: Raised where another process is writing it.

    Raises:
        LinkError: The lock is a symbolic link.
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
        if os.name == "posix":  # elsewhere a file in use cannot be removed; the empty one harms nobody
            path.unlink(missing_ok=True)
        lock.release()


def refuse_link(path: Path) -> None:
    """Makes sure that what is about to be opened is no symbolic link.

    Raises:
        LinkError: It is one.
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
