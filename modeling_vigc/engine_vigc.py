"""Continuous batching: requests of different lengths are decoded together, and a finished one is replaced at once.

A rollout is a generator that yields its next request and is sent the completion, until it returns its result. A slot
decodes one request. When it ends, the slot is taken by the next request of its rollout or by the next rollout, so that
the slots stay full. Prompts that begin together are packed end to end, without padding.

`Engine.run` is the loop and `_step` one step of it. The forward passes are in `sequences_vigc.py`; `Schedule` orders
the rollouts. Speculative decoding (`speculative_vigc.py`) is optional and changes no completion.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

import torch

from .beams_vigc import BeamSearch
from .decoding_vigc import Decoding
from .requests_vigc import Completion, Request, Rollout
from .sequences_vigc import Sequences
from .slots_vigc import Schedule, Slot
from .speculative_vigc import Speculation

T = TypeVar("T")


class Engine:
    """Runs rollouts with one model.

    Args:
        model: A VIGC model, or any InstructBLIP with a decoder-only language model.
        processor: Encodes prompts (`encode_prompts`).
        max_slots: Number of requests decoded at a time, including those begun ahead. With beams, a request takes as
            many sequences of the batch.
        decoding: Creates a `Decoding` from `SamplingParams.settings` and `plain`; called once for equal arguments.

    Raises:
        ValueError: `max_slots` is less than 1.
    """

    def __init__(
        self, model: Any, processor: Any, max_slots: int, decoding: Callable[[Mapping[str, Any], bool], Decoding]
    ) -> None:
        if max_slots < 1:
            raise ValueError(f"max_slots={max_slots} is too small: give at least 1.")
        self.model, self.processor, self.max_slots = model, processor, max_slots
        self.sequences = Sequences(model, processor)
        self.speculation = Speculation(self)
        self.slots: list[Slot] = []
        self._make, self._known = decoding, dict[tuple[str, bool], Decoding]()

    def run(self, rollouts: Iterable[Rollout[T] | None]) -> Iterator[T]:
        """Yields the results of the rollouts in the order in which they end.

        Args:
            rollouts: The rollouts; None ends a batch, or means that no rollout is ready (see [`Schedule`]).

        Raises:
            ValueError: No rollout is ready while nothing is being decoded; or a setting is unknown.
        """
        yield from self.run_schedule(Schedule(rollouts))

    def run_schedule(self, schedule: Schedule[T]) -> Iterator[T]:
        """Like `run`. After an error, another engine can continue the schedule."""
        waiting: list[Slot] = []
        while True:
            # 1. Fill the free slots. Running rollouts are already in `waiting`, in front.
            while len(waiting) < self._room():
                if task := schedule.take():
                    rollout, request = task
                    waiting.append(self.slot_of(request, rollout))
                elif results := list(schedule.results()):  # of rollouts without a request
                    yield from results
                else:
                    break
            if not waiting and not self.slots:
                if schedule.finished:
                    return
                raise ValueError("No rollout is ready, but no request is being decoded: yield None only while one is.")
            # 2. Read their prompts, or decode a token of each sequence.
            done = self._step(waiting)
            # 3. Send completions, from the last slot to the first. Running rollouts keep their slots and come before
            # new ones, in the order of the slots, so that they end early and free memory.
            waiting = []
            for slot in reversed([slot for slot in done if slot.rollout is not None]):
                if following := self._proceed(slot, schedule):
                    waiting.insert(0, following)
                yield from schedule.results()

    def slot_of(self, request: Request, rollout: Rollout[Any] | None) -> Slot:
        """Creates the slot of a request, with its decoding settings."""
        for name in ("schema", "system"):
            if getattr(request, name, None) is not None:
                raise ValueError(f"The engine does not support Request.{name}: use another generator, or remove it.")
        sampling = request.sampling
        decoding, n = self.decoding(sampling.settings, sampling.plain), sampling.n
        if n > decoding.beams:
            raise ValueError(f"n={n} completions need as many beams, but num_beams is {decoding.beams}: raise it.")
        return Slot(request, decoding, rollout)

    def decoding(self, settings: Mapping[str, Any], plain: bool = False) -> Decoding:
        """The `Decoding` of some settings, cached.

        Raises:
            ValueError: A setting is unknown, or has no effect here.
        """
        name = repr(sorted(settings.items())), plain
        if name not in self._known:
            self._known[name] = self._make(settings, plain)
        return self._known[name]

    def _room(self) -> int:
        """Number of slots available to rollouts: free ones, and those of requests that were begun ahead."""
        return self.max_slots - sum(slot.rollout is not None for slot in self.slots)

    def _proceed(self, slot: Slot, schedule: Schedule[T]) -> Slot | None:
        """Sends a rollout its completion; returns a slot for its next request, unless it was begun ahead."""
        while slot.completion is not None:
            assert slot.rollout is not None
            request = schedule.send(slot.rollout, slot.completion)
            ahead = self.speculation.adopt(slot, request)
            if request is None:
                return None
            if ahead is None:
                return self.slot_of(request, slot.rollout)
            slot = ahead
        return None

    @torch.no_grad()
    def _step(self, new: list[Slot]) -> list[Slot]:
        """Begins new slots; then decodes a token of each slot, unless one is finished. Returns the finished slots."""
        fresh = new + self.speculation.begin_ahead(new)
        self._score([slot for slot in fresh if slot.request.target is not None])
        self._begin([slot for slot in fresh if slot.request.target is None])
        done = self._collect()
        if not done and self.slots:
            self._choose(self.slots, self.sequences.next_logits(), [slot.lanes for slot in self.slots])
            done = self._collect()
        return done

    def _score(self, fresh: list[Slot]) -> None:
        """Scores the targets of slots in one pass, without sequences: they are finished at once."""
        if not fresh:
            return
        self.slots += fresh
        scores = self.sequences.scores([slot.request for slot in fresh])
        for slot, (ids, logprobs) in zip(fresh, scores, strict=True):
            slot.completion = Completion(slot.request.target or "", "scored", ids.tolist(), logprobs.tolist())

    def _begin(self, fresh: list[Slot]) -> None:
        """Allocates the sequences of slots, reads their prompts and chooses their first tokens."""
        if not fresh:
            return
        # 1. Embed the prompts, with the visual tokens first.
        prompts = self.sequences.prompts(fresh)
        for slot, prompt in zip(fresh, prompts, strict=True):
            self.sequences.add(slot, len(prompt))
            if slot.decoding.beams > 1:
                request = slot.request
                whole, n = request.stop is None, request.sampling.n
                slot.search = BeamSearch(slot.decoding, slot.text.until, whole, n, slot.text.prompt)
            else:
                self.speculation.propose(slot, len(self.slots) + len(fresh))
        self.slots += fresh
        # 2. One forward pass per pack of prompts.
        start = 0
        for pack in self.sequences.packs(fresh):
            logits = self.sequences.read(prompts[start : start + len(pack)], pack)
            start += len(pack)
            # 3. Choose the first tokens. A slot has a row of logits after its prompt and after each id of its draft.
            sizes = [len(slot.draft) + 1 for slot in pack]
            firsts = [sum(sizes[:place]) for place in range(len(pack))]
            plain = [place for place, slot in enumerate(pack) if not slot.draft]
            rows = [[firsts[place]] * len(pack[place].lanes) for place in plain]
            self._choose([pack[place] for place in plain], logits, rows)
            for slot, first, size in zip(pack, firsts, sizes, strict=True):
                if slot.draft:
                    self.speculation.verify(slot, logits[first : first + size])

    def _choose(self, slots: list[Slot], logits: torch.Tensor, rows: list[list[int]]) -> None:
        """Chooses the next token of each slot, and sets the completions of those that are finished.

        Args:
            slots: The slots.
            logits: float32 (N, vocabulary).
            rows: For each slot, its rows of the logits, one per lane.
        """
        # 1. Beam searches, one by one.
        groups: dict[int, list[int]] = {}
        for place, slot in enumerate(slots):
            if slot.search is None:
                groups.setdefault(id(slot.decoding), []).append(place)
                continue
            parents = slot.search.advance(logits[rows[place]])
            slot.completion = slot.search.outcome
            if slot.completion is None:
                self.sequences.reorder(slot, parents, slot.search.tokens)
        # 2. Greedy and sampled texts, grouped by settings.
        for places in groups.values():
            chosen = [slots[place] for place in places]
            decoding = chosen[0].decoding
            decoding.choose([slot.text for slot in chosen], logits[[rows[place][0] for place in places]])
            for slot in chosen:
                self.sequences.tokens[slot.lanes[0]] = slot.text.ids[-1]
                if decoding.finished(slot.text):
                    slot.completion = decoding.completion(slot.text)

    def _collect(self) -> list[Slot]:
        """Frees and returns the finished slots."""
        done = [slot for slot in self.slots if slot.completion is not None]
        self.release(done)
        return done

    def release(self, done: list[Slot]) -> None:
        """Frees finished or discarded slots and compacts the lanes of the others."""
        if done:
            self.slots = [slot for slot in self.slots if slot not in done]
            self.sequences.remove(done, self.slots)
