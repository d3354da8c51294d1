"""The reviews of a judge, a line each: a file that is only appended to, and survives any death of the process."""

from __future__ import annotations

import os

from vigc.errors import JudgeError, LinkError
from vigc.jobs.store import LineStore

from .review import Review

# With this begins every line of ours: a last line without end that begins otherwise is not ours to take away.
_START = b'{"question_id": '


class ReviewFile(LineStore[tuple[str, str], Review]):
    """Reviews by question and order, in memory and, if there is a path, on the disk before `add` returns.

    Args:
        path: The file, JSON Lines; None keeps reviews in memory alone.

    Raises:
        JudgeError: The file holds something else.
        BusyError: Another process has it open.
    """

    def __init__(self, path: str | os.PathLike[str] | None) -> None:
        super().__init__(
            path,
            key=lambda review: review.key,
            to_json=Review.to_json,
            from_json=Review.from_json,
            what="review",
            says=lambda review: f"reviews question {review.question_id}",
            error=JudgeError,
            start=_START,
        )

    def __enter__(self) -> ReviewFile:
        try:
            super().__enter__()
        except LinkError as error:
            raise JudgeError(str(error)) from error
        return self
