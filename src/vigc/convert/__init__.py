"""Converts released VIGC checkpoints to a transformers model folder, and back."""

from .checkpoint import convert_checkpoint

__all__ = ["convert_checkpoint"]
