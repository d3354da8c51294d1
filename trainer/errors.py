"""What goes wrong in training, for those who have to tell it from mistakes in code."""

from __future__ import annotations


class TrainingError(ValueError):
    """Data, settings, checkpoints or numbers that training cannot work with: what, the value, and the fix."""

    exit_code = 2


class DivergenceError(TrainingError):
    """The loss, a gradient or a weight is NaN or infinite."""


class CheckpointError(TrainingError):
    """A checkpoint that is damaged or incomplete."""
