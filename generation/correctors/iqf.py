"""VIC with the Iterative Q-Former, as in the paper: the Q-Former reads the sentences before each new one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .base import Corrector

if TYPE_CHECKING:
    from vigc.modeling_vigc.requests_vigc import Rollout, Sample
    from vigc.modeling_vigc.rollout_vigc import RolloutSettings


def answer_again(
    image: Any, question: str, draft: str | None, settings: RolloutSettings, task: str | None = None, seed: int = 0
) -> Rollout[Sample]:
    """The rollout of the paper; for the arguments see `CorrectorRollout`."""
    from vigc.modeling_vigc.rollout_vigc import iqf  # imports torch, which checks of options do not need

    return iqf(image, question, draft, settings, task, seed)


IQF = Corrector(answer_again, needs_draft=False)
