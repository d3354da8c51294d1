"""The SHA-256 of a file."""

from __future__ import annotations

import hashlib
import stat
from pathlib import Path

from vigc.errors import TransientError, is_transient


def file_digest(path: Path, most: int | None = None) -> str | None:
    """SHA-256 of a file in hexadecimal digits; None if it is not a regular file, is unreadable or larger than `most`.

    Args:
        path: The file.
        most: Limit in bytes; None for no limit. Reading takes 1 to 10 seconds per gigabyte.

    Raises:
        TransientError: Reading failed with a transient error.
    """
    digest = hashlib.sha256()
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode) or (most is not None and found.st_size > most):  # a pipe would never end
            return None
        with path.open("rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    except (OSError, ValueError) as error:  # ValueError: not a file name. The caller records the reason
        if is_transient(error):
            raise TransientError(f"{error}: run the same command again later.") from error
        return None
    return digest.hexdigest()
