"""VIC in one request: the whole completion is the answer."""

from __future__ import annotations

from .base import Corrector
from .iqf import answer_again

ONE_SHOT = Corrector(answer_again, needs_draft=False, settings={"iqf_steps": 0})
