"""Which inputs are excluded before anything is generated: listed ids, look-alikes, exact copies."""

from .exclusion import ExcludedIds, ExcludedPictures

__all__ = ["ExcludedIds", "ExcludedPictures"]
