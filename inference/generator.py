"""The interface of a model that generates text, whatever runs it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from transformers import GenerationConfig

from vigc.modeling_vigc.requests_vigc import Request, Rollout


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """Which model generated, and what it can do.

    Args:
        name: Its Hub name, the name of its folder, or the name under which a server serves it.
        revision: The Hub's commit, or a fingerprint of the folder's files; None where a server does not say.
        dtype: What its weights are loaded in; None where a server does not say.
        kind: "vigc", "chat", "openai" or "scripted".
        deterministic: Whether equal requests have equal completions.
        images: Whether it takes images.
        prefix: Whether it continues a given beginning of the answer.
        logprobs: Whether completions have log-probabilities.
        scores: Whether it scores a target.
        several: Whether it gives several completions of a request.
        system: Whether it takes a system turn.
        schema: Whether it can follow a JSON schema.
    """

    name: str
    revision: str | None = None
    dtype: str | None = None
    kind: str = "vigc"
    deterministic: bool = True
    images: bool = True
    prefix: bool = True
    logprobs: bool = True
    scores: bool = False
    several: bool = False
    system: bool = True
    schema: bool = False


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What a plan says of a model; known without its weights.

    Args:
        name: Its Hub name, or its folder's name (a path says more about a machine than about a model).
        revision: The Hub's commit, or a fingerprint: of the folder's files, or of the weights of a model object.
        dtype: What its weights are loaded in: "float32", "bfloat16" or "float16".
        device: Where it is to run.
        generation_config: The decoding settings that are saved with it.
        remote_code: Whether it runs the code that came with its weights, of the same revision.
        trained_on: The only data that it was trained on, where its configuration says so.
    """

    name: str
    revision: str | None
    dtype: str
    device: torch.device
    generation_config: GenerationConfig
    remote_code: bool = False
    trained_on: str | None = None


class TextGenerator(Protocol):
    """A model that runs rollouts."""

    @property
    def identity(self) -> ModelIdentity:
        """Which model this is, and what it can do."""

    def encode(self, image: Any) -> Any:
        """What requests about a PIL image carry in its place, so that the image is encoded once."""

    def run(self, rollouts: Iterable[Rollout | None]) -> Iterator[Any]:
        """Yields what rollouts return, in the order in which they end.

        Args:
            rollouts: Taken one by one as there is room. None ends a batch, so that deferred requests come next; None
                without a rollout before it says that none is ready now.
        """


def unsupported(identity: ModelIdentity, request: Request) -> str | None:
    """What a request asks that a model cannot do; None if it can do all."""
    asked = {
        "continue a prefix": bool(request.prefix) and not identity.prefix,
        "score a text": request.target is not None and not identity.scores,
        "follow a schema": request.schema is not None and not identity.schema,
        "take images": bool(request.images) and not identity.images,
        "give several completions": request.sampling.n > 1 and not identity.several,
        "take a system turn": request.system is not None and not identity.system,
    }
    return next((what for what, wanted in asked.items() if wanted), None)
