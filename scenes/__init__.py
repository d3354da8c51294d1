"""Synthetic scenes with known content: sampling, rendering, texts about them, and a checker for texts about them."""

from .checker import Mistake, Report, check, read_answer
from .claims import Claim, read_claims
from .dataset import read_truth, write_scenes
from .embedded import VIGC_TINY, model_folder, model_name
from .language import Pair, write_pair, write_probes
from .render import Rendered, contact_sheet, render
from .unfit import Unfit
from .vocabulary import vocabulary
from .world import Scene, SceneObject, sample_scene, sample_scenes

__all__ = [
    "VIGC_TINY",
    "Claim",
    "Mistake",
    "Pair",
    "Rendered",
    "Report",
    "Scene",
    "SceneObject",
    "Unfit",
    "check",
    "contact_sheet",
    "model_folder",
    "model_name",
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
