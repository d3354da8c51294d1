"""One review of two answers, as it stands in a file of reviews."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from vigc.inference import Completion

from .prompts import FAILED, parse_as_released, parse_scores


@dataclass(frozen=True, slots=True)
class Review:
    """A judge's review of two answers to a question.

    Args:
        question_id: The question's, as its file has it.
        order: "ab", or "ba" where the answers stood the other way round.
        request: Hash of what was asked.
        category: The question's.
        layout: How the prompt was laid out.
        answer1_id: The id of answer a.
        answer2_id: The id of answer b.
        withheld: Sentences that speak to the judge and were not shown to it, by where they stood.
        suspicious: The same sentences where the layout shows everything.
        judge: What decides what the judge says.
        seed: What the judge was handed.
        review: The review as it came; None where there is none.
        scores: [a, b], whatever the order; [-1, -1] where the review cannot be read.
        parsed: Whether it can be read.
        released: [a, b] as the released script reads it.
        finish: Why it ended.
        served_by: What the endpoint says it is.
        failure: Why there is no review.
    """

    question_id: Any
    order: str
    request: str
    category: str = ""
    layout: str = ""
    answer1_id: Any = None
    answer2_id: Any = None
    withheld: Mapping[str, list[str]] = field(default_factory=dict)
    suspicious: Mapping[str, list[str]] = field(default_factory=dict)
    judge: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    review: str | None = None
    scores: list[float] | None = None
    parsed: bool = False
    released: list[float] | None = None
    finish: str | None = None
    served_by: str | None = None
    failure: str | None = None

    @property
    def key(self) -> tuple[str, str]:
        """Question and order, of which a file holds one review."""
        return json.dumps(self.question_id), self.order

    def read(self, completion: Completion) -> Review:
        """With what the judge said."""
        scores = parse_scores(completion.text)
        turn = 1 if self.order == "ab" else -1
        finish = completion.finish_reason or None
        return replace(
            self,
            review=completion.text,
            scores=list((scores or FAILED)[::turn]),
            parsed=scores is not None,
            released=list(parse_as_released(completion.text)[::turn]),
            finish="stop" if finish == "eos" else finish,
            served_by=completion.served_by,
        )

    def to_json(self) -> dict[str, Any]:
        """The entries of its line; of one that was refused, what is known."""
        known = {name: getattr(self, name) for name in _KNOWN}
        if self.failure is not None:
            return {**known, "review": None, "scores": None, "tuple": None, "parsed": False, "failure": self.failure}
        said = {"review": self.review, "scores": self.scores, "parsed": self.parsed, "tuple": self.released}
        return {**known, **said, "finish": self.finish, "served_by": self.served_by}

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Review:
        """The review that a line holds; entries that it lacks are as those of no review.

        Raises:
            KeyError: It lacks one of those that every review has.
        """
        names = {name: name for name in (*_KNOWN, "scores", "parsed", "finish", "served_by")} | {"tuple": "released"}
        given = {names[name]: value for name, value in row.items() if name in names}
        return cls(**{**given, "review": row["review"], **{name: row[name] for name in _NEEDED}})


_NEEDED = ("question_id", "order", "request")
# In the order of a line.
_KNOWN = (
    *("question_id", "category", "order", "layout", "answer1_id", "answer2_id", "withheld", "suspicious"),
    *("judge", "seed", "request"),
)
