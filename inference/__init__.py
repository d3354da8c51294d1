"""Models that generate text: loading them, and one way to ask any of them."""

from .loading import ModelFacts, WritingModel, describe_model, load_model

__all__ = ["ModelFacts", "WritingModel", "describe_model", "load_model"]
