"""A store for work without shards: JSON Lines that are appended, synced and read again after a kill."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Hashable, Iterable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Generic, TypeVar

from vigc.errors import BusyError, VigcError
from vigc.processing.atomic import sole_writer
from vigc.processing.bounded_parsing import parse_json

from .protocols import Record

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)


class LineStore(Generic[K, T]):
    """Objects by key, in memory and, with a path, on the disk before [`add`] returns.

    The objects of one [`add`] are written together. A last line that a kill truncated is removed when the file is
    opened again. Other damage is an error, and so are two different objects with one key. Identical lines are read
    once. Only one process can have the file open.

    ```python
    with LineStore(path, key=lambda answer: answer.id, to_json=Answer.to_json, from_json=Answer.from_json) as store:
        store.add(answer for answer in asked if answer.id not in store.known)
    ```

    Args:
        path: The JSON Lines file; None keeps objects in memory only.
        key: Returns the key of an object.
        to_json: Makes the record of an object.
        from_json: Makes an object from a record; raises `ValueError`, `TypeError`, `KeyError` or `AttributeError` for
            other records.
        what: Name of a line in messages.
        says: Describes the line of an object in messages: "reviews question 7".
        error: Class of the error for a file with other content.
        start: The first bytes of every line; a truncated last line that begins otherwise is an error.

    Raises:
        VigcError: Of the class `error`: the file has other content, or two objects with one key.
        BusyError: Another process has the file open.
        LinkError: The lock file is a symbolic link.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None,
        *,
        key: Callable[[T], K],
        to_json: Callable[[T], Record],
        from_json: Callable[[Record], T],
        what: str = "record",
        says: Callable[[T], str] | None = None,
        error: type[VigcError] = VigcError,
        start: bytes = b"{",
    ) -> None:
        self.path = None if path is None else Path(path)
        self.known: dict[K, T] = {}
        self._key, self._to_json, self._from_json = key, to_json, from_json
        self._what, self._error, self._start = what, error, start
        self._says = says or (lambda found: f"has the {what} {key(found)!r}")
        self._guard = threading.Lock()
        self._file: int | None = None
        self._broken: OSError | None = None
        self._open = ExitStack()

    def __enter__(self) -> LineStore[K, T]:
        if self.path is None:
            return self
        busy = BusyError(f"another process is writing {str(self.path)!r}: wait for it.")
        with ExitStack() as opened:  # closes the file and the lock if reading fails
            opened.enter_context(sole_writer(self.path, busy))
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            opened.callback(self._close, self._file)
            self._read(self.path, self._file)
            self._open = opened.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def _close(self, file: int) -> None:
        os.close(file)
        self._file = None

    def _read(self, path: Path, file: int) -> None:
        data, whole = path.read_bytes(), 0
        for number, line in enumerate(data.splitlines(keepends=True), 1):
            # 1. Only the last line can lack a newline: a kill truncated it.
            if not line.endswith(b"\n") and self._is_cut(line):
                break
            # 2. Every other line is an object.
            place = f"{str(path)!r}, line {number}"
            try:
                found = self._from_json(parse_json(line))
                known = self.known.setdefault(self._key(found), found)
            except (ValueError, TypeError, KeyError, AttributeError):
                what = self._what
                raise self._error(f"{place} is not a valid {what}: correct the line, or name another file.") from None
            if found != known:
                raise self._error(
                    f"{place} {self._says(found)} a second time, with other content: remove one of the lines."
                )
            whole += len(line)
        # 3. Remove a truncated line.
        if whole < len(data):
            os.ftruncate(file, whole)

    def _is_cut(self, line: bytes) -> bool:
        """Whether a line without newline is a truncated object; zeros may follow after a power failure."""
        return line.startswith(self._start) or self._start.startswith(line.rstrip(b"\0"))

    def add(self, objects: Iterable[T]) -> None:
        """Stores the objects with new keys, the first one of each key; thread-safe.

        Raises:
            OSError: The objects cannot be written. Later calls write nothing.
        """
        with self._guard:
            if self._broken is not None:
                raise self._broken
            fresh: dict[K, T] = {}
            for each in objects:
                if (key := self._key(each)) not in self.known:
                    fresh.setdefault(key, each)
            records = [self._to_json(each) for each in fresh.values()]
            lines = "".join(f"{json.dumps(record, ensure_ascii=True, allow_nan=False)}\n" for record in records)
            if self._file is not None and lines:
                try:
                    _append(self._file, lines.encode())
                except OSError as error:
                    self._broken = error
                    raise
            self.known |= fresh


def _append(file: int, data: bytes) -> None:
    """Appends to a file and syncs it; restores the file after an error."""
    size = os.fstat(file).st_size
    try:
        while data:
            data = data[os.write(file, data) :]
        os.fsync(file)
    except OSError:
        os.ftruncate(file, size)
        raise
