"""One way to ask a model: a rollout yields requests, is sent completions, and returns a sample.

    def answer(image, question) -> Rollout:
        completion = yield Request(question, (image,))
        return Sample(question=question, answer=completion.text)

Whoever generates text runs rollouts: the VIGC engine, a chat model, a server. This file travels with the weights, so a
model loaded with remote code brings its own copy: fields are read, `isinstance` is never asked.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol


class StopRule(Protocol):
    """Where a generated text ends before the model ends it; `UnitRule` and `MarkRule` are such rules."""

    def end(self, text: str, complete: bool) -> int | None:
        """Index behind the end in `text`, or None; with `complete=False` more text may follow."""


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How a text is decoded.

    Args:
        settings: Arguments of transformers' `GenerationConfig` over the generator's own: `max_new_tokens`, `num_beams`,
            `do_sample`, `temperature`, `top_p`, `repetition_penalty`, ...
        n: How many completions are wanted; more than one come as `Completion.alternatives`, the best first.
        seed: With it, what is sampled does not depend on other requests.
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    n: int = 1
    seed: int = 0


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
        prefix: The beginning of the answer, to be continued.
        target: Score this text as the answer instead of generating one.
        stop: Where the text ends; None: where the model ends it.
        sampling: How it is decoded.
        schema: JSON schema of the answer, for generators that can follow one.
        system: A system turn before the user's; None: there is none.
        to: Which of a job's generators is asked: "writer" or "checker".
        lookahead: A hint for speculative decoding.
        deferred: Whether it waits behind rollouts that have not begun yet, as another attempt does.
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


@dataclass(slots=True)
class Completion:
    """What a generator returned for a request.

    Args:
        text: The generated text, stripped; of a scored request the target.
        finish_reason: "unit" (the stop rule), "eos" (the model) or "length"; "scored".
        ids: Its tokens, where they are known.
        token_logprobs: Log-probability of each token under the model, before penalties and temperature, natural
            logarithm; None where the generator has none.
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
    alternatives: tuple[Completion, ...] = ()
    accepted: int | None = None
    read: int = 0
    cached: int = 0
    served_by: str | None = None


# Yields requests, is sent completions, returns what came of it. Rollouts compose by `yield from`.
Rollout = Generator[Request, Completion, Any]
