"""Where inputs come from: folders, JSON files, datasets, annotation files, addresses."""

from typing import TYPE_CHECKING

from vigc.lazy import lazy_names

__all__ = ["Collection", "Source"]

if TYPE_CHECKING:
    from .base import Collection, Source
else:  # unseen by type checkers, which would otherwise accept any name
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            ".base": ("Collection", "Source"),
        },
    )
