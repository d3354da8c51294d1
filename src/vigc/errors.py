"""All exceptions of vigc in one tree, each with the exit code of the command that it ends.

    VigcError                    2    what was given cannot be worked with: change it
    ├── ConflictError            4    the folder or file holds other work
    ├── BusyError                5    another process is writing the same thing
    ├── TransientError          75    disk, memory or network: the same command succeeds later
    ├── GenerationError          2    `vigc generate`, `vigc correct`, `vigc report`
    ├── EvaluationError          2    `vigc evaluate`
    │   └── JudgeError           2    `vigc judge`
    │       └── RequestRefusedError   one request that a judge refuses; it is recorded, and the others continue
    ├── TrainingError            2    `vigc train`
    │   ├── CheckpointError           a checkpoint that is damaged or incomplete
    │   └── DivergenceError           the loss, a gradient or a weight is NaN or infinite
    ├── MixError                 2    `vigc mix`
    ├── ExportError              2    `vigc export`
    ├── PushError                2    `vigc push`
    ├── LinkError                2    a link stands where vigc writes
    ├── NestingError             2    JSON or YAML nested too deeply
    ├── DatasetError             2    a dataset that is not loaded
    ├── LayoutError              2    an entry that is not of the layout it is read in
    ├── AnnotationError          2    a file of annotations
    └── ImageError               2    one image; in a job it is rejected with this reason, and the job continues
        ├── ImagePathError            a name that must not be followed
        ├── ImageSizeError            more bytes, pixels or passes than are safe to decode
        ├── ImageDataError            no image, empty, truncated or corrupt
        └── NoImageError              an input that is whole and has no image

This module imports nothing of vigc, and files that travel with a model do not use it.
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
    """A text of at most `most` characters: of a longer one its beginning, and how long it is.

    Every name and reason that strangers may have written passes through here on its way to a message or a record.
    """
    if len(text) <= most:
        return text
    ending = f"... ({len(text):,} characters)"
    return text[: most - len(ending)] + ending


def short(value: Any) -> str:
    """A value as messages show it: of a long one the beginning."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def first_line(error: BaseException) -> str:
    """The first line of what an error says: libraries go on with advice. Of one that says nothing, its type."""
    lines = str(error).strip().splitlines()
    return cut(lines[0] if lines else type(error).__name__, MAX_REASON)


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


class VigcError(ValueError):
    """Something that was given cannot be worked with. The message says what, the value, and the fix.

    Attributes:
        exit_code: Of the command that the error ends.
    """

    exit_code = 2


class ConflictError(VigcError):
    """The folder or file holds other work: other settings, other inputs, or files that are not vigc's."""

    exit_code = 4


class BusyError(VigcError):
    """Another process is writing the same folder, file or part of a job."""

    exit_code = 5


class TransientError(VigcError):
    """Disk, memory, network or a server is unavailable: the same command finishes the work later."""

    exit_code = 75


class GenerationError(VigcError):
    """A job whose inputs, settings or folder cannot be worked with."""


class EvaluationError(VigcError):
    """A benchmark whose files, settings or answers cannot be worked with."""


class JudgeError(EvaluationError):
    """Questions, answers, a judge or its reviews that cannot be worked with."""


class RequestRefusedError(JudgeError):
    """One request that a judge refuses, for its content or its length. It is recorded, and the others continue."""


class TrainingError(VigcError):
    """A recipe, data or a checkpoint that cannot be trained on, or a training run that must not continue."""


class CheckpointError(TrainingError):
    """A checkpoint that is damaged or incomplete."""


class DivergenceError(TrainingError):
    """The loss, a gradient or a weight is NaN or infinite."""


class MixError(VigcError):
    """Datasets that cannot be mixed as asked."""


class ExportError(VigcError):
    """A dataset that cannot be exported as asked."""


class PushError(VigcError):
    """A folder that cannot be published as it is, or a request that the Hub refuses."""


class LinkError(VigcError):
    """A symbolic link stands where a file or folder of vigc is written, and would lead the writing elsewhere."""


class NestingError(VigcError):
    """JSON or YAML in more levels than any file of the field has.

    Args:
        most: How many levels are read.
    """

    def __init__(self, most: int) -> None:
        super().__init__(f"is nested more than {most} levels deep")


