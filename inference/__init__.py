"""Loads models that generate text, and runs requests on them through one interface."""

from typing import TYPE_CHECKING

from vigc.lazy import lazy_names

__all__ = [
    "ChatGenerator",
    "Completion",
    "FoundModel",
    "ModelFacts",
    "ModelIdentity",
    "OpenAIGenerator",
    "Request",
    "Rollout",
    "RoutedGenerator",
    "SamplingParams",
    "ScriptedGenerator",
    "TextGenerator",
    "VigcGenerator",
    "Writer",
    "find_model",
    "load_chat_model",
    "load_generator",
    "load_model",
]

if TYPE_CHECKING:
    from vigc.modeling_vigc.requests_vigc import Completion, Request, Rollout, SamplingParams

    from .chat import ChatGenerator, load_chat_model
    from .generator import FoundModel, ModelFacts, ModelIdentity, TextGenerator, Writer
    from .loading import find_model, load_generator, load_model
    from .openai import OpenAIGenerator
    from .routing import RoutedGenerator
    from .scripted import ScriptedGenerator
    from .vigc import VigcGenerator
else:  # hidden from type checkers, which would otherwise accept any name
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "vigc.modeling_vigc.requests_vigc": ("Completion", "Request", "Rollout", "SamplingParams"),
            ".chat": ("ChatGenerator", "load_chat_model"),
            ".generator": ("FoundModel", "ModelFacts", "ModelIdentity", "TextGenerator", "Writer"),
            ".loading": ("find_model", "load_generator", "load_model"),
            ".openai": ("OpenAIGenerator",),
            ".routing": ("RoutedGenerator",),
            ".scripted": ("ScriptedGenerator",),
            ".vigc": ("VigcGenerator",),
        },
    )
