"""Errors of the disk, said as such by whichever library wrote."""

from __future__ import annotations

import errno
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Rust's (safetensors, tokenizers), and torch's, which keeps no number.
_NUMBERED = re.compile(r"\(os error (\d+)\)")
_TORCH_WRITER = ("inline_container", "PytorchStreamWriter")
_PROBE_BYTES = 1 << 20


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Raises an `OSError` with its number where a library that writes below `folder` hides it in a text.

    A full disk is then known as one, which passes, by whoever decides what becomes of the run.
    """
    try:
        yield
    except OSError:
        raise
    except Exception as error:  # tokenizers raises no class of its own
        number = _number(str(error), folder)
        if number is None:
            raise
        raise OSError(number, os.strerror(number), str(folder)) from error


def _number(text: str, folder: Path) -> int | None:
    if found := _NUMBERED.search(text):
        return int(found[1])
    if not any(word in text for word in _TORCH_WRITER):
        return None
    try:
        # The disk says what it told torch; an error that is over by now was one of reading or writing.
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(_PROBE_BYTES))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return error.errno or errno.EIO
    return errno.EIO