class DatasetError(VigcError):
    """A dataset that is not loaded: it names files that are not its own, or its settings cannot be read."""


class LayoutError(VigcError):
    """An entry that is not of the layout it is read in: which field, its value, and what is expected."""


class AnnotationError(VigcError):
    """A file of annotations that is refused.

    Args:
        path: The file.
        reason: What is wrong, the value, and the fix.
        index: Which entry of its list, counted from 0, if it is one of them.
        line: In which line, counted from 1, where that is known.
    """

    def __init__(
        self, path: str | os.PathLike[str], reason: str, index: int | None = None, line: int | None = None
    ) -> None:
        place = "" if line is None else f", line {line}"
        place += "" if index is None else f", entry {index}"
        self.path, self.reason, self.index, self.line = path, cut(reason, MAX_REASON), index, line
        super().__init__(f"{os.fspath(path)}{place}: {self.reason}")


class ImageError(VigcError):
    """An image that is refused.

    Args:
        name: The file, as the user knows it.
        reason: Why, and what can be done about it.
    """

    def __init__(self, name: str, reason: str) -> None:
        self.name, self.reason = cut(name, MAX_REASON), cut(reason, MAX_REASON)
        super().__init__(f"picture {self.name!r} {self.reason}")


class ImagePathError(ImageError):
    """A name that must not be followed: outside the root of the images, an address, no file name at all."""


class ImageSizeError(ImageError):
    """More bytes, pixels or passes over them than are safe to decode."""


class ImageDataError(ImageError):
    """A file that is no image, empty, truncated or corrupt."""


class NoImageError(ImageError):
    """An input that is whole and has no image."""


_TRANSIENT_NAMES = (
    *("ENOSPC", "EDQUOT", "EIO", "ENODEV", "ESTALE", "ETIMEDOUT"),
    *("EMFILE", "ENFILE", "ENOMEM", "EAGAIN", "EBUSY", "ENOBUFS"),
)
_TRANSIENT = {getattr(errno, name) for name in _TRANSIENT_NAMES if hasattr(errno, name)}


# How torch, CUDA, oneDNN, the C++ library and the system say that memory did not suffice. A "primitive descriptor" that
# oneDNN cannot create is another matter: an operation that it does not have.
_OUT_OF_MEMORY = re.compile(
    r"[Oo]ut of memory|CUBLAS_STATUS_ALLOC_FAILED|CUDNN_STATUS_(ALLOC_FAILED|NOT_SUPPORTED)|DefaultCPUAllocator|"
    r"could not create a (primitive(?! desc)|memory)|bad_?alloc|[Cc]annot allocate memory|can't start new thread"
)


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether memory did not suffice: of the process, or of an accelerator."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # the latter is torch's
        return True
    return isinstance(error, RuntimeError) and bool(_OUT_OF_MEMORY.search(str(error)))


def is_transient(error: BaseException | None) -> bool:
    """Whether the machine is the cause and a later try may succeed: a full disk, no memory, too many open files."""
    return is_out_of_memory(error) or (isinstance(error, OSError) and error.errno in _TRANSIENT)


# A file system that is not to be written stays so until somebody changes that: trying again is of no use.
_FORBIDDEN = {
    errno.EROFS: "the file system is read-only: mount it for writing, or give another --output",
    errno.EACCES: "permission denied: change the rights of its folder, or give another --output",
    errno.EPERM: "the operation is not permitted: change the rights of its folder, or give another --output",
}


@contextmanager
def machine_errors() -> Iterator[None]:
    """Too little memory, and files that must not be written, as errors of vigc in one sentence.

    Raises:
        TransientError: Memory does not suffice.
        VigcError: The file system is read-only, or the rights do not suffice.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise TransientError(
            f"Memory does not suffice ({cut(first_line(error))}): free some, or take a smaller --batch-size or "
            "--dtype, and run the same command again."
        ) from error
    except OSError as error:
        if error.errno not in _FORBIDDEN:
            raise
        raise VigcError(f"{error.filename!r} cannot be used: {_FORBIDDEN[error.errno]}.") from error
