"""Dataset folders become training files in published layouts, and several become one mix."""

from .export import export_dataset

__all__ = ["export_dataset"]
