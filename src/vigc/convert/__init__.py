"""Released VIGC checkpoints become a model folder of transformers, and back."""

from .checkpoint import convert_checkpoint

__all__ = ["convert_checkpoint"]
