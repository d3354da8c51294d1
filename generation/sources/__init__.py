"""Where inputs come from: folders, JSON files, datasets, annotation files, addresses."""

from .base import Collection, Source

__all__ = ["Collection", "Source"]
