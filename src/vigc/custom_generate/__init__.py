"""IQF for stock InstructBLIP checkpoints, through transformers' `custom_generate`."""

from .folder import save_custom_generate

__all__ = ["save_custom_generate"]
