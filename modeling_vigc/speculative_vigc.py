"""Speculative decoding beside the engine's loop: drafts that are verified, and requests that are begun ahead.

Without this file the engine has the same completions: it only takes more steps. Both forms follow from a request's
`Lookahead`, and only use sequences that no rollout waits for.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from .requests_vigc import Request
from .slots_vigc import Slot

# Requests are begun ahead up to so many sequences. There a step takes one and a half times as long as with one; with
# more, texts that are wanted would wait for those that may be.
AHEAD_LANES = 16
# At so many sequences a token that is generated costs about twice one that is read: with fewer, reading the weights for
# each step dominates. A low estimate, so that verifying stops early rather than late.
_LANES = 8
# How fast the share of accepted tokens follows what happens, and how often a share that was too low is tried again.
_PACE = 0.2
_TRY_AGAIN = 32


class Drafts:
    """Decides which drafts are worth verifying.

    A draft's tokens cost about what other tokens of prompts cost, and each that is accepted saves a step of one
    sequence. So drafts are verified while the share that is accepted is high enough for the number of sequences. The
    decision follows from tokens counted, not from time, so that a run can be repeated.

    Args:
        tokenizer: The language model's.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.share, self.passed = 0.5, 0

    def propose(self, text: str | None, lanes: int, at_most: int) -> list[int]:
        """Ids to be read behind a prompt, at most so many; none where it does not pay.

        Args:
            text: The expected completion.
            lanes: Requests being decoded at the time.
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


class Speculation:
    """What an engine does beyond its plain loop.

    Args:
        engine: Its slots, sequences and `release` are used.
    """

    def __init__(self, engine: Any) -> None:
        self.engine = engine
        self.drafts = Drafts(engine.processor.tokenizer)

    # Drafts that are verified

    def propose(self, slot: Slot, count: int) -> None:
        """Gives a slot the draft that is read behind its prompt, where that pays.

        Args:
            slot: Not begun yet, and no beam search.
            count: Slots in use, it and those that begin with it included.
        """
        lookahead = slot.request.lookahead
        draft = None if lookahead is None else lookahead.draft
        slot.draft = self.drafts.propose(draft, count, slot.decoding.max_new_tokens - 1)

    def verify(self, slot: Slot, logits: torch.Tensor) -> None:
        """Accepts the longest prefix of the draft that the model would have generated, plus one token.

        Args:
            slot: Its prompt and draft have been read.
            logits: float32 (draft + 1, vocabulary), behind the prompt and behind each id of the draft.
        """
        decoding, lane, sequences = slot.decoding, slot.lanes[0], self.engine.sequences
        accepted = 0
        for row, expected in enumerate([*slot.draft, None]):
            decoding.choose([slot.text], logits[row : row + 1])
            token = sequences.tokens[lane] = slot.text.ids[-1]
            accepted += token == expected
            if decoding.finished(slot.text) or token != expected:
                break
        # What was read of the draft behind this is overwritten.
        sequences.lengths[lane] = slot.prompt_length + accepted
        slot.text.accepted = accepted
        self.drafts.note(accepted, len(slot.draft))
        if slot.text.stop:
            slot.completion = decoding.completion(slot.text)

    # Requests that are begun ahead

    def begin_ahead(self, new: list[Slot]) -> list[Slot]:
        """Slots for requests that will follow, where slots are free beside the `new` ones; makes room for those."""
        engine = self.engine
        free = engine.max_slots - len(engine.slots) - len(new)
        if free < 0:
            # What is ahead of them was begun later, and goes with them.
            engine.release([slot for slot in engine.slots if slot.rollout is None][free:])
            return []
        lanes = AHEAD_LANES - len(engine.sequences.lengths) - sum(slot.decoding.beams for slot in new)
        found: list[Slot] = []
        for slot in [one for root in engine.slots if root.rollout is not None for one in _tree(root)]:
            beams = slot.decoding.beams
            if len(found) == free or lanes < beams:
                break
            request = self._next_request(slot)
            if request is not None:
                found.append(engine.slot_of(request, None))
                slot.ahead.append(found[-1])
                lanes -= beams
        return found

    def adopt(self, slot: Slot, request: Request | None) -> Slot | None:
        """The slot in which a rollout's next request was begun ahead, if it was; gives up what else was.

        Args:
            slot: The rollout's last one, which is over.
            request: Its next request; None if there is none now.
        """
        found = None if request is None else _find(slot, request)
        self.engine.release([one for other in slot.ahead if other is not found for one in _tree(other) if one.lanes])
        if found is not None and request is not None:
            found.request, found.rollout = request, slot.rollout
        return found

    def _next_request(self, slot: Slot) -> Request | None:
        """The request that follows if the text goes on as it looks; None if that is open, or was asked before.

        Texts that are wanted for their first segment only are not asked before they are over: beams that do not agree
        on it yet would be guessed wrongly too often.
        """
        lookahead, text = slot.request.lookahead, slot.text if slot.search is None else slot.search.leader
        if slot.completion is not None:
            begun: str | None = slot.completion.text
        else:
            begun = text.unit if slot.request.stop is None else None
        if lookahead is None or lookahead.follow is None or begun is None or begun in slot.begun:
            return None
        slot.begun.add(begun)
        request = lookahead.follow(slot.completion or slot.decoding.completion(text))
        return None if request is None or _find(slot, request) else request


def _is_alive(slot: Slot) -> bool:
    """Whether it is being decoded or is over; not if it was given up."""
    return bool(slot.lanes) or slot.completion is not None


def _tree(root: Slot) -> Iterator[Slot]:
    """A slot and all that are ahead of it."""
    coming = [root]
    while coming:
        slot = coming.pop()
        if _is_alive(slot):
            yield slot
            coming += reversed(slot.ahead)


def _find(slot: Slot, request: Request) -> Slot | None:
    """Where such a request is decoded ahead or was, if it is."""
    return next((one for one in slot.ahead if _is_alive(one) and one.request.same_as(request)), None)
