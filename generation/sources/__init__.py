"""Sources of inputs: folders, JSON files, datasets, annotation files, URLs."""

from typing import TYPE_CHECKING

from vigc.lazy import lazy_names

__all__ = ["Collection", "Source"]

if TYPE_CHECKING:
    from .base import Collection, Source
else:  # hidden from type checkers, which would otherwise accept any name
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            ".base": ("Collection", "Source"),
        },
    )
