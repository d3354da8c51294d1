"""Exports dataset folders to published layouts, and mixes datasets."""

from typing import TYPE_CHECKING

from vigc.lazy import lazy_names

__all__ = ["export_dataset"]

if TYPE_CHECKING:
    from .export import export_dataset
else:  # unseen by type checkers, which would otherwise accept any name
    __getattr__, __dir__ = lazy_names(__name__, {".export": ("export_dataset",)})
