"""The batch of sequences that are decoded together: its cache, and the forward passes."""

from __future__ import annotations

from typing import Any

import torch

from .cache_vigc import LaneCache
from .decoding_vigc import image_features
from .packed_weights_vigc import BlockedWeights
from .placement_vigc import execution_device
from .requests_vigc import Request
from .scoring_vigc import target_logprobs
from .slots_vigc import Slot

# Maximum number of tokens of packed prompts, which bounds the cost of their masked attention.
_PACK = 2048
# Attention implementations that take any mask; others get packs of one prompt and transformers' masks.
_ANY_MASK = ("sdpa", "eager")


class Sequences:
    """A batch of sequences of different lengths, each in its own lane of the cache.

    Args:
        model: A VIGC model, or any InstructBLIP with a decoder-only language model.
        processor: Encodes prompts (`encode_prompts`).
    """

    def __init__(self, model: Any, processor: Any) -> None:
        self.model, self.processor = model, processor
        config = model.language_model.config.get_text_config(decoder=True)
        self.cache = LaneCache(config.num_hidden_layers, 0)
        attention = config._attn_implementation
        self.any_mask, self.added_mask = attention in _ANY_MASK, attention == "eager"
        self.has_nan = False  # whether lanes may have NaN values
        self.blocked = BlockedWeights(model.qformer, model.language_model)
        self.image_token_id = processor.tokenizer.convert_tokens_to_ids("<image>")
        # For each lane: the number of filled cache positions, and the next token.
        self.lengths: list[int] = []
        self.tokens: list[int] = []

    # Prompts

    def prompts(self, slots: list[Slot]) -> list[torch.Tensor]:
        """Embeds the slots' prompts, each float (tokens, text width), with visual tokens first if there is an image.

        Raises:
            ValueError: A request has more than one image.
        """
        requests = [slot.request for slot in slots]
        device = execution_device(self.model)
        inputs = self.processor.encode_prompts([prompt_of(request) for request in requests]).to(device)
        seeing = [place for place, request in enumerate(requests) if request.images]
        places = inputs["input_ids"] == self.image_token_id
        embeds = self.model.get_input_embeddings()(inputs["input_ids"].masked_fill(places, 0))
        places, mask = places.to(embeds.device), inputs["attention_mask"].to(embeds.device).bool()
        if len(seeing) < len(requests):
            # A request without an image has no visual tokens.
            blind = [place for place in range(len(requests)) if place not in seeing]
            mask[blind] &= ~places[blind]
            places[blind] = False
        if seeing:
            features = self._features(requests, seeing, inputs)
            embeds = embeds.masked_scatter(places.unsqueeze(-1), features.to(embeds.device, embeds.dtype))
        for slot, ids, seen in zip(slots, inputs["input_ids"], mask, strict=True):
            if slot.decoding.plain:
                slot.text.prompt = ids[seen.to(ids.device)].tolist()
        return [row[seen] for row, seen in zip(embeds, mask, strict=True)]

    def _features(self, requests: list[Request], seeing: list[int], inputs: Any) -> torch.Tensor:
        """The visual tokens of the requests with an image, conditioned on their prompts."""
        if any(len(requests[place].images) > 1 for place in seeing):
            raise ValueError("A VIGC model reads one image: give one image per request.")
        device = inputs["input_ids"].device
        image_embeds = torch.stack([requests[place].images[0] for place in seeing]).to(device)
        ids, mask = inputs["qformer_input_ids"], inputs["qformer_attention_mask"]
        if len(seeing) < len(requests):
            ids, mask = ids[seeing], mask[seeing]
        with self.blocked.on():
            return image_features(self.model, image_embeds, ids, mask)[0]

    def packs(self, slots: list[Slot]) -> list[list[Slot]]:
        """Groups slots whose prompts are read in one pass, packed end to end without padding."""
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

    def read(self, prompts: list[torch.Tensor], slots: list[Slot]) -> torch.Tensor:
        """Like `_prefill`, but isolates a sequence whose logits are NaN, which would otherwise poison its pack."""
        lanes = [lane for slot in slots for lane in slot.lanes]
        if self.has_nan:
            self.cache.clear(lanes)
        logits = self._prefill(prompts, slots)
        if logits.isnan().any():
            self.has_nan = True
            if len(slots) > 1:
                self.cache.clear(lanes)
                alone = zip(prompts, slots, strict=True)
                logits = torch.cat([self._prefill([prompt], [slot]) for prompt, slot in alone])
        return logits

    def _prefill(self, prompts: list[torch.Tensor], slots: list[Slot]) -> torch.Tensor:
        """Reads prompts and drafts into the slots' lanes.

        Returns:
            Logits after each prompt and after each id of its draft, float32 (slots + ids of drafts, vocabulary).
        """
        device = prompts[0].device
        embed = self.model.get_input_embeddings()
        parts, lanes = [], []
        places: list[int] = []
        keep: list[int] = []
        # 1. Concatenate the prompts, with the lane and the position of each token.
        for slot, prompt in zip(slots, prompts, strict=True):
            parts.append(prompt)
            if slot.draft:
                parts.append(embed(torch.tensor(slot.draft, device=device)))
            length = slot.prompt_length + len(slot.draft)
            keep += range(len(places) + slot.prompt_length - 1, len(places) + length)
            places += range(length)
            lanes += [slot.lanes[0]] * length
        where = torch.tensor([lanes, places], device=device)
        # 2. Mask: a token attends to earlier tokens of its own prompt.
        mask = None
        if len(slots) > 1:
            order = torch.arange(len(places), device=device)
            own = (where[0][:, None] == where[0]) & (order[:, None] >= order)
            mask = self._mask(own, parts[0].dtype)[None, None]
        # 3. One pass; logits only at positions where a token is chosen.
        self._point(where, 0, max(places) + 2)
        kept = torch.tensor(keep, device=device)
        embeds = torch.cat(parts)[None]
        logits = self._forward(mask, where[1][None], logits_to_keep=kept, inputs_embeds=embeds)[0]
        # 4. Copy the prompt of a beam search to its other lanes.
        for slot in slots:
            if others := slot.lanes[1:]:
                self.cache.copy(slot.lanes[:1] * len(others), others, 0, slot.prompt_length)
        return logits

    def scores(self, requests: list[Request]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Ids and log-probabilities of the requests' targets; see `target_logprobs`.

        Raises:
            ValueError: A request has no image, or several.
        """
        if any(len(request.images) != 1 for request in requests):
            raise ValueError("A VIGC model scores a target about one image: give the request one.")
        image_embeds = torch.stack([request.images[0] for request in requests])
        prompts = [prompt_of(request) for request in requests]
        targets = [request.target or "" for request in requests]
        return target_logprobs(self.model, self.processor, image_embeds, prompts, targets)

    # Next tokens

    def next_logits(self) -> torch.Tensor:
        """Reads the next token of each lane; returns the logits after it, float32 (lanes, vocabulary)."""
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
        self.has_nan = self.has_nan or bool(logits.isnan().any())
        return logits

    def _forward(self, mask: torch.Tensor | None, positions: torch.Tensor, **inputs: Any) -> torch.Tensor:
        with self.blocked.on():
            outputs = self.model.language_model(
                attention_mask=mask, position_ids=positions, past_key_values=self.cache, use_cache=True, **inputs
            )
        return outputs.logits.float()

    def _mask(self, seen: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Converts a bool mask of visible positions to the form that the attention takes: bool or additive."""
        if not self.added_mask:
            return seen
        return torch.zeros_like(seen, dtype=dtype).masked_fill(~seen, torch.finfo(dtype).min)

    def _point(self, where: torch.Tensor, width: int, end: int) -> None:
        self.cache.lanes = max(self.cache.lanes, len(self.lengths))
        self.cache.point(where, width, end)

    # Lanes

    def add(self, slot: Slot, prompt_length: int) -> None:
        """Allocates the lanes of a slot."""
        lane, beams = len(self.lengths), slot.decoding.beams
        slot.lanes, slot.prompt_length = list(range(lane, lane + beams)), prompt_length
        self.lengths += [prompt_length] * beams
        self.tokens += [0] * beams

    def reorder(self, slot: Slot, parents: list[int], tokens: list[int]) -> None:
        """Continues the beams of a search.

        Args:
            slot: The search's slot.
            parents: For each beam, the beam that it continues.
            tokens: For each beam, its next token.
        """
        moved = [(slot.lanes[parent], lane) for parent, lane in zip(parents, slot.lanes, strict=True)]
        moved = [(source, target) for source, target in moved if source != target]
        if moved and self.lengths[slot.lanes[0]] > slot.prompt_length:  # all beams have the same prompt
            sources, targets = zip(*moved, strict=True)
            self.cache.copy(list(sources), list(targets), slot.prompt_length, self.lengths[slot.lanes[0]])
        for lane, token in zip(slot.lanes, tokens, strict=True):
            self.tokens[lane] = token

    def remove(self, done: list[Slot], others: list[Slot]) -> None:
        """Frees the lanes of slots and compacts those of the others."""
        free = sorted(lane for slot in done for lane in slot.lanes)
        left = len(self.lengths) - len(free)
        holes = [lane for lane in free if lane < left]
        movers = sorted({lane for slot in others for lane in slot.lanes if lane >= left})
        if holes:
            if self.has_nan:  # values after the end of a shorter sequence must be finite
                self.cache.clear(holes)
            self.cache.copy(movers, holes, 0, max(self.lengths[lane] for lane in movers))
            target = dict(zip(movers, holes, strict=True))
            for lane, hole in target.items():
                self.lengths[hole], self.tokens[hole] = self.lengths[lane], self.tokens[lane]
            for slot in others:
                slot.lanes = [target.get(lane, lane) for lane in slot.lanes]
        del self.lengths[left:], self.tokens[left:]
        for slot in done:
            slot.lanes = []


def prompt_of(request: Request) -> str:
    """The text input of the Q-Former and the language model: the prompt and the beginning of the answer."""
    return f"{request.prompt} {request.prefix}".strip() if request.prefix else request.prompt
