"""Benchmarks: their questions, predictions and scores."""

from typing import TYPE_CHECKING

from vigc.lazy import lazy_names

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

if TYPE_CHECKING:
    from .base import Benchmark, DataSettings, Question, Unit
    from .llava import read_judge_inputs, read_reviews
    from .table import BENCHMARKS, open_benchmark
else:  # hidden from type checkers, which would accept any name
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            ".base": ("Benchmark", "DataSettings", "Question", "Unit"),
            ".llava": ("read_judge_inputs", "read_reviews"),
            ".table": ("BENCHMARKS", "open_benchmark"),
        },
    )
