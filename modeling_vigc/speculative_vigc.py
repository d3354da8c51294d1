"""Speculative decoding: verifies drafts, and begins requests ahead.

Both are optional hints of a request (`Lookahead`). They save steps, change no completion, and only use free slots.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from .requests_vigc import Request
from .slots_vigc import Slot

# Maximum number of sequences while requests are begun ahead. A step then takes 1.5 times as long as with one sequence;
# with more, speculative requests would slow down others.
AHEAD_LANES = 16
# With this many sequences, generating a token costs about twice as much as reading one; with fewer, reading the weights
# dominates. A low estimate, so that verification stops early rather than late.
_LANES = 8
# Step size of the running share of accepted tokens, and how often a draft is tried while the share is too low.
_PACE = 0.2
_TRY_AGAIN = 32


class Drafts:
    """Decides which drafts are worth verifying.

    A draft token costs about as much as a prompt token, and an accepted one saves a step of one sequence. So drafts are
    verified while the share of accepted tokens is high enough for the number of sequences. The decision is based on
    token counts, not on time, so that runs are reproducible.

    Args:
        tokenizer: The language model's tokenizer.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.share, self.passed = 0.5, 0

    def propose(self, text: str | None, lanes: int, at_most: int) -> list[int]:
        """The ids of a draft to read after a prompt; empty if verification does not pay.

        Args:
            text: The expected completion.
            lanes: Number of requests being decoded.
            at_most: Maximum number of ids.
        """
        if not text or at_most < 1:
            return []
        if self.share < lanes / (lanes + _LANES):
            self.passed += 1
            if self.passed % _TRY_AGAIN:
                return []
        return self.tokenizer(text, add_special_tokens=False)["input_ids"][:at_most]

    def note(self, accepted: int, proposed: int) -> None:
        """Updates the share of accepted tokens."""
        self.share += _PACE * (accepted / proposed - self.share)


class Speculation:
    """Speculative decoding for an engine.

    Args:
        engine: The engine, whose slots, sequences and `release` are used.
    """

    def __init__(self, engine: Any) -> None:
        self.engine = engine
        self.drafts = Drafts(engine.processor.tokenizer)

    # Drafts that are verified

    def propose(self, slot: Slot, count: int) -> None:
        """Sets the draft that a slot reads after its prompt, if verification pays.

        Args:
            slot: A slot that has not begun and has no beam search.
            count: Number of slots in use, including those that begin now.
        """
        lookahead = slot.request.lookahead
        draft = None if lookahead is None else lookahead.draft
        slot.draft = self.drafts.propose(draft, count, slot.decoding.max_new_tokens - 1)

    def verify(self, slot: Slot, logits: torch.Tensor) -> None:
        """Accepts the longest prefix of the draft that the model would have generated, plus one token.

        Args:
            slot: A slot whose prompt and draft have been read.
            logits: float32 (draft + 1, vocabulary), after the prompt and after each id of the draft.
        """
        decoding, lane, sequences = slot.decoding, slot.lanes[0], self.engine.sequences
        accepted = 0
        for row, expected in enumerate([*slot.draft, None]):
            decoding.choose([slot.text], logits[row : row + 1])
            token = sequences.tokens[lane] = slot.text.ids[-1]
            accepted += token == expected
            if decoding.finished(slot.text) or token != expected:
                break
        # The rest of the draft in the cache will be overwritten.
        sequences.lengths[lane] = slot.prompt_length + accepted
        slot.text.accepted = accepted
        self.drafts.note(accepted, len(slot.draft))
        if slot.text.stop:
            slot.completion = decoding.completion(slot.text)

    # Requests that are begun ahead

    def begin_ahead(self, new: list[Slot]) -> list[Slot]:
        """Creates slots for requests that may follow, if slots are free; frees such slots if `new` ones need them."""
        engine = self.engine
        free = engine.max_slots - len(engine.slots) - len(new)
        if free < 0:
            # Slots that were begun ahead of these are newer, so that they are released too.
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
        """Returns the slot in which a rollout's next request was begun ahead, if any; releases the other ones.

        Args:
            slot: The finished slot of the rollout's last request.
            request: The rollout's next request; None if there is none now.
        """
        found = None if request is None else _find(slot, request)
        self.engine.release([one for other in slot.ahead if other is not found for one in _tree(other) if one.lanes])
        if found is not None and request is not None:
            found.request, found.rollout = request, slot.rollout
        return found

    def _next_request(self, slot: Slot) -> Request | None:
        """The request that probably follows a slot; None if it is not known yet or was already considered.

        If only the first segment of a text is wanted, the request is only predicted when the text has ended: beams
        that do not agree yet would be wrong too often.
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
    """Whether a slot is being decoded or is finished, and was not discarded."""
    return bool(slot.lanes) or slot.completion is not None


def _tree(root: Slot) -> Iterator[Slot]:
    """A slot and all slots that were begun ahead of it."""
    coming = [root]
    while coming:
        slot = coming.pop()
        if _is_alive(slot):
            yield slot
            coming += reversed(slot.ahead)


def _find(slot: Slot, request: Request) -> Slot | None:
    """The slot in which an equal request was begun ahead, if there is one."""
    return next((one for one in slot.ahead if _is_alive(one) and one.request.same_as(request)), None)
