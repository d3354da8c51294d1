"""Collates samples into a batch of tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch

from vigc.processing import VigcProcessor

from .mixture import Sample

# The arguments of a model's forward: tensors by name, and further keys that identify rows.
Batch: TypeAlias = dict[str, Any]


@dataclass
class VigcDataCollator:
    """Makes batches with the processor, which truncates, pads and labels as the release does.

    Args:
        processor: The model's processor.
    """

    processor: VigcProcessor

    def __call__(self, samples: Sequence[Sample]) -> dict[str, torch.Tensor]:
        """The tensors of a batch.

        Returns:
            `pixel_values` float (B, 3, H, W), or `image_embeds` float (B, patches + 1, vision width) if the samples
            have features; `input_ids`, `attention_mask` and `labels` int64 (B, T); and `qformer_input_ids`,
            `qformer_attention_mask` int64 (B, Q). For evaluation samples also `groups`, int64 (B,).
        """
        texts, targets = [sample.text for sample in samples], [sample.target for sample in samples]
        embeds = [sample.image_embeds for sample in samples if sample.image_embeds is not None]
        if embeds:
            batch = self.processor.encode_pairs(texts, targets)
            batch["image_embeds"] = torch.stack(embeds)
        else:
            images = [sample.image for sample in samples]
            batch = self.processor(images=images, text=texts, target=targets, return_tensors="pt")
        tensors = {name: value for name, value in batch.items() if isinstance(value, torch.Tensor)}
        groups = [sample.group for sample in samples if sample.group is not None]
        if groups:
            tensors["groups"] = torch.tensor(groups)
        return tensors
