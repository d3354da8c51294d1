"""Which errors are the machine's trouble and not the input's: the same work succeeds once they are over."""

from __future__ import annotations

import errno

_NAMES = (
    *("ENOSPC", "EDQUOT", "EIO", "ENODEV", "ESTALE", "ETIMEDOUT"),
    *("EMFILE", "ENFILE", "ENOMEM", "EAGAIN", "EBUSY", "ENOBUFS"),
)
_PASSING = {getattr(errno, name) for name in _NAMES if hasattr(errno, name)}


def is_passing(error: BaseException | None) -> bool:
    """Whether an error is the machine's and may be gone at the next try: a full disk, too many open files."""
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in _PASSING)
