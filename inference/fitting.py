"""Halves batches that do not fit into memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from vigc.errors import TransientError, is_out_of_memory

T = TypeVar("T")


class Fitting:
    """Runs work in batches and halves a batch on out-of-memory; later batches keep the smaller size.

    `halved` counts the halvings. `most` is the current largest batch; set it to None to remove the limit.
    """

    def __init__(self) -> None:
        self.most: int | None = None
        self.halved = 0

    def run(self, count: int, work: Callable[[slice], T]) -> list[T]:
        """Calls `work` with slices that cover `count` items.

        Raises:
            TransientError: A single item does not fit.
        """
        results: list[T] = []
        start = 0
        while start < count:
            size = min(self.most or count, count - start)
            result = _unless_full(work, slice(start, start + size))
            if result is not None:
                results.append(result)
                start += size
            else:  # outside of the handler, where the traceback no longer holds memory
                self.most = self.halve(size)
        return results

    def halve(self, size: int) -> int:
        """Half of a batch size that did not fit.

        Raises:
            TransientError: The size is 1.
        """
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if size == 1:
            raise TransientError("Not enough memory for one image: free some, or give a smaller --dtype.")
        self.halved += 1
        return size // 2


def _unless_full(work: Callable[[slice], T], items: slice) -> T | None:
    try:
        return work(items)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return None
