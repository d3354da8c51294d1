"""A rendered world whose truth is known: scenes, pictures, texts about them, and the checker that reads texts back."""

from pathlib import Path

from .checker import Claim, Mistake, Report, check, read_answer, read_claims
from .dataset import read_truth, write_scenes
from .language import Pair, write_pair, write_probes
from .render import Rendered, contact_sheet, render
from .vocabulary import vocabulary
from .world import Scene, SceneObject, sample_scene, sample_scenes

# The embedded model, trained on such scenes (recipes/tiny).
VIGC_TINY = Path(__file__).resolve().parent / "vigc_tiny"

__all__ = [
    "VIGC_TINY",
    "Claim",
    "Mistake",
    "Pair",
    "Rendered",
    "Report",
    "Scene",
    "SceneObject",
    "check",
    "contact_sheet",
    "read_answer",
    "read_claims",
    "read_truth",
    "render",
    "sample_scene",
    "sample_scenes",
    "vocabulary",
    "write_pair",
    "write_probes",
    "write_scenes",
]
