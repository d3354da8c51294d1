"""The rollouts of an image, and the rows made from their samples."""

from .correct import CorrectionWorker
from .generate import PairWorker

__all__ = ["CorrectionWorker", "PairWorker"]
