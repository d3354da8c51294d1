"""What goes wrong with the machine, told apart from what is wrong with an input, and said in a sentence."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate.utils.memory import should_reduce_batch_size

from vigc.errors import GenerationError, TransientError

# How CUDA, oneDNN, the C++ library and the system say that memory did not suffice, where it is not torch that asked.
# A "primitive descriptor" that oneDNN cannot create is another matter: an operation that it does not have.
_FULL = re.compile(
    r"CUDA error: out of memory|CUBLAS_STATUS_ALLOC_FAILED|CUDNN_STATUS_ALLOC_FAILED|DefaultCPUAllocator|"
    r"could not create a (primitive(?! desc)|memory)|bad_?alloc|[Cc]annot allocate memory|can't start new thread"
)
# A file system that is not to be written stays so until somebody changes that: trying again is of no use.
_FORBIDDEN = {
    errno.EROFS: "the file system is read-only: mount it for writing, or give another --output",
    errno.EACCES: "permission denied: change the rights of its folder, or give another --output",
    errno.EPERM: "the operation is not permitted: change the rights of its folder, or give another --output",
}


def is_full(error: BaseException) -> bool:
    """Whether an error says that memory did not suffice."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and (should_reduce_batch_size(error) or bool(_FULL.search(str(error))))


@contextmanager
def saying_trouble() -> Iterator[None]:
    """Too little memory, and files that must not be written, as a `GenerationError` in one sentence.

    Raises:
        TransientError: Memory does not suffice.
        GenerationError: The file system is read-only, or the rights do not suffice.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_full(error):
            raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise TransientError(
            f"Memory does not suffice ({reason[:200]}): free some, or take a smaller --batch-size or --dtype, and run "
            "the same command again."
        ) from error
    except OSError as error:
        if error.errno not in _FORBIDDEN:
            raise
        raise GenerationError(f"{error.filename!r} cannot be used: {_FORBIDDEN[error.errno]}.") from error
