"""Values and errors of unknown size as messages word them: bounded, and with what is missing and where."""

from __future__ import annotations

from vigc.errors import MAX_REASON, MAX_SHOWN, cut

__all__ = ["MAX_REASON", "MAX_SHOWN", "cut", "reason_of"]


def reason_of(error: BaseException, *, path: bool = True) -> str:
    """What an error says, on one line: of the system's errors without their number, of a missing key that it is.

    Args:
        error: The error.
        path: Whether the path of a system's error is said too; False where the sentence around it names the file.
    """
    if isinstance(error, KeyError):
        said = f"{error.args[0]!r} is missing" if error.args else "a field is missing"
    elif isinstance(error, OSError) and error.strerror:
        said = error.strerror + (f": {str(error.filename)!r}" if path and error.filename is not None else "")
    else:
        said = " ".join(str(error).split()) or type(error).__name__
    return cut(said, MAX_REASON)
