"""Evaluation: benchmarks, metrics with confidence intervals, and judges."""

from typing import TYPE_CHECKING

from vigc.errors import ConflictError, EvaluationError, JudgeError, TransientError
from vigc.lazy import lazy_names

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

if TYPE_CHECKING:
    from .answering import load_answerer
    from .benchmarks import (
        BENCHMARKS,
        Benchmark,
        DataSettings,
        Question,
        Unit,
        open_benchmark,
        read_judge_inputs,
        read_reviews,
    )
    from .intervals import Difference, Figure
    from .judge import (
        DEFAULT_RULES,
        EndpointJudge,
        LocalJudge,
        Rule,
        judge_answers,
        order_agreement,
        published_review,
        read_rules,
        relative_scores,
    )
    from .results import Results, compare_results, read_eval_results
    from .runner import evaluate
    from .training_metrics import written_figures
else:  # hidden from type checkers, which would accept any name
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            ".answering": ("load_answerer",),
            ".benchmarks": (
                "BENCHMARKS",
                "Benchmark",
                "DataSettings",
                "Question",
                "Unit",
                "open_benchmark",
                "read_judge_inputs",
                "read_reviews",
            ),
            ".intervals": ("Difference", "Figure"),
            ".judge": (
                "DEFAULT_RULES",
                "EndpointJudge",
                "LocalJudge",
                "Rule",
                "judge_answers",
                "order_agreement",
                "published_review",
                "read_rules",
                "relative_scores",
            ),
            ".results": ("Results", "compare_results", "read_eval_results"),
            ".runner": ("evaluate",),
            ".training_metrics": ("written_figures",),
        },
    )
