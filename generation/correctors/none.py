"""No correction."""

from __future__ import annotations

from typing import Any

from vigc.modeling_vigc.requests_vigc import Rollout, Sample
from vigc.modeling_vigc.rollout_vigc import RolloutSettings

from .base import Corrector


def keep(
    image: Any, question: str, draft: str | None, settings: RolloutSettings, task: str | None = None, seed: int = 0
) -> Rollout[Sample]:
    """The draft is the answer. Arguments as of `CorrectorRollout`."""
    return Sample(task, question, draft, draft)
    yield


NONE = Corrector(keep)
