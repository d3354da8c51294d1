"""Pope as an `evaluate` module."""

from .pope import Pope

__all__ = ["Pope"]
