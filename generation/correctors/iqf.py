"""VIC with the Iterative Q-Former: each sentence is generated in the light of those before it, as in the paper."""

from __future__ import annotations

from vigc.modeling_vigc.rollout_vigc import iqf

from .base import Corrector

IQF = Corrector(iqf, needs_draft=False)
