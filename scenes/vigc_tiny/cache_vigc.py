"""The key-value cache of continuous batching: sequences of different lengths, which end independently."""

from __future__ import annotations

from typing import Any, cast

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

_BLOCK = 128


class LaneLayer(CacheLayerMixin):
    """Keys and values of one layer, float (lanes, heads, positions, head width), allocated in advance.

    A lane holds one sequence from position 0 on. Values after its end are finite but meaningless, and are masked.
    """

    is_sliding = False

    def __init__(self, cache: LaneCache) -> None:
        super().__init__()
        self.cache = cache

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Allocates what the cache needs, and keeps existing values."""
        self.dtype, self.device = key_states.dtype, key_states.device
        self.keys = self._roomier(self.keys, key_states)
        self.values = self._roomier(self.values, value_states)
        self.is_initialized = True

    def _roomier(self, old: torch.Tensor | None, states: torch.Tensor) -> torch.Tensor:
        # Zeros, because a masked value is still multiplied by 0 and must be finite.
        new = states.new_zeros(self.cache.lanes, states.shape[1], self.cache.places, states.shape[-1])
        if old is not None:
            new[: old.shape[0], :, : old.shape[2]] = old
        return new

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Stores the states, float (B, heads, T, head width), at `cache.where`; returns the visible keys and values."""
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
        """The number of visible positions and the offset of the first, for transformers' masks."""
        return self.cache.width or query_length, 0

    def get_seq_length(self) -> int:
        """Number of positions before the queries, for transformers' masks."""
        return max(self.cache.width - 1, 0)

    def get_max_length(self) -> int:
        """There is no maximum."""
        return -1


class LaneCache(Cache):
    """A cache for a decoder-only language model with full attention. A lane is the row of one sequence.

    Args:
        layers: Number of layers.
        lanes: The maximum number of sequences.
    """

    def __init__(self, layers: int, lanes: int) -> None:
        self.lanes, self.places = lanes, 0
        self.where = torch.zeros(2, 0, dtype=torch.long)
        self.width = 0
        super().__init__(layers=[LaneLayer(self) for _ in range(layers)])

    def point(self, where: torch.Tensor, width: int, end: int) -> None:
        """Prepares the next forward pass.

        Args:
            where: int64 (2, N), lane and position of each of its tokens.
            width: Number of positions that its queries can see; 0 for packed prompts, which only see each other.
            end: Number of positions to allocate.
        """
        self.where, self.width = where, width
        if end > self.places:
            self.places = -(-max(end, self.places + _BLOCK) // _BLOCK) * _BLOCK

    def clear(self, lanes: list[int]) -> None:
        """Fills lanes with zeros, if they are allocated."""
        for layer in cast(Any, self.layers):
            if layer.keys is not None:
                used = [lane for lane in lanes if lane < layer.keys.shape[0]]
                layer.keys[used], layer.values[used] = 0, 0

    def copy(self, sources: list[int], targets: list[int], begin: int, end: int) -> None:
        """Copies positions `begin` to `end` of the source lanes to the target lanes, all at once."""
        for layer in cast(Any, self.layers):
            for states in (layer.keys, layer.values):
                source, target = (torch.tensor(lanes, device=states.device) for lanes in (sources, targets))
                states[target, :, begin:end] = states[source, :, begin:end]
