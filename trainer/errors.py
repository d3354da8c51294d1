"""What goes wrong in training, for those who have to tell it from mistakes in code."""

from __future__ import annotations

from vigc.errors import TrainingError


class DivergenceError(TrainingError):
    """The loss, a gradient or a weight is NaN or infinite."""


class CheckpointError(TrainingError):
    """A checkpoint that is damaged or incomplete."""
