"""Which corrections make a preference pair: the answer chosen, the draft rejected."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Annotated, Any, Literal

from vigc.errors import VigcError
from vigc.options import Option, check_values

PAIRS = "Preference pairs (trl-dpo)"

_WORD = re.compile(r"\w+(?:['’]\w+)*")


@dataclass(frozen=True)
class PreferenceRule:
    """Decides whether a correction makes a preference pair: the answer chosen, the draft rejected.

    The edit must be material: at least `min_words` words differ apart from case and punctuation, and neither text is
    just a prefix of the other (such pairs would teach length). And the score must have improved.

    Raises:
        VigcError: A setting is unknown or out of range.
    """

    min_words: Annotated[
        int, Option("The least number of words that must differ, apart from case and punctuation.", PAIRS, min=1)
    ] = 1
    score: Annotated[
        Literal["logprob", "visual-dependency", "none"],
        Option(
            "The score that must improve. logprob: the answer's mean log-probability is higher than the draft's. "
            "visual-dependency: the answer is likelier with the image than with a blank one (needs scored rows). none: "
            "no score is checked.",
            PAIRS,
            common=True,
        ),
    ] = "logprob"
    min_gain: Annotated[float, Option("The score must improve by more than this.", PAIRS)] = 0.0
    keep_cuts: Annotated[bool, Option("Also accept edits that only cut or continue the draft.", PAIRS)] = False

    def __post_init__(self) -> None:
        check_values(self, VigcError)

    def refusal(self, row: Mapping[str, Any]) -> str | None:
        """The reason why a generated row makes no pair; None if it makes one."""
        draft, answer = row.get("draft"), row.get("answer")
        if not draft or not answer:
            return "has no draft or no answer"
        old, new = _words(draft), _words(answer)
        changed = _changed_words(old, new)
        if changed == 0:
            return "not edited, or in case and punctuation alone"
        if changed < self.min_words:
            return f"fewer than {self.min_words} words edited"
        shorter = min(len(old), len(new))
        if not self.keep_cuts and old[:shorter] == new[:shorter]:
            return "only cut short or continued"
        return self._disagreement(row.get("scores") or {})

    def _disagreement(self, scores: Mapping[str, float | None]) -> str | None:
        if self.score == "none":
            return None
        if self.score == "visual-dependency":
            gain = scores.get("visual_dependency")
        else:
            before, after = scores.get("draft_logprob"), scores.get("answer_logprob")
            gain = None if before is None or after is None else after - before
        if gain is None:
            return f"has no {self.score} score"
        # NaN compares as False, so a NaN score disagrees.
        return None if gain > self.min_gain else f"the {self.score} score disagrees"


def _words(text: str) -> list[str]:
    return [word.casefold() for word in _WORD.findall(text)]


def _changed_words(old: list[str], new: list[str]) -> int:
    steps = SequenceMatcher(None, old, new, autojunk=False).get_opcodes()
    return sum(max(end - start, other - begin) for kind, start, end, begin, other in steps if kind != "equal")
