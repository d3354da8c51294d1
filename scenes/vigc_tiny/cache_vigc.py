"""Keys and values of texts that are written side by side, each with its own length and its own end."""

from __future__ import annotations

from typing import Any, cast

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

_BLOCK = 128


class LaneLayer(CacheLayerMixin):
    """Keys and values of one layer, float (lanes, heads, places, head width), allocated ahead.

    A lane holds one text from place 0 on. What lies behind its end is finite but meaningless, and is masked.
    """

    is_sliding = False

    def __init__(self, cache: LaneCache) -> None:
        super().__init__()
        self.cache = cache

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Makes room for what the cache asks for, keeping what is there."""
        self.dtype, self.device = key_states.dtype, key_states.device
        self.keys = self._roomier(self.keys, key_states)
        self.values = self._roomier(self.values, value_states)
        self.is_initialized = True

    def _roomier(self, old: torch.Tensor | None, states: torch.Tensor) -> torch.Tensor:
        # Zeros, since a masked place still counts zero times its value, which must not be infinite.
        new = states.new_zeros(self.cache.lanes, states.shape[1], self.cache.places, states.shape[-1])
        if old is not None:
            new[: old.shape[0], :, : old.shape[2]] = old
        return new

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Stores the states, float (B, heads, T, head width), where the cache says; returns all that may be seen."""
        if self.keys is None or self.keys.shape[0] < self.cache.lanes or self.keys.shape[2] < self.cache.places:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None and self.values is not None
        where = self.cache.where.to(key_states.device)
        self.keys[where[0], :, where[1]] = key_states.transpose(1, 2).flatten(0, 1)
        self.values[where[0], :, where[1]] = value_states.transpose(1, 2).flatten(0, 1)
        if self.cache.width == 0:
            return key_states, value_states
        count = key_states.shape[0]
        return self.keys[:count, :, : self.cache.width], self.values[:count, :, : self.cache.width]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """What transformers' masks cover: the places seen, from the first on."""
        return self.cache.width or query_length, 0

    def get_seq_length(self) -> int:
        """Places in front of the queries, for transformers' masks."""
        return max(self.cache.width - 1, 0)

    def get_max_length(self) -> int:
        """There is no maximum."""
        return -1


class LaneCache(Cache):
    """A cache of lanes for a decoder-only language model with full attention.

    Args:
        layers: Number of layers.
        lanes: How many texts there are at most.
    """

    def __init__(self, layers: int, lanes: int) -> None:
        self.lanes, self.places = lanes, 0
        self.where = torch.zeros(2, 0, dtype=torch.long)
        self.width = 0
        super().__init__(layers=[LaneLayer(self) for _ in range(layers)])

    def point(self, where: torch.Tensor, width: int, end: int) -> None:
        """Says what the next pass is about.

        Args:
            where: int64 (2, N), lane and place of each of its tokens in their order.
            width: How many places its queries may see; 0 if only each other (a pack of whole prompts).
            end: Places that are needed in all.
        """
        self.where, self.width = where, width
        if end > self.places:
            self.places = -(-max(end, self.places + _BLOCK) // _BLOCK) * _BLOCK

    def clear(self, lanes: list[int]) -> None:
        """Fills lanes with zeros, as far as they have been used."""
        for layer in cast(Any, self.layers):
            if layer.keys is not None:
                used = [lane for lane in lanes if lane < layer.keys.shape[0]]
                layer.keys[used], layer.values[used] = 0, 0

    def copy(self, sources: list[int], targets: list[int], begin: int, end: int) -> None:
        """Copies the places from `begin` up to `end` of the source lanes to the target lanes, all at once."""
        for layer in cast(Any, self.layers):
            for states in (layer.keys, layer.values):
                source, target = (torch.tensor(lanes, device=states.device) for lanes in (sources, targets))
                states[target, :, begin:end] = states[source, :, begin:end]
