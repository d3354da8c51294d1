"""Benchmarks: their questions, predictions and scores."""

from .base import Benchmark, DataSettings, Question, Unit
from .llava import read_judge_inputs, read_reviews
from .table import BENCHMARKS, open_benchmark

__all__ = [
    "BENCHMARKS",
    "Benchmark",
    "DataSettings",
    "Question",
    "Unit",
    "open_benchmark",
    "read_judge_inputs",
    "read_reviews",
]
