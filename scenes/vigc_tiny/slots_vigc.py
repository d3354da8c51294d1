"""Calls for texts, and the slots in which they are written."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch

from .beams_vigc import BeamSearch
from .decoding_vigc import Decoding, Text, Written
from .sentences_vigc import Rule

T = TypeVar("T")


@dataclass(slots=True)
class Call:
    """One text to be written.

    Args:
        prompt: For the Q-Former and the language model alike.
        image_embeds: float (patches + 1, vision width), the ViT's output.
        decoding: How.
        until: By which rule it has a first unit.
        whole: Whether it is written to its end, not just to that of its first unit.
        seed: For sampling.
        draft: What is expected to be written, to be read first where that pays; None if nothing is.
        follow: Says which call follows a text that begins so, if one does; None if nothing is to be written ahead.
    """

    prompt: str
    image_embeds: torch.Tensor
    decoding: Decoding
    until: Rule | None = None
    whole: bool = True
    seed: int = 0
    draft: str | None = None
    follow: Callable[[Written], Call | None] | None = None

    def writes_as(self, other: Call) -> bool:
        """Whether the other's text is this one's."""
        alike = self.image_embeds is other.image_embeds and self.decoding is other.decoding
        mine = (self.prompt, self.until, self.whole, self.seed)
        return alike and mine == (other.prompt, other.until, other.whole, other.seed)


Row = Generator[Call, Written, T]


@dataclass(eq=False, slots=True)
class Slot:
    """A call being written.

    Args:
        call: What is written.
        row: Whose call it is; None while it is written ahead, before its row has asked for it.
        lanes: Its places in the batch: one, or one for each beam; none when it is over.
        text: What it has written; of a beam search, the search has it.
        search: The beam search, if it is one.
        prompt_length: Tokens of its prompt, visual ones included.
        draft: Ids that are read behind the prompt, to be compared with what would be written.
        written: What was written, once it is over.
        ahead: Calls that may follow it.
        units: The beginnings for which such a call was asked for.
    """

    call: Call
    row: Row[Any] | None
    lanes: list[int] = field(default_factory=list)
    text: Text = field(init=False)
    search: BeamSearch | None = None
    prompt_length: int = 0
    draft: list[int] = field(default_factory=list)
    written: Written | None = None
    ahead: list[Slot] = field(default_factory=list)
    units: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.text = Text(self.call.until, self.call.whole, self.call.seed)

    @property
    def alive(self) -> bool:
        """Whether it is being written or is over; not if it was given up."""
        return bool(self.lanes) or self.written is not None

    def tree(self) -> Iterator[Slot]:
        """This slot and all that are written ahead of it."""
        coming = [self]
        while coming:
            slot = coming.pop()
            if slot.alive:
                yield slot
                coming += reversed(slot.ahead)

    def next_call(self) -> Call | None:
        """The call that follows if the text goes on as it looks; None if that is not to be seen, or was said before.

        Texts that are wanted for their first unit only are not asked before they are over: beams that do not agree on
        it yet would be guessed wrongly too often.
        """
        text = self.text if self.search is None else self.search.leader
        unit = self.written.text if self.written is not None else text.unit if self.call.whole else None
        if self.call.follow is None or unit is None or unit in self.units:
            return None
        self.units.add(unit)
        call = self.call.follow(self.written or self.call.decoding.written(text))
        return None if call is None or self.found(call) else call

    def found(self, call: Call) -> Slot | None:
        """Where such a call is written ahead or was, if it is."""
        return next((slot for slot in self.ahead if slot.alive and slot.call.writes_as(call)), None)
