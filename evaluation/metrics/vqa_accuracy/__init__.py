"""VqaAccuracy as an `evaluate` module."""

from .vqa_accuracy import VqaAccuracy

__all__ = ["VqaAccuracy"]
