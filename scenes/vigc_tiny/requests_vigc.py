"""One way to ask a model: a rollout yields requests, is sent completions, and returns a sample.

    def answer(image, question) -> Rollout:
        completion = yield Request(question, (image,))
        return Sample(question=question, answer=completion.text)

Whatever generates text runs rollouts: the VIGC engine, a chat model, a server. This file travels with the weights, so a
model loaded with remote code brings its own copy: fields are read, `isinstance` is never asked.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class StopRule(Protocol):
    """Where a generated text ends before the model ends it; `UnitRule` and `MarkRule` are such rules. Hashable."""

    def __hash__(self) -> int:
        """Equal rules have equal hashes: what a rule needs of a vocabulary is cached."""

    def end(self, text: str, complete: bool) -> int | None:
        """Index behind the end in `text`, or None; with `complete=False` more text may follow."""

    def undecided(self, text: str) -> bool:
        """Whether the next character may turn the end of `text` into such an end."""

    def may_end(self, piece: str) -> bool:
        """Whether a piece of the vocabulary can bring such an end."""


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How a text is decoded.

    Args:
        settings: Arguments of transformers' `GenerationConfig` over the generator's own: `max_new_tokens`, `num_beams`,
            `do_sample`, `temperature`, `top_p`, `repetition_penalty`, ...
        n: How many completions are wanted; those behind the best come as its `alternatives`.
        seed: With it, what is sampled does not depend on other requests.
        plain: Whether decoding is that of transformers' `generate`: `repetition_penalty` and other settings about
            earlier tokens count the prompt's too, and no token is excluded. VIG and VIC are decoded as in the release,
            which counts the text's own tokens and has no `<image>`. Chat models always decode plainly.
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    n: int = 1
    seed: int = 0
    plain: bool = False


@dataclass(frozen=True, slots=True)
class Lookahead:
    """A hint for speculative decoding; generators may ignore it.

    Args:
        draft: The text that is expected, to be verified instead of generated.
        until: By which rule the text has a first segment, after which `follow` can be asked.
        follow: The request that will come next if the text begins like this completion; None if there is none.
    """

    draft: str | None = None
    until: StopRule | None = None
    follow: Callable[[Completion], Request | None] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """One text to be generated, or scored.

    Args:
        prompt: The user's turn.
        images: PIL images, or what the generator's `encode` returned for them; none: text only.
        prefix: The beginning of the answer, to be continued; it is not part of the completion.
        target: Score this text as the answer instead of generating one.
        stop: Where the text ends; None: where the model ends it.
        sampling: How it is decoded.
        schema: JSON schema of the answer, for generators that can follow one.
        system: A system turn before the user's; None: there is none.
        to: Which of a job's generators is asked: "writer" or "checker".
        lookahead: A hint for speculative decoding.
        deferred: Whether it waits behind the rollouts of its batch that have not begun yet, as another attempt does.
    """

    prompt: str
    images: tuple[Any, ...] = ()
    prefix: str = ""
    target: str | None = None
    stop: StopRule | None = None
    sampling: SamplingParams = field(default_factory=SamplingParams)
    schema: Mapping[str, Any] | None = None
    system: str | None = None
    to: str = "writer"
    lookahead: Lookahead | None = None
    deferred: bool = False

    def same_as(self, other: Request) -> bool:
        """Whether the other request has the same completion."""
        images = len(self.images) == len(other.images)
        images = images and all(one is two for one, two in zip(self.images, other.images, strict=True))
        names = ("prompt", "prefix", "target", "stop", "sampling", "schema", "system", "to")
        mine, theirs = ([getattr(one, name) for name in names] for one in (self, other))
        return images and mine == theirs


@dataclass(slots=True)
class Completion:
    """What a generator returned for a request.

    Args:
        text: The generated text, stripped; of a scored request the target.
        finish_reason: "unit" (the stop rule), "eos" (the model) or "length"; "scored".
        ids: Its tokens, where they are known.
        token_logprobs: Log-probability of each token under the model, before penalties and temperature, natural
            logarithm; None where the generator has none.
        score: Of a beam search: the sum of the log-probabilities that it ranked by, over length ** length_penalty.
        alternatives: Further beams or samples, the best first, where `n` is more than one.
        accepted: Tokens of a draft that were accepted; None if no draft was verified.
        read: Tokens of the prompt.
        cached: Those of them that came from a cache.
        served_by: What a server reports to be: model and version.
    """

    text: str
    finish_reason: str
    ids: list[int] = field(default_factory=list)
    token_logprobs: list[float] | None = None
    score: float | None = None
    alternatives: tuple[Completion, ...] = ()
    accepted: int | None = None
    read: int = 0
    cached: int = 0
    served_by: str | None = None


# Yields requests, is sent completions, returns what came of it. Rollouts compose by `yield from`.
Rollout = Generator[Request, Completion, T]


def deferred(rollout: Rollout[T]) -> Rollout[T]:
    """The same rollout, whose first request waits behind the rollouts of its batch that have not begun yet."""
    try:
        completion = yield replace(next(rollout), deferred=True)
        while True:
            completion = yield rollout.send(completion)
    except StopIteration as end:
        return end.value


@dataclass(slots=True)
class Sample:
    """A question about an image and its answer: what a rollout returns.

    Args:
        task: The type of instruction, if one was named.
        question: Generated or given; None where VIG's text is not a pair.
        draft: VIG's answer (None without `iqf_draft`), or a given one.
        answer: The answer after VIC; None where VIG's text is not a pair.
        reason: Why the sample cannot be used, as far as is known; None if it can.
        instruction: VIG's prompt.
        vig_text: VIG's text.
        full_answer: The first VIC completion in full, with `iqf_full_record`.
        prompt: The last prompt with its completion.
        draft_logprob: Mean log-probability of the tokens of VIG's text.
        logprobs: Log-probability of each token of the answer, under the request that it was generated for.
        trace: What each VIC request contributed: `{"sentence", "changed", "logprob", "stop"}`.
        answers: Several short answers, the heaviest first.
        weights: Their weights.
        attempt: How many attempts were made before.
        repeats: Whether an earlier sample about the image asks the same.
    """

    task: str | None = None
    question: str | None = None
    draft: str | None = None
    answer: str | None = ""
    reason: str | None = None
    instruction: str | None = None
    vig_text: str | None = None
    full_answer: str | None = None
    prompt: str = ""
    draft_logprob: float | None = None
    logprobs: list[float] = field(default_factory=list)
    trace: list[dict[str, Any]] = field(default_factory=list)
    answers: list[str] | None = None
    weights: list[float] | None = None
    attempt: int = 0
    repeats: bool = False

    @property
    def step(self) -> int:
        """How many VIC requests there were."""
        return len(self.trace)

    @property
    def tokens(self) -> int:
        """How many tokens the answer has."""
        return len(self.logprobs)

    @property
    def answer_logprob(self) -> float | None:
        """Mean log-probability of the tokens of the answer; None without tokens."""
        return mean(self.logprobs)

    @property
    def text(self) -> str:
        """What was generated first: VIG's text, or the answer to a given question."""
        return self.vig_text if self.vig_text is not None else self.answer or ""


def mean(values: list[float]) -> float | None:
    """The mean; None of nothing."""
    return sum(values) / len(values) if values else None
