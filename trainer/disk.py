"""Turns disk errors of any library into `OSError`."""

from __future__ import annotations

import errno
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Messages of Rust libraries (safetensors, tokenizers), and of torch, whose messages have no error number.
_NUMBERED = re.compile(r"\(os error (\d+)\)")
_TORCH_WRITER = ("inline_container", "PytorchStreamWriter")
_PROBE_BYTES = 1 << 20


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Raises an `OSError` with its errno if a library that writes to `folder` raises a disk error as another class.

    The caller can then recognize a full disk as a transient error.
    """
    try:
        yield
    except OSError:
        raise
    except Exception as error:  # tokenizers has no exception class
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
        # A test write finds the errno that torch dropped. If the error is over by now, EIO stands for it.
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(_PROBE_BYTES))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return error.errno or errno.EIO
    return errno.EIO
