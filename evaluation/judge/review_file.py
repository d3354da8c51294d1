"""The reviews of a judge, a line each: a file that is only appended to, and survives any death of the process."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from types import TracebackType

from filelock import FileLock, Timeout

from vigc.errors import BusyError, JudgeError, LinkError
from vigc.processing.atomic import refuse_link
from vigc.processing.bounded_parsing import parse_json

from .review import Review

# With this begins every line of ours: a last line without end that begins otherwise is not ours to take away.
_START = b'{"question_id": '


class ReviewFile:
    """Reviews by question and order, in memory and, if there is a path, on the disk before [`add`] returns.

    A line is written in one piece and flushed to the disk. A last line that a death cut short is taken away when the
    file is opened again; damage anywhere else is an error.

    Args:
        path: The file, JSON Lines; None keeps reviews in memory alone.

    Raises:
        JudgeError: The file holds something else.
        BusyError: Another process has it open.
    """

    def __init__(self, path: str | os.PathLike[str] | None) -> None:
        self.path = None if path is None else Path(path)
        self.reviews: dict[tuple[str, str], Review] = {}
        self._guard = threading.Lock()
        self._file: int | None = None
        self._broken: OSError | None = None

    def __enter__(self) -> ReviewFile:
        if self.path is None:
            return self
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lock = self.path.with_name(f".{self.path.name}.lock")
        try:
            refuse_link(lock)
        except LinkError as error:
            raise JudgeError(str(error)) from error
        self._lock = FileLock(lock)
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise BusyError(f"another process is writing {str(self.path)!r}: wait for it.") from None
        try:
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            self._read(self.path)
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.path is not None:
            self._close()

    def _close(self) -> None:
        if self._file is not None:
            os.close(self._file)
        self._file = None
        self._lock.release()

    def _read(self, path: Path) -> None:
        data, whole = path.read_bytes(), 0
        lines = data.splitlines(keepends=True)
        for number, line in enumerate(lines, 1):
            if not line.endswith(b"\n") and (line.startswith(_START) or _START.startswith(line)):
                break
            review = _review(line)
            if review is None:
                raise JudgeError(f"{str(path)!r}, line {number} is no review: mend the line, or name another file.")
            if review.key in self.reviews:
                raise JudgeError(
                    f"{str(path)!r}, line {number} reviews question {review.key[0]} a second time: remove one."
                )
            self.reviews[review.key] = review
            whole += len(line)
        if whole < len(data) and self._file is not None:
            os.ftruncate(self._file, whole)

    def add(self, review: Review) -> None:
        """Keeps a review for good; callable from several threads.

        Raises:
            OSError: It cannot be written. Nothing is written after that.
        """
        line = f"{json.dumps(review.to_json(), ensure_ascii=True, allow_nan=False)}\n".encode()
        with self._guard:
            if self._broken is not None:
                raise self._broken
            if self._file is not None:
                try:
                    self._append(self._file, line)
                except OSError as error:
                    self._broken = error
                    raise
            self.reviews[review.key] = review

    @staticmethod
    def _append(file: int, line: bytes) -> None:
        size = os.fstat(file).st_size
        try:
            while line:
                line = line[os.write(file, line) :]
            os.fsync(file)
        except OSError:
            os.ftruncate(file, size)
            raise


def _review(line: bytes) -> Review | None:
    """The review in a line; None if it holds none."""
    try:
        return Review.from_json(parse_json(line))
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
