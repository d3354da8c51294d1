"""Validity checks for generated text."""

from __future__ import annotations

import math
from collections.abc import Sequence

from vigc.jobs import Reason
from vigc.jobs.counts import NO_PAIR
from vigc.modeling_vigc.requests_vigc import Sample

# A text is endless if it ends in this many copies of its last words, with this many words in all. The same check is
# made for characters, for text without spaces or cut within a word.
_COPIES = 4
_COPIED_WORDS = 12
_COPIED_CHARACTERS = 100
_LONGEST_PERIOD = 40

# Minimum share of common words of two equivalent questions.
_SAME_QUESTION = 0.8


def fault_of(sample: Sample) -> Reason | None:
    """The reason for rejecting a sample; None if it is valid."""
    if not is_finite(sample.draft_logprob) or not is_finite(sample.answer_logprob):
        return NOT_FINITE  # first, since it is the cause of other faults
    if sample.reason is not None:
        return Reason(NO_PAIR, sample.reason)
    if not sample.question:
        return Reason(NO_PAIR, "the question is empty")
    if not sample.answer:
        return Reason(NO_PAIR, "the answer is empty")
    for name, text in (("question", sample.question), ("answer", sample.answer)):
        if is_endless(text):
            return Reason(NO_PAIR, f"the {name} repeats itself without end")
    return None


NOT_FINITE = Reason(NO_PAIR, "the model's probabilities are not finite numbers: load it with --dtype float32")


def is_finite(logprob: float | None) -> bool:
    """Whether a log-probability is finite; True for None."""
    return logprob is None or math.isfinite(logprob)


def is_endless(text: str) -> bool:
    """Whether a text ends in repeated words or characters."""
    words = text.split()
    # The token limit can cut within a word, and a repetition may have no spaces.
    return (
        _repeats(words, _COPIED_WORDS)
        or _repeats(words[:-1], _COPIED_WORDS)
        or _repeats(" ".join(words), _COPIED_CHARACTERS)
    )


def _repeats(parts: Sequence[str], least: int) -> bool:
    """Whether a text ends in copies of a few parts, with at least `least` parts in all."""
    for period in range(1, min(_LONGEST_PERIOD, len(parts) // _COPIES) + 1):
        length = period * max(_COPIES, -(-least // period))
        if length > len(parts):
            continue
        tail = parts[-length:]
        if tail[period:] == tail[:-period]:
            return True
    return False


def is_same_question(question: str, others: list[str]) -> bool:
    """Whether a question is equivalent to one of `others`, by its words."""
    words = _words(question)
    return any(len(words & known) >= _SAME_QUESTION * len(words | known) for known in map(_words, others))


def _words(text: str) -> set[str]:
    return set("".join(char if char.isalnum() else " " for char in text.lower()).split())
