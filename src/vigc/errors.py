"""All exceptions of vigc, with the exit codes of the command.

    VigcError                    2    invalid input, settings or files: change them
    ├── ConflictError            4    the folder or file belongs to another job
    ├── BusyError                5    another process is writing the same folder or file
    ├── TransientError          75    disk, memory or network: retry the same command later
    ├── GenerationError          2    `vigc generate`, `vigc correct`, `vigc report`
    ├── EvaluationError          2    `vigc evaluate`
    │   └── JudgeError           2    `vigc judge`
    │       └── RequestRefusedError   a judge refused one request; it is recorded, and the others continue
    ├── TrainingError            2    `vigc train`
    │   ├── CheckpointError           a checkpoint that is damaged or incomplete
    │   └── DivergenceError           the loss, a gradient or a weight is NaN or infinite
    ├── MixError                 2    `vigc mix`
    ├── ExportError              2    `vigc export`
    ├── PushError                2    `vigc push`
    ├── LinkError                2    an output path is a symbolic link
    ├── NestingError             2    JSON or YAML nested too deeply
    ├── DatasetError             2    a dataset that cannot be loaded
    ├── LayoutError              2    an entry that does not match the layout
    ├── AnnotationError          2    an invalid annotation file
    └── ImageError               2    an invalid image; a job skips it with this reason and continues
        ├── ImagePathError            an unsafe or invalid file name
        ├── ImageSizeError            more bytes, pixels or passes than are safe to decode
        ├── ImageDataError            not an image, empty, truncated or corrupt
        └── NoImageError              a valid input without an image

This module imports nothing of vigc. The code files in model folders (`*_vigc.py`) do not use it.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

MAX_SHOWN = 200
MAX_REASON = 1_000


def cut(text: str, most: int = MAX_SHOWN) -> str:
    """Truncates a text to `most` characters, ending with its original length.

    All untrusted names and reasons pass through here before they are printed or recorded.
    """
    if len(text) <= most:
        return text
    ending = f"... ({len(text):,} characters)"
    return text[: most - len(ending)] + ending


def short(value: Any) -> str:
    """The `repr` of a value for messages, truncated."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def first_line(error: BaseException) -> str:
    """The first line of an error's message, without the advice that libraries append; its type if it has no message."""
    lines = str(error).strip().splitlines()
    return cut(lines[0] if lines else type(error).__name__, MAX_REASON)


def reason_of(error: BaseException, *, path: bool = True) -> str:
    """The message of an error on one line. An OSError is shown without its number; a KeyError as "'x' is missing".

    Args:
        error: The error.
        path: Whether to include the path of an OSError; False if the surrounding message names the file.
    """
    if isinstance(error, KeyError):
        reason = f"{error.args[0]!r} is missing" if error.args else "a field is missing"
    elif isinstance(error, OSError) and error.strerror:
        reason = error.strerror + (f": {str(error.filename)!r}" if path and error.filename is not None else "")
    else:
        reason = " ".join(str(error).split()) or type(error).__name__
    return cut(reason, MAX_REASON)


class VigcError(ValueError):
    """Invalid input, settings or files. The message gives what is wrong, the value and the fix.

    Attributes:
        exit_code: Exit code of a command that ends with this error.
    """

    exit_code = 2


class ConflictError(VigcError):
    """The folder or file belongs to another job (other settings or inputs), or has files that vigc did not write."""

    exit_code = 4


class BusyError(VigcError):
    """Another process is writing the same folder, file or part of a job."""

    exit_code = 5


class TransientError(VigcError):
    """Disk, memory, network or a server is unavailable: retry the same command later."""

    exit_code = 75


class GenerationError(VigcError):
    """Invalid inputs, settings or output folder of a job."""


class EvaluationError(VigcError):
    """Invalid files, settings or answers of a benchmark."""


class JudgeError(EvaluationError):
    """Invalid questions, answers, judge settings or reviews."""


class RequestRefusedError(JudgeError):
    """A judge refused one request for its content or length. It is recorded, and the others continue."""


class TrainingError(VigcError):
    """An invalid recipe, dataset or checkpoint, or a training run that must stop."""


class CheckpointError(TrainingError):
    """A checkpoint that is damaged or incomplete."""


class DivergenceError(TrainingError):
    """The loss, a gradient or a weight is NaN or infinite."""


class MixError(VigcError):
    """Datasets that cannot be mixed with these settings."""


class ExportError(VigcError):
    """A dataset that cannot be exported with these settings."""


