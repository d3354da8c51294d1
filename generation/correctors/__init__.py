"""Correctors: rollouts that check or improve the answer to a question about an image.

To add one, write a file with a `Corrector` and name it in `CORRECTORS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vigc.generation.correctors.base import Corrector, CorrectorRollout
from vigc.generation.correctors.iqf import IQF
from vigc.generation.correctors.none import NONE
from vigc.generation.correctors.one_shot import ONE_SHOT

CORRECTORS: dict[str, Corrector] = {"none": NONE, "one_shot": ONE_SHOT, "iqf": IQF}


def corrector_of(configuration: Mapping[str, Any]) -> str:
    """The name of a job's corrector. The configuration only contains it if `correct` does not determine it."""
    return configuration.get("corrector", default_corrector(correct=configuration["correct"]))


def default_corrector(*, correct: bool = True) -> str:
    """The name of the default corrector."""
    return "iqf" if correct else "none"


__all__ = ["CORRECTORS", "Corrector", "CorrectorRollout", "corrector_of", "default_corrector"]
