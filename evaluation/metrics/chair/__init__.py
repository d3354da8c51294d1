"""Chair as an `evaluate` module."""

from .chair import Chair

__all__ = ["Chair"]