class PushError(VigcError):
    """A folder that cannot be published, or a request that the Hub refused."""


class LinkError(VigcError):
    """An output path is a symbolic link, which would redirect the output."""


class NestingError(VigcError):
    """JSON or YAML that is nested too deeply.

    Args:
        most: The maximum depth.
    """

    def __init__(self, most: int) -> None:
        super().__init__(f"is nested more than {most} levels deep")


class DatasetError(VigcError):
    """A dataset that cannot be loaded: it names files outside its folder, or its configuration is invalid."""


class LayoutError(VigcError):
    """An entry that does not match the layout. The message gives the field, its value and the expected value."""


class AnnotationError(VigcError):
    """An invalid annotation file.

    Args:
        path: The file.
        reason: What is wrong, the value, and the fix.
        index: Index of the invalid entry, from 0, if there is one.
        line: Line number, from 1, if it is known.
    """

    def __init__(
        self, path: str | os.PathLike[str], reason: str, index: int | None = None, line: int | None = None
    ) -> None:
        place = "" if line is None else f", line {line}"
        place += "" if index is None else f", entry {index}"
        self.path, self.reason, self.index, self.line = path, cut(reason, MAX_REASON), index, line
        super().__init__(f"{os.fspath(path)}{place}: {self.reason}")


class ImageError(VigcError):
    """An image that cannot be used.

    Args:
        name: The file name that the user gave.
        reason: What is wrong, and the fix.
    """

    def __init__(self, name: str, reason: str) -> None:
        self.name, self.reason = cut(name, MAX_REASON), cut(reason, MAX_REASON)
        super().__init__(f"image {self.name!r} {self.reason}")


class ImagePathError(ImageError):
    """An unsafe or invalid name: outside the image folder, a URL, or not a file name."""


class ImageSizeError(ImageError):
    """An image with more bytes, pixels or passes than are safe to decode."""


class ImageDataError(ImageError):
    """A file that is not an image, or is empty, truncated or corrupt."""


class NoImageError(ImageError):
    """A valid input without an image."""


_TRANSIENT_NAMES = (
    *("ENOSPC", "EDQUOT", "EIO", "ENODEV", "ESTALE", "ETIMEDOUT"),
    *("EMFILE", "ENFILE", "ENOMEM", "EAGAIN", "EBUSY", "ENOBUFS"),
)
_TRANSIENT = {getattr(errno, name) for name in _TRANSIENT_NAMES if hasattr(errno, name)}


# Out-of-memory messages of torch, CUDA, oneDNN, the C++ library and the system. A "primitive descriptor" that oneDNN
# cannot create is an unsupported operation instead.
_OUT_OF_MEMORY = re.compile(
    r"[Oo]ut of memory|CUBLAS_STATUS_ALLOC_FAILED|CUDNN_STATUS_(ALLOC_FAILED|NOT_SUPPORTED)|DefaultCPUAllocator|"
    r"could not create a (primitive(?! desc)|memory)|bad_?alloc|[Cc]annot allocate memory|can't start new thread"
)


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an error means that the process or an accelerator ran out of memory."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # the latter is torch's
        return True
    return isinstance(error, RuntimeError) and bool(_OUT_OF_MEMORY.search(str(error)))


def is_transient(error: BaseException | None) -> bool:
    """Whether retrying later may succeed, as after a full disk, too little memory or too many open files."""
    return is_out_of_memory(error) or (isinstance(error, OSError) and error.errno in _TRANSIENT)


# Not transient: retrying does not help until someone changes the permissions.
_FORBIDDEN = {
    errno.EROFS: "the file system is read-only: mount it for writing, or give another --output",
    errno.EACCES: "permission denied: change the rights of its folder, or give another --output",
    errno.EPERM: "the operation is not permitted: change the rights of its folder, or give another --output",
}


@contextmanager
def machine_errors() -> Iterator[None]:
    """Turns out-of-memory errors and missing write permissions into one-line errors.

    Raises:
        TransientError: Out of memory.
        VigcError: The file system is read-only, or a permission is missing.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise TransientError(
            f"Out of memory ({cut(first_line(error))}): free some memory, or give a smaller --batch-size or "
            "--dtype, and run the same command again."
        ) from error
    except OSError as error:
        if error.errno not in _FORBIDDEN:
            raise
        raise VigcError(f"{error.filename!r} cannot be used: {_FORBIDDEN[error.errno]}.") from error
