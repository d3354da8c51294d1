"""Metrics as `evaluate` modules: each folder is one, loadable by its path and on the Hub as a Space."""

from .chair import Chair
from .llava_relative_score import LlavaRelativeScore
from .mmbench import Mmbench
from .pope import Pope
from .vqa_accuracy import VqaAccuracy

__all__ = ["Chair", "LlavaRelativeScore", "Mmbench", "Pope", "VqaAccuracy"]
