"""Whether a model became better: benchmarks, metrics, figures with their intervals, and judges."""

from vigc.errors import ConflictError, EvaluationError, JudgeError, TransientError

from .benchmark_llava import read_judge_inputs, read_reviews
from .benchmarks import BENCHMARKS, open_benchmark
from .intervals import Difference, Figure
from .judge_models import EndpointJudge, LocalJudge
from .judge_prompts import DEFAULT_RULES, Rule, read_rules
from .judges import judge_answers, order_agreement, published_review, relative_scores
from .models import load_answerer
from .questions import Benchmark, DataSettings, Question, Unit
from .results import Results, compare_results, read_eval_results
from .runner import evaluate
from .written import written_figures

__all__ = [
    "BENCHMARKS",
    "DEFAULT_RULES",
    "Benchmark",
    "ConflictError",
    "DataSettings",
    "Difference",
    "EndpointJudge",
    "EvaluationError",
    "Figure",
    "JudgeError",
    "LocalJudge",
    "Question",
    "Results",
    "Rule",
    "TransientError",
    "Unit",
    "compare_results",
    "evaluate",
    "judge_answers",
    "load_answerer",
    "open_benchmark",
    "order_agreement",
    "published_review",
    "read_eval_results",
    "read_judge_inputs",
    "read_reviews",
    "read_rules",
    "relative_scores",
    "written_figures",
]
