"""Whether a model became better: benchmarks, metrics, figures with their intervals, and judges."""

from .benchmark_llava import read_reviews
from .benchmarks import BENCHMARKS, open_benchmark
from .errors import EvaluationError
from .intervals import Difference, Figure
from .models import load_answerer
from .questions import Benchmark, DataSettings, Question, Unit
from .results import Results, compare_results, read_eval_results
from .runner import evaluate

__all__ = [
    "BENCHMARKS",
    "Benchmark",
    "DataSettings",
    "Difference",
    "EvaluationError",
    "Figure",
    "Question",
    "Results",
    "Unit",
    "compare_results",
    "evaluate",
    "load_answerer",
    "open_benchmark",
    "read_eval_results",
    "read_reviews",
]
