"""Continuous batching: requests of different lengths are decoded together, and one that ends is replaced at once.

A rollout is a generator that yields its next request and is sent the completion, until it returns its result. A slot
holds one request. When it ends, its rollout's next request takes the slot, or the next rollout does, so that the slots
stay full. Prompts that begin together are packed end to end, without padding.

`Engine.run` is the loop and `_step` its step; the forward passes are in `sequences_vigc.py`, the order in which
rollouts begin in `Schedule`. Speculative decoding (`speculative_vigc.py`) stands beside them and changes no completion.
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
        processor: Makes prompts into ids (`encode_prompts`).
        max_slots: Requests decoded at a time, ahead or not; with beams, each takes as many sequences of the batch.
        decoding: Makes `SamplingParams.settings`, and whether they are `plain`, into a `Decoding`; asked once for equal
            ones.

    Raises:
        ValueError: There is no slot.
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
        """Yields the rollouts' results in the order in which they end.

        Args:
            rollouts: As [`Schedule`] takes them: None ends a batch, or says that no rollout is ready.

        Raises:
            ValueError: No rollout is ready, and nothing is being decoded to wait for; or settings that are unknown.
        """
        yield from self.run_schedule(Schedule(rollouts))

    def run_schedule(self, schedule: Schedule[T]) -> Iterator[T]:
        """As `run`. Where an error ends it, the schedule can be given to another engine."""
        waiting: list[Slot] = []
        while True:
            # 1. Fill the free slots. Rollouts that go on are waiting already, in front.
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
                raise ValueError("No rollout is ready, but nothing is being written to wait for.")
            # 2. Read their prompts, or decode a token of each sequence.
            done = self._step(waiting)
            # 3. Hand out completions, from the last slot to the first. What goes on keeps its slot: it comes before
            # new rollouts, in the order of the slots, since what was begun ends early and makes room.
            waiting = []
            for slot in reversed([slot for slot in done if slot.rollout is not None]):
                if following := self._proceed(slot, schedule):
                    waiting.insert(0, following)
                yield from schedule.results()

    def slot_of(self, request: Request, rollout: Rollout[Any] | None) -> Slot:
        """A slot for a request, with its decoding settings."""
        for name in ("schema", "system"):
            if getattr(request, name, None) is not None:
                raise ValueError(f"The engine knows no Request.{name}: ask another generator, or leave it out.")
        sampling = request.sampling
        decoding, n = self.decoding(sampling.settings, sampling.plain), sampling.n
        if n > decoding.beams:
            raise ValueError(f"n={n} completions need as many beams, but num_beams is {decoding.beams}: raise it.")
        return Slot(request, decoding, rollout)

    def decoding(self, settings: Mapping[str, Any], plain: bool = False) -> Decoding:
        """Decoding settings, ready to be applied; made once for equal ones.

        Raises:
            ValueError: Settings that are unknown, or have no effect here.
        """
        name = repr(sorted(settings.items())), plain
        if name not in self._known:
            self._known[name] = self._make(settings, plain)
        return self._known[name]

    def _room(self) -> int:
        """Slots that rollouts may have: those that are free, or hold what is decoded ahead."""
        return self.max_slots - sum(slot.rollout is not None for slot in self.slots)

    def _proceed(self, slot: Slot, schedule: Schedule[T]) -> Slot | None:
        """Sends a rollout its completion. Returns a slot for its next request, unless that was begun ahead."""
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
        """Begins slots; then, unless one of them is over already, decodes a token of each. Returns what is over."""
        fresh = new + self.speculation.begin_ahead(new)
        self._score([slot for slot in fresh if slot.request.target is not None])
        self._begin([slot for slot in fresh if slot.request.target is None])
        done = self._collect()
        if not done and self.slots:
            self._choose(self.slots, self.sequences.next_logits(), [slot.lanes for slot in self.slots])
            done = self._collect()
        return done

    def _score(self, fresh: list[Slot]) -> None:
        """Scores the targets of slots in one pass, without sequences: they are over at once."""
        if not fresh:
            return
        self.slots += fresh
        scores = self.sequences.scores([slot.request for slot in fresh])
        for slot, (ids, logprobs) in zip(fresh, scores, strict=True):
            slot.completion = Completion(slot.request.target or "", "scored", ids.tolist(), logprobs.tolist())

    def _begin(self, fresh: list[Slot]) -> None:
        """Gives slots their sequences, reads their prompts and chooses their first tokens."""
        if not fresh:
            return
        # 1. Prompts as embeddings, the Q-Former's view of the image in front.
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
        # 2. One pass for each pack of prompts.
        start = 0
        for pack in self.sequences.packs(fresh):
            logits = self.sequences.read(prompts[start : start + len(pack)], pack)
            start += len(pack)
            # 3. The first tokens. A slot has a row of logits behind its prompt, and one behind each id of its draft.
            sizes = [len(slot.draft) + 1 for slot in pack]
            firsts = [sum(sizes[:place]) for place in range(len(pack))]
            plain = [place for place, slot in enumerate(pack) if not slot.draft]
            rows = [[firsts[place]] * len(pack[place].lanes) for place in plain]
            self._choose([pack[place] for place in plain], logits, rows)
            for slot, first, size in zip(pack, firsts, sizes, strict=True):
                if slot.draft:
                    self.speculation.verify(slot, logits[first : first + size])

    def _choose(self, slots: list[Slot], logits: torch.Tensor, rows: list[list[int]]) -> None:
        """Chooses the next token of each of the slots, and notes which are over.

        Args:
            slots: The slots.
            logits: float32 (N, vocabulary).
            rows: For each slot, the rows of the logits that are its own: one for each of its lanes.
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
        # 2. Greedy and sampled texts, those of equal settings together.
        for places in groups.values():
            chosen = [slots[place] for place in places]
            decoding = chosen[0].decoding
            decoding.choose([slot.text for slot in chosen], logits[[rows[place][0] for place in places]])
            for slot in chosen:
                self.sequences.tokens[slot.lanes[0]] = slot.text.ids[-1]
                if decoding.finished(slot.text):
                    slot.completion = decoding.completion(slot.text)

    def _collect(self) -> list[Slot]:
        """Frees the slots that are over."""
        done = [slot for slot in self.slots if slot.completion is not None]
        self.release(done)
        return done

    def release(self, done: list[Slot]) -> None:
        """Frees slots, over or given up; the lanes of the others are compacted."""
        if done:
            self.slots = [slot for slot in self.slots if slot not in done]
            self.sequences.remove(done, self.slots)
