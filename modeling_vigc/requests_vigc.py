"""Requests, completions and samples: a rollout yields requests, is sent completions, and returns a sample.

    def answer(image, question) -> Rollout:
        completion = yield Request(question, (image,))
        return Sample(question=question, answer=completion.text)

All text generators run rollouts: the VIGC engine, a chat model, a server. A model loaded with remote code has its own
copy of this file, so that `isinstance` must not be used with these classes.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class StopRule(Protocol):
    """A stop criterion for generated text, such as `UnitRule` and `MarkRule`. It must be hashable."""

    def __hash__(self) -> int:
        """Equal rules must have equal hashes: the tokens that can end a text are cached by rule."""

    def end(self, text: str, complete: bool) -> int | None:
        """Index after the end in `text`, or None; with `complete=False` more text may follow."""

    def undecided(self, text: str) -> bool:
        """Whether the next character decides if `text` has ended."""

    def may_end(self, piece: str) -> bool:
        """Whether a piece of the vocabulary can end a text."""


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """Decoding settings of a request.

    Args:
        settings: Arguments of transformers' `GenerationConfig`, which override the generator's: `max_new_tokens`,
            `num_beams`, `do_sample`, `temperature`, `top_p`, `repetition_penalty`, ...
        n: Number of completions; all but the best are its `alternatives`.
        seed: Seed of sampling; samples do not depend on other requests.
        plain: Whether to decode like transformers' `generate`: `repetition_penalty` and other settings about earlier
            tokens include the prompt's, and no token is masked. VIG and VIC are decoded as in the release, which only
            counts generated tokens and has no `<image>`. Chat models always decode plainly.
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    n: int = 1
    seed: int = 0
    plain: bool = False


@dataclass(frozen=True, slots=True)
class Lookahead:
    """A hint for speculative decoding; generators may ignore it.

    Args:
        draft: The expected text, which is verified instead of generated.
        until: The rule of the text's first segment, after which `follow` can be called.
        follow: Returns the next request if the text begins like the given completion; None if there is none.
    """

    draft: str | None = None
    until: StopRule | None = None
    follow: Callable[[Completion], Request | None] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """One text to be generated, or scored.

    Args:
        prompt: The user's turn.
        images: PIL images, or the output of the generator's `encode` for them; empty for text only.
        prefix: The beginning of the answer, which is continued; it is not part of the completion.
        target: Score this text as the answer instead of generating one.
        stop: The stop criterion; None to stop at the end of sequence.
        sampling: The decoding settings.
        schema: JSON schema of the answer, for generators that support it.
        system: The system turn, if any.
        to: The generator of the job that gets the request: "writer" or "checker".
        lookahead: A hint for speculative decoding.
        deferred: Whether it waits until all rollouts of its batch have begun, as retries do.
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
        """Whether both requests have the same completion."""
        images = len(self.images) == len(other.images)
        images = images and all(one is two for one, two in zip(self.images, other.images, strict=True))
        names = ("prompt", "prefix", "target", "stop", "sampling", "schema", "system", "to")
        mine, theirs = ([getattr(one, name) for name in names] for one in (self, other))
        return images and mine == theirs


@dataclass(slots=True)
class Completion:
    """The result of a request.

    Args:
        text: The generated text, stripped; for a scored request, the target.
        finish_reason: "unit" (the stop rule), "eos" (the model) or "length"; "scored".
        ids: The token ids, if known.
        token_logprobs: Log-probability of each token under the model, before penalties and temperature, natural
            logarithm; None if unknown.
        score: For a beam search: the sum of the log-probabilities / length ** length_penalty.
        alternatives: Further beams or samples, best first, if `n` is more than one.
        accepted: Number of accepted draft tokens; None if no draft was verified.
        read: Number of prompt tokens.
        cached: Number of prompt tokens that were cached.
        served_by: Model and version that a server reports.
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


# Yields requests, is sent completions, and returns a result. Rollouts compose by `yield from`.
Rollout = Generator[Request, Completion, T]


def deferred(rollout: Rollout[T]) -> Rollout[T]:
    """The same rollout, whose first request waits until all rollouts of its batch have begun."""
    try:
        completion = yield replace(next(rollout), deferred=True)
        while True:
            completion = yield rollout.send(completion)
    except StopIteration as end:
        return end.value


@dataclass(slots=True)
class Sample:
    """The result of a rollout: a question about an image and its answer.

    Args:
        task: The task type, if known.
        question: Generated or given; None if VIG's text has no valid pair.
        draft: VIG's answer (None without `iqf_draft`), or a given one.
        answer: The answer after VIC; None if VIG's text has no valid pair.
        reason: Why the sample is rejected; None if it is not.
        instruction: VIG's prompt.
        vig_text: VIG's text.
        full_answer: The first VIC completion in full, with `iqf_full_record`.
        prompt: The last prompt with its completion.
        draft_logprob: Mean log-probability of the tokens of VIG's text.
        logprobs: Log-probability of each token of the answer, under the request that it was generated for.
        trace: A record per VIC request: `{"sentence", "changed", "logprob", "stop"}`.
        answers: Several short answers, by decreasing weight.
        weights: The weights of `answers`.
        attempt: Number of earlier attempts.
        repeats: Whether an earlier sample about the image has the same question.
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
        """Number of VIC requests."""
        return len(self.trace)

    @property
    def tokens(self) -> int:
        """Number of tokens of the answer."""
        return len(self.logprobs)

    @property
    def answer_logprob(self) -> float | None:
        """Mean log-probability of the tokens of the answer; None without tokens."""
        return mean(self.logprobs)

    @property
    def text(self) -> str:
        """The text that was generated first: VIG's text, or the answer to a given question."""
        return self.vig_text if self.vig_text is not None else self.answer or ""


def mean(values: list[float]) -> float | None:
    """The mean; None for an empty list."""
    return sum(values) / len(values) if values else None
