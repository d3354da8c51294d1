"""Samples -> one batch of tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from vigc.processing import VigcProcessor

from .mixture import Sample


@dataclass
class VigcDataCollator:
    """Makes batches with the processor, which cuts, pads and labels as the release does.

    Args:
        processor: The model's.
    """

    processor: VigcProcessor

    def __call__(self, samples: Sequence[Sample]) -> dict[str, torch.Tensor]:
        """Tensors of a batch.

        Returns:
            `pixel_values` float (B, 3, H, W); `input_ids`, `attention_mask` and `labels` int64 (B, T); and
            `qformer_input_ids`, `qformer_attention_mask` int64 (B, Q). For samples of an evaluation also `groups`,
            int64 (B,).
        """
        batch = self.processor(
            images=[sample.image for sample in samples],
            text=[sample.text for sample in samples],
            target=[sample.target for sample in samples],
            return_tensors="pt",
        )
        tensors = {name: value for name, value in batch.items() if isinstance(value, torch.Tensor)}
        groups = [sample.group for sample in samples if sample.group is not None]
        if groups:
            tensors["groups"] = torch.tensor(groups)
        return tensors
