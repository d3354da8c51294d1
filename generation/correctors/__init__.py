"""Correctors: rollouts that check or improve the answer to a question about an image.

A new one is a file with such a function, and its line in `CORRECTORS`.
"""

from vigc.generation.correctors.iqf import Corrector, iqf, one_shot
from vigc.generation.correctors.none import none

CORRECTORS: dict[str, Corrector] = {"none": none, "one_shot": one_shot, "iqf": iqf}

__all__ = ["CORRECTORS", "Corrector"]
