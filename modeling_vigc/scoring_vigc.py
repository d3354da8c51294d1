"""Log-probabilities of given texts by teacher forcing, in one pass over prompts and texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch


@torch.no_grad()
def target_logprobs(
    model: Any, processor: Any, image_embeds: torch.Tensor, prompts: Sequence[str], targets: Sequence[str]
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The tokens of each target and their natural log-probabilities given its prompt.

    Prompts and targets are truncated to the lengths of training (see `VigcProcessor`). The end-of-sequence token after
    a target is not scored.

    Args:
        model: A VIGC model.
        processor: The processor of the model.
        image_embeds: float (B, patches + 1, vision width), the ViT's output for the images.
        prompts: B prompts.
        targets: B texts.

    Returns:
        For each target its ids, int64 (tokens,), and float32 (tokens,).
    """
    inputs = processor.encode_pairs(list(prompts), list(targets)).to(image_embeds.device)
    labels = inputs.pop("labels")[:, 1:]
    logits = model(image_embeds=image_embeds, **inputs).logits[:, :-1]
    found = []
    for row_logits, row_labels in zip(logits, labels, strict=True):  # a row at a time: in float32 they are large
        learnt = (row_labels != -100) & (row_labels != processor.tokenizer.eos_token_id)
        ids = row_labels[learnt]
        logprobs = row_logits[learnt].float().log_softmax(-1).gather(-1, ids[:, None])[:, 0]
        found.append((ids, logprobs))
    return found
