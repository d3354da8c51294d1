"""Mmbench as an `evaluate` module."""

from .mmbench import Mmbench

__all__ = ["Mmbench"]
