"""Whether a model became better: judges."""

from .judge_models import EndpointJudge, LocalJudge
from .judge_prompts import DEFAULT_RULES, Rule, read_rules
from .judges import judge_answers, order_agreement, published_review, relative_scores
from .review_file import JudgeError, JudgeUnavailableError, ReviewConflictError

__all__ = [
    "DEFAULT_RULES",
    "EndpointJudge",
    "JudgeError",
    "JudgeUnavailableError",
    "LocalJudge",
    "ReviewConflictError",
    "Rule",
    "judge_answers",
    "order_agreement",
    "published_review",
    "read_rules",
    "relative_scores",
]
