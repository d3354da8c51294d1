"""Models that generate text: loading them, and one way to ask any of them."""

from .generator import ModelFacts, ModelIdentity, TextGenerator
from .loading import describe_model, load_model
from .vigc import VigcGenerator

__all__ = ["ModelFacts", "ModelIdentity", "TextGenerator", "VigcGenerator", "describe_model", "load_model"]
