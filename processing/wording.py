"""Values and errors of unknown size as messages word them: bounded, and with what is missing and where."""

from __future__ import annotations

MAX_SHOWN = 200
MAX_REASON = 1_000


def cut(text: str, most: int = MAX_SHOWN) -> str:
    """A text of at most `most` characters: of a longer one its beginning, and how long it is.

    Every name and reason that strangers may have written passes through here on its way to a message or a record.
    """
    if len(text) <= most:
        return text
    ending = f"... ({len(text):,} characters)"
    return text[: most - len(ending)] + ending


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
