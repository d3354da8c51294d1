"""A crash-safe, append-only file of reviews (JSON Lines)."""

from __future__ import annotations

import os

from vigc.errors import JudgeError, LinkError
from vigc.jobs.store import LineStore

from .review import Review

# The beginning of every line. An incomplete last line is only removed if it begins like this.
_START = b'{"question_id": '


class ReviewFile(LineStore[tuple[str, str], Review]):
    """Reviews by question and order, in memory and, if there is a path, in a file that is synced by `add`.

    Args:
        path: The file (JSON Lines); None to only keep reviews in memory.

    Raises:
        JudgeError: The file has other content.
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
