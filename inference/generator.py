"""The interfaces of models that generate text, local or remote."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from transformers import GenerationConfig

from vigc.modeling_vigc.requests_vigc import Request, Rollout
from vigc.modeling_vigc.rollout_vigc import Prompts


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """Name and abilities of a model.

    Args:
        name: The Hub name, the name of the folder, or the model name on a server.
        revision: The Hub commit, or a fingerprint of the folder's files; None if a server does not report it.
        dtype: The dtype of the loaded weights; None if a server does not report it.
        kind: "vigc", "chat", "openai" or "scripted".
        deterministic: Whether equal requests have equal completions.
        images: Whether it takes images.
        prefix: Whether it continues a given beginning of the answer.
        logprobs: Whether completions have log-probabilities.
        scores: Whether it scores a target.
        several: Whether it returns several completions per request.
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
    """The model in a plan; known without reading the weights.

    Args:
        name: The Hub name, or the name of the folder without its path.
        revision: The Hub commit, or a fingerprint of the folder's files or of the weights of a model object.
        dtype: The dtype of the loaded weights: "float32", "bfloat16" or "float16"; None if a server does not report it.
        device: The device type: "cpu", "cuda", ...; None if a server does not report it.
        generation_config: The decoding settings saved with the model.
        remote_code: Whether it runs code from the model repository, of the same revision.
        trained_on: The only training data, if the configuration names it.
        scores: Whether it scores given answers.
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
        """The model's entries in the configuration of a job."""
        named = {"model": self.name, "revision": self.revision, "dtype": self.dtype}
        return {**named, "remote_code": True} if self.remote_code else named


class TextGenerator(Protocol):
    """A model that runs rollouts."""

    @property
    def identity(self) -> ModelIdentity:
        """Name and abilities of the model."""

    def encode(self, image: Any) -> Any:
        """Encodes a PIL image once; requests contain the result instead of the image."""

    def run(self, rollouts: Iterable[Rollout | None]) -> Iterator[Any]:
        """Yields the return values of rollouts, in the order in which they end.

        Args:
            rollouts: The rollouts, consumed one by one when a slot is free. None ends a batch, so that deferred
                requests run next; None without a rollout before it means that no rollout is ready.
        """


class PairPrompts(Prompts, Protocol):
    """The prompts for pairs of a question and an answer."""

    @property
    def answer_mark(self) -> str:
        """The separator between the question and the answer of a pair."""


class Scorer(Protocol):
    """Scores given answers.

    Arguments of both methods: B `images` from `Writer.encode_batch`, B `questions`, B `answers`, and the `task` type of
    the questions or None.
    """

    def mean_logprobs(
        self, images: Sequence[Any], questions: Sequence[str], answers: Sequence[str], task: str | None
    ) -> list[float]:
        """Mean log-probability (natural logarithm) of the tokens of each answer."""

    def visual_dependencies(
        self, images: Sequence[Any], questions: Sequence[str], answers: Sequence[str], task: str | None
    ) -> list[float]:
        """Mean log-probability of each answer given its image, minus that given a blank image.

        It is near zero if the answer does not depend on the image.
        """


class Writer(TextGenerator, Protocol):
    """A model that can generate the rows of a job."""

    @property
    def facts(self) -> ModelFacts:
        """The facts of the loaded model, to compare with those of the plan."""

    @property
    def prompts(self) -> PairPrompts:
        """The prompts of the model."""

    @property
    def scorer(self) -> Scorer | None:
        """The scorer of answers; None if there is none. `ModelFacts.scores` gives the same before loading."""

    @property
    def halved(self) -> int:
        """Number of batches halved because memory ran out."""

    def prepare(self, image: Any) -> Any:
        """Prepares a PIL image for `encode_batch`. Called in threads that open images while the model generates.

        Raises:
            ValueError: The model does not support the shape of the image.
        """

    def encode_batch(self, prepared: Sequence[Any]) -> Sequence[Any]:
        """Encodes prepared images; each result is like that of `encode`."""


WriterT_co = TypeVar("WriterT_co", bound=Writer, covariant=True)


@dataclass(frozen=True)
class FoundModel(Generic[WriterT_co]):
    """A model whose weights have not been read.

    Args:
        facts: The facts for the plan.
        load: Reads the weights; its argument is the number of requests completed together.
    """

    facts: ModelFacts
    load: Callable[[int], WriterT_co]


def unsupported(identity: ModelIdentity, request: Request) -> str | None:
    """Names the feature of a request that a model lacks; None if the model supports the request."""
    asked = {
        "continue a prefix": bool(request.prefix) and not identity.prefix,
        "score a text": request.target is not None and not identity.scores,
        "follow a schema": request.schema is not None and not identity.schema,
        "take images": bool(request.images) and not identity.images,
        "give several completions": request.sampling.n > 1 and not identity.several,
        "take a system turn": request.system is not None and not identity.system,
    }
    return next((what for what, wanted in asked.items() if wanted), None)
