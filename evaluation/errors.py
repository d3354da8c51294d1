"""What goes wrong, and the exit code that says what to do about it."""

from __future__ import annotations


class EvaluationError(ValueError):
    """Data, settings or files that cannot be worked with. The message says what, the value, and the fix."""

    exit_code = 2


class ConflictError(EvaluationError):
    """The files beside the output are those of another run."""

    exit_code = 4


class BusyError(EvaluationError):
    """Another process is writing the same output."""

    exit_code = 5
