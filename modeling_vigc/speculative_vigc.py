"""Texts that are there already, checked instead of written: what a call should write is read with its prompt."""

from __future__ import annotations

from typing import Any

# At so many lanes a word that is written costs about twice one that is read: with fewer, reading the weights for each
# step dominates. A low estimate, so that checking stops early rather than late.
_LANES = 8
# How fast the share of accepted words follows what happens, and how often a share that was too low is tried again.
_PACE = 0.2
_TRY_AGAIN = 32


class Drafts:
    """Decides which drafts are worth checking.

    A draft's words cost about what other words of prompts cost, and each that is accepted saves a step of one lane. So
    drafts are checked while the share that is accepted is high enough for the number of lanes. The decision follows
    from words counted, not from time, so that a run can be repeated.

    Args:
        tokenizer: The language model's.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.share, self.passed = 0.5, 0

    def propose(self, text: str | None, lanes: int, at_most: int) -> list[int]:
        """Ids to be read behind a prompt, at most so many; none where it does not pay.

        Args:
            text: What is expected to be written.
            lanes: Texts being written at the time.
            at_most: Longest draft.
        """
        if not text or at_most < 1:
            return []
        if self.share < lanes / (lanes + _LANES):
            self.passed += 1
            if self.passed % _TRY_AGAIN:
                return []
        return self.tokenizer(text, add_special_tokens=False)["input_ids"][:at_most]

    def note(self, accepted: int, proposed: int) -> None:
        """Learns how much of a draft was accepted."""
        self.share += _PACE * (accepted / proposed - self.share)
