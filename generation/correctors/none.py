"""No correction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .base import Corrector

if TYPE_CHECKING:
    from vigc.modeling_vigc.requests_vigc import Rollout, Sample
    from vigc.modeling_vigc.rollout_vigc import RolloutSettings


def keep(
    image: Any, question: str, draft: str | None, settings: RolloutSettings, task: str | None = None, seed: int = 0
) -> Rollout[Sample]:
    """Returns the draft as answer; for the arguments see `CorrectorRollout`."""
    from vigc.modeling_vigc.requests_vigc import Sample

    return Sample(task, question, draft, draft)
    yield


NONE = Corrector(keep)
