"""What is asked of a model about each image, and the rows that come of it."""

from .correct import CorrectionWorker
from .generate import PairWorker

__all__ = ["CorrectionWorker", "PairWorker"]
