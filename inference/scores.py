"""Log-probability and visual dependency of answers under a VIGC model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from vigc.modeling_vigc.scoring_vigc import target_logprobs

from .fitting import Fitting


@dataclass(frozen=True)
class VigcScorer:
    """A [`Scorer`] over a loaded model.

    Args:
        model: The model in evaluation mode, on its device.
        processor: The model's processor.
        fitting: Halves a batch that does not fit into memory.
    """

    model: Any
    processor: Any
    fitting: Fitting

    @torch.no_grad()
    def mean_logprobs(
        self, images: Sequence[torch.Tensor], questions: Sequence[str], answers: Sequence[str], task: str | None
    ) -> list[float]:
        """See [`Scorer.mean_logprobs`]. Images: the ViT's output for each, float (patches + 1, vision width)."""

        def scores(part: slice) -> list[float]:
            return self._mean_logprobs(torch.stack([*images[part]]), questions[part], answers[part], task)

        return self._in_parts(len(images), scores)

    @torch.no_grad()
    def visual_dependencies(
        self, images: Sequence[torch.Tensor], questions: Sequence[str], answers: Sequence[str], task: str | None
    ) -> list[float]:
        """See [`Scorer.visual_dependencies`]; images as above.

        A blank image is uniform grey: its normalised pixels are all zero.
        """

        def scores(part: slice) -> list[float]:
            embeds = torch.stack([*images[part]])
            size = self.model.config.vision_config.image_size
            blank = torch.zeros(1, 3, size, size, device=embeds.device, dtype=self.model.dtype)
            blank_embeds = self.model.get_image_embeds(blank).expand_as(embeds)
            seen = self._mean_logprobs(embeds, questions[part], answers[part], task)
            unseen = self._mean_logprobs(blank_embeds, questions[part], answers[part], task)
            return [with_image - without for with_image, without in zip(seen, unseen, strict=True)]

        return self._in_parts(len(images), scores)

    def _in_parts(self, count: int, scores: Callable[[slice], list[float]]) -> list[float]:
        return [score for part in self.fitting.run(count, scores) for score in part]

    def _mean_logprobs(
        self, image_embeds: torch.Tensor, questions: Sequence[str], answers: Sequence[str], task: str | None
    ) -> list[float]:
        """The scores of one batch. `image_embeds`: float (B, patches + 1, vision width)."""
        prompts = [self.processor.vic_prompt(question, task) for question in questions]
        found = target_logprobs(self.model, self.processor, image_embeds, prompts, answers)
        return [logprobs.mean().item() for _, logprobs in found]
