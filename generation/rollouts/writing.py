"""Keeps the engine busy over all pictures of a shard: what is asked next, and what fits into memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from vigc.errors import is_out_of_memory
from vigc.modeling_vigc import VigcRequest

from .checks import Draft, Fitting


@dataclass(frozen=True, slots=True)
class Ask:
    """What is wanted next about a picture: one draft.

    Args:
        seed: Of what is drawn.
        settings: Decoding and `iqf_*` settings that are not the model's own.
        question: To be answered; None has one written.
        given: The answer to that question that there is already.
    """

    seed: int
    settings: dict[str, Any] = field(default_factory=dict)
    question: str | None = None
    given: str | None = None


# All that is asked about a picture under one type, one draft after the other.
Asking = Generator[Ask, Draft, list[Draft]]


@dataclass(eq=False, slots=True)
class Conversation:
    """An `Asking` with what it is about.

    Args:
        asking: Yields what is wanted, is sent what was written, and returns the drafts that count.
        image_embeds: float (patches + 1, vision width).
        task: The type of instruction, or None.
        key: For the caller.
    """

    asking: Asking
    image_embeds: torch.Tensor
    task: str | None
    key: Any = None


class Writing:
    """Writes conversations with one engine; a slot that is free goes to whatever is wanted next.

    Args:
        model: A VIGC model.
        processor: Belongs to it.
        slots: Texts written at a time; fewer where memory does not suffice, until the end of a run.
        correct: Whether VIC follows VIG.
        fitting: Counts how often memory did not suffice.
    """

    def __init__(self, model: Any, processor: Any, *, slots: int, correct: bool, fitting: Fitting) -> None:
        self.model, self.processor, self.slots, self.correct = model, processor, slots, correct
        self.fitting = fitting

    def run(self, coming: Iterator[Iterable[Conversation]]) -> Iterator[tuple[Conversation, list[Draft]]]:
        """Yields conversations with their drafts as they end.

        What is written together follows from the order of the conversations, never from when they come: where the next
        ones are not there yet, the engine waits for them.

        Args:
            coming: More conversations each time that there is room.

        Raises:
            TransientError: Not even one row fits into memory.
        """
        wanted: deque[VigcRequest] = deque()
        begun: dict[VigcRequest, None] = {}  # in their order
        ended: deque[tuple[Conversation, list[Draft]]] = deque()
        more, broken = True, False
        # Each time from the start: what a shard is made of, and what its record says, depends on no shard before it.
        slots, self.fitting.most = self.slots, None

        def requests() -> Iterator[VigcRequest | None]:
            nonlocal more, broken
            while more or wanted or begun:
                if more and not wanted:
                    broken = True  # unless what comes next does come
                    conversations = next(coming, None)
                    more, broken = conversations is not None, False
                    for conversation in conversations or ():
                        self._go_on(conversation, None, wanted, ended)
                if wanted:
                    begun[wanted[0]] = None
                    yield wanted.popleft()
                elif begun:
                    yield None
                elif ended:
                    return

        while more or wanted or begun:
            try:
                for request, row in self.model.generate_stream(requests(), self.processor, max_slots=slots):
                    del begun[request]
                    self._go_on(request.key, _draft(row), wanted, ended)
                    while ended:
                        yield ended.popleft()
            except (RuntimeError, MemoryError) as error:
                if broken or not is_out_of_memory(error):
                    raise
            if begun:  # outside of the handler, where the error no longer holds on to the memory
                wanted.extendleft(reversed(begun))
                begun.clear()
                slots = self.fitting.halve(slots)
            while ended:
                yield ended.popleft()

    def _go_on(
        self,
        conversation: Conversation,
        draft: Any,
        wanted: deque[VigcRequest],
        ended: deque[tuple[Conversation, list[Draft]]],
    ) -> None:
        """Sends a conversation what was written, None to begin; what it wants next waits, or it has ended."""
        try:
            ask = conversation.asking.send(draft)
        except StopIteration as end:
            ended.append((conversation, end.value))
            return
        wanted.append(
            VigcRequest(
                conversation.image_embeds,
                "vig" if ask.question is None else "vic",
                conversation.task,
                ask.question,
                ask.seed,
                self.correct,
                ask.settings,
                conversation,
                ask.given,
            )
        )


def _draft(row: Any) -> Draft:
    return Draft(
        row.question,
        row.draft,
        row.answer,
        row.reason,
        row.vig_text if row.vig_text is not None else row.answer or "",
        row.trace,
        row.draft_logprob,
        row.answer_logprob,
        row.full_answer,
    )
