"""What goes wrong with the machine, told apart from what is wrong with an input, and said in a sentence."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from accelerate.utils.memory import should_reduce_batch_size

from vigc.errors import GenerationError, TransientError, is_out_of_memory

# A file system that is not to be written stays so until somebody changes that: trying again is of no use.
_FORBIDDEN = {
    errno.EROFS: "the file system is read-only: mount it for writing, or give another --output",
    errno.EACCES: "permission denied: change the rights of its folder, or give another --output",
    errno.EPERM: "the operation is not permitted: change the rights of its folder, or give another --output",
}


def is_full(error: BaseException) -> bool:
    """Whether an error says that memory did not suffice."""
    return is_out_of_memory(error) or (isinstance(error, RuntimeError) and should_reduce_batch_size(error))


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
