"""A review of two answers: a line of a review file."""

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
        question_id: Id of the question, as in its file.
        order: "ab", or "ba" if the answers were swapped.
        request: Hash of the request.
        category: Category of the question.
        layout: Layout of the prompt.
        answer1_id: The id of answer a.
        answer2_id: The id of answer b.
        withheld: Sentences that address the judge and were removed, by block.
        suspicious: The same sentences in the "original" layout, which keeps them.
        judge: Everything that determines the reviews of the judge.
        seed: Seed of the judge.
        review: The unchanged review; None if there is none.
        scores: [a, b] in either order; [-1, -1] if the review cannot be parsed.
        parsed: Whether the review can be parsed.
        released: [a, b] as parsed by the released script.
        finish: Finish reason.
        served_by: Model and version that the endpoint reports.
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
        """Question id and order, which are unique in a file."""
        return json.dumps(self.question_id), self.order

    def read(self, completion: Completion) -> Review:
        """Returns the review with the judge's completion."""
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
        """The fields of its line; a refused request has no review."""
        known = {name: getattr(self, name) for name in _KNOWN}
        if self.failure is not None:
            return {**known, "review": None, "scores": None, "tuple": None, "parsed": False, "failure": self.failure}
        said = {"review": self.review, "scores": self.scores, "parsed": self.parsed, "tuple": self.released}
        return {**known, **said, "finish": self.finish, "served_by": self.served_by}

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Review:
        """Parses a line; missing optional fields get their defaults.

        Raises:
            KeyError: A required field is missing.
        """
        names = {name: name for name in (*_KNOWN, "scores", "parsed", "finish", "served_by")} | {"tuple": "released"}
        given = {names[name]: value for name, value in row.items() if name in names}
        return cls(**{**given, "review": row["review"], **{name: row[name] for name in _NEEDED}})


_NEEDED = ("question_id", "order", "request")
# In the order of the fields of a line.
_KNOWN = (
    *("question_id", "category", "order", "layout", "answer1_id", "answer2_id", "withheld", "suspicious"),
    *("judge", "seed", "request"),
)
