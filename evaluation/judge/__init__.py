"""A judge model that reviews pairs of answers: prompts, models, review files."""

from .judges import EndpointJudge, LocalJudge
from .prompts import DEFAULT_RULES, Rule, read_rules
from .reviews import judge_answers, order_agreement, published_review, relative_scores

__all__ = [
    "DEFAULT_RULES",
    "EndpointJudge",
    "LocalJudge",
    "Rule",
    "judge_answers",
    "order_agreement",
    "published_review",
    "read_rules",
    "relative_scores",
]
