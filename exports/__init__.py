"""Exports dataset folders to published layouts, and mixes datasets."""

from .export import export_dataset

__all__ = ["export_dataset"]
