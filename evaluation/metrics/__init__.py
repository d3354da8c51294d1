"""Metrics as `evaluate` modules: each folder is a module that can be loaded by path, or from the Hub as a Space."""

from .chair import Chair
from .llava_relative_score import LlavaRelativeScore
from .mmbench import Mmbench
from .pope import Pope
from .vqa_accuracy import VqaAccuracy

__all__ = ["Chair", "LlavaRelativeScore", "Mmbench", "Pope", "VqaAccuracy"]
