"""The interface of a model that generates text, whatever runs it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from transformers import GenerationConfig

from vigc.modeling_vigc.requests_vigc import Request, Rollout
from vigc.modeling_vigc.rollout_vigc import Prompts


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
        dtype: What its weights are loaded in: "float32", "bfloat16" or "float16"; None where a server does not say.
        device: The type of device that it is to run on: "cpu", "cuda", ...; None where a server does not say.
        generation_config: The decoding settings that are saved with it.
        remote_code: Whether it runs the code that came with its weights, of the same revision.
        trained_on: The only data that it was trained on, where its configuration says so.
        scores: Whether it scores answers that are given.
    """

    name: str
    revision: str | None
    dtype: str | None
    device: str | None
    generation_config: GenerationConfig
    remote_code: bool = False
    trained_on: str | None = None
    scores: bool = False

    @property
    def named(self) -> dict[str, Any]:
        """What names the model in the configuration of a job."""
        named = {"model": self.name, "revision": self.revision, "dtype": self.dtype}
        return {**named, "remote_code": True} if self.remote_code else named


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


class PairPrompts(Prompts, Protocol):
    """The prompts by which a model is asked for pairs of a question and an answer."""

    @property
    def answer_mark(self) -> str:
        """What stands between the question and the answer of a pair."""


class Scorer(Protocol):
    """Scores answers that are given.

    Args of both methods: B `images` as `Writer.encode_batch` returned them, B `questions`, B `answers`, and the `task`
    type of the questions or None.
    """

    def mean_logprobs(
        self, images: Sequence[Any], questions: Sequence[str], answers: Sequence[str], task: str | None
    ) -> list[float]:
        """Mean log-probability of the tokens of each answer, natural logarithm."""

    def visual_dependencies(
        self, images: Sequence[Any], questions: Sequence[str], answers: Sequence[str], task: str | None
    ) -> list[float]:
        """Mean log-probability of each answer with its image less that with a blank one.

        It is near zero where the answer did not need the image.
        """


class Writer(TextGenerator, Protocol):
    """What a job needs of the model that writes its rows."""

    @property
    def facts(self) -> ModelFacts:
        """What the plan recorded of it, now of the loaded model."""

    @property
    def prompts(self) -> PairPrompts:
        """How it is asked."""

    @property
    def scorer(self) -> Scorer | None:
        """Scores answers; None if it cannot. `ModelFacts.scores` says the same before it is loaded."""

    @property
    def halved(self) -> int:
        """How often a batch was halved because memory did not suffice."""

    def prepare(self, image: Any) -> Any:
        """What `encode_batch` takes of a PIL image. Called in threads that open images while the model generates.

        Raises:
            ValueError: An image of a shape that the model cannot take.
        """

    def encode_batch(self, prepared: Sequence[Any]) -> Sequence[Any]:
        """Of each prepared image what requests about it carry, as `encode` returns it."""


@dataclass(frozen=True)
class FoundModel:
    """A model whose weights have not been read.

    Args:
        facts: What is known of it.
        load: Reads the weights; takes how many requests are completed at a time.
    """

    facts: ModelFacts
    load: Callable[[int], Writer]


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
