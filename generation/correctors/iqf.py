"""VIC: the answer is generated again, in one request or sentence by sentence with the Iterative Q-Former."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Protocol

from vigc.modeling_vigc import rollout_vigc
from vigc.modeling_vigc.requests_vigc import Rollout, Sample
from vigc.modeling_vigc.rollout_vigc import RolloutSettings


class Corrector(Protocol):
    """Makes the rollout that corrects an answer."""

    def __call__(
        self,
        image: Any,
        question: str,
        draft: str | None,
        settings: RolloutSettings,
        task: str | None = None,
        seed: int = 0,
    ) -> Rollout[Sample]:
        """A rollout that returns the sample with its corrected answer.

        Args:
            image: What `Request.images` takes.
            question: The question.
            draft: Its answer so far; None if there is none.
            settings: Prompts, IQF and decoding.
            task: The question's type, if it has one.
            seed: For sampling.
        """


def iqf(
    image: Any, question: str, draft: str | None, settings: RolloutSettings, task: str | None = None, seed: int = 0
) -> Rollout[Sample]:
    """The paper's: each sentence is generated in the light of those before it. Arguments as of [`Corrector`]."""
    return rollout_vigc.iqf(image, question, draft, settings, task, seed)


def one_shot(
    image: Any, question: str, draft: str | None, settings: RolloutSettings, task: str | None = None, seed: int = 0
) -> Rollout[Sample]:
    """One request, kept whole. Arguments as of [`Corrector`]."""
    settings = replace(settings, iqf=replace(settings.iqf, iqf_steps=0))
    return rollout_vigc.iqf(image, question, draft, settings, task, seed)
