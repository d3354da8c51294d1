"""The loop that writes: many texts side by side, each from its own prompt to its own end, places refilled at once.

A row of work is a generator: it yields the call it wants written next, one at least, and is sent what was written,
until it returns its result. A slot holds one call. When a call ends, its row's next call takes the slot, or the next
row does, so that no place in a batch is spent on a text that is over. Prompts that begin together are packed end to
end, so that none is spent on padding either.

A row's next call often depends on the beginning of its last one's text alone. Where slots are free it is begun as soon
as that stands: VIC while VIG still writes its draft. It is given up where the row turns out to ask for another one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import torch

from .beams_vigc import BeamSearch
from .cache_vigc import LaneCache
from .decoding_vigc import image_features
from .packed_weights_vigc import BlockedWeights
from .placement_vigc import execution_device
from .slots_vigc import Call, Row, Slot
from .speculative_vigc import Drafts

T = TypeVar("T")

_END: Any = object()
# Prompts are packed up to so many tokens, which bounds the attention they pay to each other.
_PACK = 2048
# Calls are begun ahead up to so many lanes. There a step takes one and a half times as long as with one; with more,
# texts that are wanted would wait for those that may be.
AHEAD_LANES = 16
# Attention that takes any mask; others get packs of one prompt and transformers' own masks.
_ANY_MASK = ("sdpa", "eager")


class Engine:
    """Writes the calls of rows with one model.

    Args:
        model: A VIGC model, or any InstructBLIP with a decoder-only language model.
        processor: Makes prompts into ids (`encode_prompts`).
        max_slots: Calls written at a time, ahead or not; with beams, each takes as many places in the batch.

    Raises:
        ValueError: There is no slot.
    """

    def __init__(self, model: Any, processor: Any, max_slots: int) -> None:
        if max_slots < 1:
            raise ValueError(f"max_slots={max_slots} is too small: give at least 1.")
        self.model, self.processor, self.max_slots = model, processor, max_slots
        config = model.language_model.config.get_text_config(decoder=True)
        self.cache = LaneCache(config.num_hidden_layers, 0)
        attention = config._attn_implementation
        self.spoilt = False  # whether lanes may hold what is no number
        self.any_mask, self.added_mask = attention in _ANY_MASK, attention == "eager"
        self.drafts = Drafts(processor.tokenizer)
        self.blocked = BlockedWeights(model.qformer, model.language_model)
        self.slots: list[Slot] = []
        # For each lane: how many places are filled, and the token that comes next.
        self.lengths: list[int] = []
        self.tokens: list[int] = []

    def run(self, rows: Iterable[Row[T] | None]) -> Iterator[T]:
        """Yields the rows' results in the order in which they end.

        Args:
            rows: Taken one by one as slots become free, and never ahead of that: the order alone decides what is
                written together. None stands for a row that is not known yet; the engine goes on and asks again.
        """
        coming = iter(rows)
        waiting: deque[Slot] = deque()
        more = True
        while True:
            while more and len(waiting) < self._room():
                row: Any = next(coming, _END)
                if row is _END:
                    more = False
                elif row is None:
                    if not self.slots and not waiting:
                        raise ValueError("The next row is not known yet, but nothing is being written to wait for.")
                    break
                else:
                    waiting.append(Slot(next(row), row))
            free = min(len(waiting), self._room())
            if not free and not self.slots and not more:
                return
            done = self._step([waiting.popleft() for _ in range(free)])
            # In front of new rows, in the order of their slots: what was begun ends early and makes room.
            for slot, row in reversed([(slot, slot.row) for slot in done if slot.row is not None]):
                yield from self._proceed(row, slot, waiting)

    def _room(self) -> int:
        """Slots that rows may have: those that are free, or hold what is written ahead."""
        return self.max_slots - sum(slot.row is not None for slot in self.slots)

    def _proceed(self, row: Row[T], slot: Slot, waiting: deque[Slot]) -> Iterator[T]:
        """Sends a row what its slot has written; its next call waits, if it is not begun, or its result is yielded."""
        try:
            while slot.written is not None:
                call = row.send(slot.written)
                found = slot.found(call)
                self._drop([other for other in slot.ahead if other is not found])
                if found is None:
                    waiting.appendleft(Slot(call, row))
                    return
                found.call, found.row = call, row
                slot = found
        except StopIteration as end:
            self._drop(slot.ahead)
            yield end.value

    def _drop(self, slots: list[Slot]) -> None:
        """Gives up what is written ahead, and what is ahead of that."""
        self._release([one for slot in slots for one in slot.tree() if one.lanes])

    def _ahead(self, new: list[Slot]) -> list[Slot]:
        """Slots for calls that will follow, while there is room beside the `new` ones; makes room for those."""
        free = self.max_slots - len(self.slots) - len(new)
        if free < 0:
            # What is ahead of them was begun later, and goes with them.
            self._release([slot for slot in self.slots if slot.row is None][free:])
            return []
        lanes = AHEAD_LANES - len(self.lengths) - sum(slot.call.decoding.beams for slot in new)
        found: list[Slot] = []
        for slot in [one for root in self.slots if root.row is not None for one in root.tree()]:
            beams = slot.call.decoding.beams
            if len(found) == free or lanes < beams:
                break
            call = slot.next_call()
            if call is not None:
                found.append(Slot(call, None))
                slot.ahead.append(found[-1])
                lanes -= beams
        return found

    @torch.no_grad()
    def _step(self, new: list[Slot]) -> list[Slot]:
        """Begins slots; then, unless one of them is over already, writes a token of each. Returns what is over."""
        self._begin(new + self._ahead(new))
        done = self._collect()
        if not done and self.slots:
            self._choose(self.slots, self._next_logits(), [slot.lanes for slot in self.slots])
            done = self._collect()
        return done

    def _begin(self, fresh: list[Slot]) -> None:
        """Gives slots their lanes and writes their first tokens."""
        if not fresh:
            return
        prompts = self._prompts([slot.call for slot in fresh])
        for slot, prompt in zip(fresh, prompts, strict=True):
            call, beams, lane = slot.call, slot.call.decoding.beams, len(self.lengths)
            slot.lanes, slot.prompt_length = list(range(lane, lane + beams)), len(prompt)
            if beams > 1:
                slot.search = BeamSearch(call.decoding, call.until, call.whole)
            else:
                at_most = call.decoding.max_new_tokens - 1
                slot.draft = self.drafts.propose(call.draft, len(self.slots) + len(fresh), at_most)
            self.lengths += [len(prompt)] * beams
            self.tokens += [0] * beams
        self.slots += fresh
        start = 0
        for pack in self._packs(fresh):
            logits = self._read(prompts[start : start + len(pack)], pack)
            start += len(pack)
            sizes = [len(slot.draft) + 1 for slot in pack]
            firsts = [sum(sizes[:place]) for place in range(len(pack))]
            plain = [place for place, slot in enumerate(pack) if not slot.draft]
            rows = [[firsts[place]] * len(pack[place].lanes) for place in plain]
            self._choose([pack[place] for place in plain], logits, rows)
            for slot, first, size in zip(pack, firsts, sizes, strict=True):
                if slot.draft:
                    self._verify(slot, logits[first : first + size])

    def _prompts(self, calls: list[Call]) -> list[torch.Tensor]:
        """The calls' prompts, each float (places, text width); visual tokens come first."""
        device = execution_device(self.model)
        inputs = self.processor.encode_prompts([call.prompt for call in calls]).to(device)
        image_embeds = torch.stack([call.image_embeds for call in calls]).to(device)
        with self.blocked.on():
            features, _ = image_features(
                self.model, image_embeds, inputs["qformer_input_ids"], inputs["qformer_attention_mask"]
            )
        places = inputs["input_ids"] == calls[0].decoding.image_token_id
        embeds = self.model.get_input_embeddings()(inputs["input_ids"].masked_fill(places, 0))
        places, mask = places.to(embeds.device), inputs["attention_mask"].to(embeds.device)
        embeds = embeds.masked_scatter(places.unsqueeze(-1), features.to(embeds.device, embeds.dtype))
        return [row[seen] for row, seen in zip(embeds, mask.bool(), strict=True)]

    def _packs(self, slots: list[Slot]) -> list[list[Slot]]:
        packs: list[list[Slot]] = []
        size = 0
        for slot in slots:
            length = slot.prompt_length + len(slot.draft)
            if not packs or size + length > _PACK or not self.any_mask:
                packs.append([])
                size = 0
            packs[-1].append(slot)
            size += length
        return packs

    def _read(self, prompts: list[torch.Tensor], slots: list[Slot]) -> torch.Tensor:
        """As `_prefill`. A text whose logits are no numbers takes none from others: zero times NaN is NaN."""
        lanes = [lane for slot in slots for lane in slot.lanes]
        if self.spoilt:
            self.cache.clear(lanes)
        logits = self._prefill(prompts, slots)
        if logits.isnan().any():
            self.spoilt = True
            if len(slots) > 1:
                self.cache.clear(lanes)
                alone = zip(prompts, slots, strict=True)
                logits = torch.cat([self._prefill([prompt], [slot]) for prompt, slot in alone])
        return logits

    def _prefill(self, prompts: list[torch.Tensor], slots: list[Slot]) -> torch.Tensor:
        """Reads prompts and drafts into the slots' lanes.

        Returns:
            Logits behind each prompt and behind each id of its draft, float32 (slots + ids of drafts, vocabulary).
        """
        device = prompts[0].device
        embed = self.model.get_input_embeddings()
        parts, lanes = [], []
        places: list[int] = []
        keep: list[int] = []
        for slot, prompt in zip(slots, prompts, strict=True):
            parts.append(prompt)
            if slot.draft:
                parts.append(embed(torch.tensor(slot.draft, device=device)))
            length = slot.prompt_length + len(slot.draft)
            keep += range(len(places) + slot.prompt_length - 1, len(places) + length)
            places += range(length)
            lanes += [slot.lanes[0]] * length
        where = torch.tensor([lanes, places], device=device)
        mask = None
        if len(slots) > 1:
            order = torch.arange(len(places), device=device)
            own = (where[0][:, None] == where[0]) & (order[:, None] >= order)
            mask = self._mask(own, parts[0].dtype)[None, None]
        self._point(where, 0, max(places) + 2)
        kept = torch.tensor(keep, device=device)
        embeds = torch.cat(parts)[None]
        logits = self._forward(mask, where[1][None], logits_to_keep=kept, inputs_embeds=embeds)[0]
        for slot in slots:
            if others := slot.lanes[1:]:
                self.cache.copy(slot.lanes[:1] * len(others), others, 0, slot.prompt_length)
        return logits

    def _verify(self, slot: Slot, logits: torch.Tensor) -> None:
        """Takes the draft's ids as long as they are those that would have been written, and the one behind them."""
        decoding, lane = slot.call.decoding, slot.lanes[0]
        right = 0
        for row, expected in enumerate([*slot.draft, None]):
            decoding.choose([slot.text], logits[row : row + 1])
            token = self.tokens[lane] = slot.text.ids[-1]
            right += token == expected
            if decoding.finished(slot.text) or token != expected:
                break
        # What was read of the draft behind this is overwritten.
        self.lengths[lane] = slot.prompt_length + right
        slot.text.accepted = right
        self.drafts.note(right, len(slot.draft))
        if slot.text.stop:
            slot.written = decoding.written(slot.text)

    def _next_logits(self) -> torch.Tensor:
        """Logits behind the tokens that come next, float32 (lanes, vocabulary)."""
        device = execution_device(self.model.get_input_embeddings())
        lengths = torch.tensor(self.lengths, device=device)
        width = max(self.lengths) + 1
        self._point(torch.stack([torch.arange(len(self.lengths), device=device), lengths]), width, width)
        mask = None
        if min(self.lengths) + 1 < width:
            seen = torch.arange(width, device=device) <= lengths[:, None]
            mask = self._mask(seen, self.model.dtype)[:, None, None] if self.any_mask else seen.long()
        tokens = torch.tensor(self.tokens, device=device)[:, None]
        logits = self._forward(mask, lengths[:, None], logits_to_keep=1, input_ids=tokens)[:, -1]
        self.lengths = [length + 1 for length in self.lengths]
        self.spoilt = self.spoilt or bool(logits.isnan().any())
        return logits

    def _forward(self, mask: torch.Tensor | None, positions: torch.Tensor, **inputs: Any) -> torch.Tensor:
        with self.blocked.on():
            outputs = self.model.language_model(
                attention_mask=mask, position_ids=positions, past_key_values=self.cache, use_cache=True, **inputs
            )
        return outputs.logits.float()

    def _mask(self, seen: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """What attention takes for "may be seen": the truth, or what is added to its scores."""
        if not self.added_mask:
            return seen
        return torch.zeros_like(seen, dtype=dtype).masked_fill(~seen, torch.finfo(dtype).min)

    def _point(self, where: torch.Tensor, width: int, end: int) -> None:
        self.cache.lanes = max(self.cache.lanes, len(self.lengths))
        self.cache.point(where, width, end)

    def _choose(self, slots: list[Slot], logits: torch.Tensor, rows: list[list[int]]) -> None:
        """Takes the next token of each of the slots, and notes which are over.

        Args:
            slots: The slots.
            logits: float32 (N, vocabulary).
            rows: For each slot, the rows of the logits that are its own: one for each of its lanes.
        """
        groups: dict[int, list[int]] = {}
        for place, slot in enumerate(slots):
            if slot.search is None:
                groups.setdefault(id(slot.call.decoding), []).append(place)
            else:
                self._search(slot, slot.search, logits[rows[place]])
        for places in groups.values():
            chosen = [slots[place] for place in places]
            decoding = chosen[0].call.decoding
            decoding.choose([slot.text for slot in chosen], logits[[rows[place][0] for place in places]])
            for slot in chosen:
                self.tokens[slot.lanes[0]] = slot.text.ids[-1]
                if decoding.finished(slot.text):
                    slot.written = decoding.written(slot.text)

    def _search(self, slot: Slot, search: BeamSearch, logits: torch.Tensor) -> None:
        parents = search.advance(logits)
        slot.written = search.outcome
        if slot.written is not None:
            return
        moved = [(slot.lanes[parent], lane) for parent, lane in zip(parents, slot.lanes, strict=True)]
        moved = [(source, target) for source, target in moved if source != target]
        if moved and self.lengths[slot.lanes[0]] > slot.prompt_length:  # the prompt is the same in all
            sources, targets = zip(*moved, strict=True)
            self.cache.copy(list(sources), list(targets), slot.prompt_length, self.lengths[slot.lanes[0]])
        for lane, token in zip(slot.lanes, search.tokens, strict=True):
            self.tokens[lane] = token

    def _collect(self) -> list[Slot]:
        """Takes out the slots that are over."""
        done = [slot for slot in self.slots if slot.written is not None]
        self._release(done)
        return done

    def _release(self, done: list[Slot]) -> None:
        """Takes out slots; the lanes of the others close up."""
        if not done:
            return
        self.slots = [slot for slot in self.slots if slot not in done]
        free = sorted(lane for slot in done for lane in slot.lanes)
        left = len(self.lengths) - len(free)
        holes = [lane for lane in free if lane < left]
        movers = sorted({lane for slot in self.slots for lane in slot.lanes if lane >= left})
        if holes:
            if self.spoilt:  # what lies behind a shorter text's end must be finite
                self.cache.clear(holes)
            self.cache.copy(movers, holes, 0, max(self.lengths[lane] for lane in movers))
            target = dict(zip(movers, holes, strict=True))
            for lane, hole in target.items():
                self.lengths[hole], self.tokens[hole] = self.lengths[lane], self.tokens[lane]
            for slot in self.slots:
                slot.lanes = [target.get(lane, lane) for lane in slot.lanes]
        del self.lengths[left:], self.tokens[left:]
        for slot in done:
            slot.lanes = []
