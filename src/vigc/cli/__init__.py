"""The `vigc` command: one file a command, and what commands share."""

from .root import app, main

__all__ = ["app", "main"]
