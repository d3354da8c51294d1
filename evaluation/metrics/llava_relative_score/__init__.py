"""LlavaRelativeScore as an `evaluate` module."""

from .llava_relative_score import LlavaRelativeScore

__all__ = ["LlavaRelativeScore"]
