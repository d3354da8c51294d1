"""The `vigc` command: one module per command, and shared modules."""

from .root import app, main

__all__ = ["app", "main"]
