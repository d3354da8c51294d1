"""A store for work without shards: a line of JSON for each object, appended, synced, and read again after a kill."""

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
    """Objects by their keys, in memory and, if there is a path, on the disk before [`add`] returns.

    What [`add`] is given is written in one piece. A last line that a kill cut short is removed when the file is opened
    again; damage anywhere else is an error, and so are two different objects of one key: which of them counts is not
    known. A line that is there twice is read once. One process has the file open at a time.

    ```python
    with LineStore(path, key=lambda answer: answer.id, to_json=Answer.to_json, from_json=Answer.from_json) as store:
        store.add(answer for answer in asked if answer.id not in store.known)
    ```

    Args:
        path: The file, JSON Lines; None keeps objects in memory alone.
        key: What identifies an object.
        to_json: Makes the record of an object.
        from_json: Makes an object of a record; where it is none, it raises `ValueError`, `TypeError`, `KeyError` or
            `AttributeError`.
        what: What a line holds, for messages.
        says: What a line says that holds an object, for messages: "reviews question 7".
        error: Which error is raised for a file that holds something else.
        start: What every line begins with: a cut-off last line that begins otherwise is not ours, and is an error.

    Raises:
        VigcError: Of the class `error`: the file holds something else, or two objects of one key.
        BusyError: Another process has it open.
        LinkError: Its lock is a symbolic link.
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
        with ExitStack() as opened:  # what is opened is closed again if the file cannot be read
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
            # 1. Only the last line can be without an end: a kill cut it short.
            if not line.endswith(b"\n") and self._is_cut(line):
                break
            # 2. Every other one is an object.
            place = f"{str(path)!r}, line {number}"
            try:
                found = self._from_json(parse_json(line))
            except (ValueError, TypeError, KeyError, AttributeError):
                raise self._error(f"{place} is no {self._what}: mend the line, or name another file.") from None
            key = self._key(found)
            if key in self.known and found != self.known[key]:
                raise self._error(f"{place} {self._says(found)} a second time, and otherwise: remove one.")
            self.known[key] = found
            whole += len(line)
        # 3. What was cut short is removed.
        if whole < len(data):
            os.ftruncate(file, whole)

    def _is_cut(self, line: bytes) -> bool:
        """Whether a line without end is the beginning of one of ours; after an outage zeros may stand for the rest."""
        return line.startswith(self._start) or self._start.startswith(line.rstrip(b"\0"))

    def add(self, objects: Iterable[T]) -> None:
        """Keeps objects whose keys are new for good, of several the first; callable from several threads.

        Raises:
            OSError: They cannot be written. Nothing is written after that.
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
    """Writes at the end of a file and waits for the disk; after an error the file is as it was."""
    size = os.fstat(file).st_size
    try:
        while data:
            data = data[os.write(file, data) :]
        os.fsync(file)
    except OSError:
        os.ftruncate(file, size)
        raise
