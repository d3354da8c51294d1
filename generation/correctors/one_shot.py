"""VIC in one request, whose completion is kept whole."""

from __future__ import annotations

from vigc.modeling_vigc.rollout_vigc import iqf

from .base import Corrector

ONE_SHOT = Corrector(iqf, needs_draft=False, settings={"iqf_steps": 0})
