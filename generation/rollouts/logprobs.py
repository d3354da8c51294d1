"""How likely an answer is, and how much of that it owes to the picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from vigc.modeling_vigc.scoring_vigc import target_logprobs


def visual_dependencies(
    model: Any,
    processor: Any,
    image_embeds: torch.Tensor,
    questions: Sequence[str],
    answers: Sequence[str],
    tasks: Sequence[str | None],
) -> list[float]:
    """Mean log-probability of each answer with its picture less that with a blank one.

    Near zero the text did not need the picture. Blank is uniform grey: all pixels zero once they are normalised.

    Args:
        model: A VIGC model.
        processor: Belongs to it.
        image_embeds: float (B, patches + 1, vision width), the ViT's output for the pictures.
        questions: B questions.
        answers: B answers.
        tasks: The type of each question, or None.
    """
    size = model.config.vision_config.image_size
    blank = torch.zeros(1, 3, size, size, device=image_embeds.device, dtype=model.dtype)
    blank_embeds = model.get_image_embeds(blank).expand_as(image_embeds)
    seen = mean_logprobs(model, processor, image_embeds, questions, answers, tasks)
    unseen = mean_logprobs(model, processor, blank_embeds, questions, answers, tasks)
    return [with_picture - without for with_picture, without in zip(seen, unseen, strict=True)]


def mean_logprobs(
    model: Any,
    processor: Any,
    image_embeds: torch.Tensor,
    questions: Sequence[str],
    answers: Sequence[str],
    tasks: Sequence[str | None],
) -> list[float]:
    """Mean log-probability of each answer's tokens as VIC's, natural logarithm; arguments as above."""
    prompts = [processor.vic_prompt(question, task) for question, task in zip(questions, tasks, strict=True)]
    found = target_logprobs(model, processor, image_embeds, prompts, answers)
    return [logprobs.mean().item() for _, logprobs in found]
