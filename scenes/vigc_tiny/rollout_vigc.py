"""The rollouts of the paper: VIG, and VIC with the Iterative Q-Former (IQF).

VIG generates a question and a draft of its answer. IQF answers the question one sentence at a time: each request
continues the sentences kept so far, and the Q-Former reads the image again, conditioned on them.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from .generation_vigc import IqfSettings
from .requests_vigc import Completion, Lookahead, Request, Rollout, Sample, SamplingParams, mean
from .sentences_vigc import MarkRule


class Prompts(Protocol):
    """The interface of processors for rollouts: prompts, and parsing of VIG's text."""

    def instruction(self, task: str) -> str:
        """VIG's prompt for a task type."""

    def vic_prompt(self, question: str, task: str | None = None, style: str = "question") -> str:
        """VIC's prompt for a question."""

    def parse_pair(self, text: str) -> Any:
        """Parses VIG's text: returns `question` and `answer`, or the `reason` why it has no valid pair."""


@dataclass(frozen=True)
class RolloutSettings:
    """All settings that determine the requests of a rollout, given the image and the question.

    Args:
        processor: Builds prompts and parses pairs. Its `tokenizer`, if any, is used to count tokens of kept sentences.
        iqf: Settings of VIC's iteration.
        decoding: Decoding settings, as in `SamplingParams.settings`.
        max_new_tokens: With `iqf_steps=-1`: an answer with this many tokens is not continued.
    """

    processor: Any
    iqf: IqfSettings = field(default_factory=IqfSettings)
    decoding: Mapping[str, Any] = field(default_factory=dict)
    max_new_tokens: int = 249

    def sampling(self, seed: int, step: int) -> SamplingParams:
        """The decoding settings of a request; every step of every rollout has its own seed."""
        digest = hashlib.sha256(f"{seed}/{step}".encode()).digest()
        return SamplingParams(self.decoding, seed=int.from_bytes(digest[:8], "big") >> 1)


def vig(
    image: Any,
    task: str,
    settings: RolloutSettings,
    seed: int = 0,
    *,
    with_draft: bool = True,
    until_question: bool = False,
    then: Callable[[Sample], Request | None] | None = None,
) -> Rollout[Sample]:
    """VIG: one request for a question and its answer.

    Args:
        image: An image, as in `Request.images`.
        task: The task type.
        settings: See [`RolloutSettings`].
        seed: Seed of sampling.
        with_draft: Whether to generate the answer too. Without it the text ends after the question.
        until_question: Whether `then` can be called as soon as the question is complete.
        then: Returns the request that follows a sample, for speculation.

    Returns:
        The sample, with `draft`, or with `reason` if the text has no valid pair; `answer` is empty.
    """
    sample = Sample(task, instruction=settings.processor.instruction(task))
    sample.prompt = sample.instruction or ""
    mark = MarkRule(settings.processor.answer_mark) if until_question or not with_draft else None
    lookahead = None

    def follow(completion: Completion) -> Request | None:
        begun = replace(sample)
        _read_pair(begun, completion, settings, mark, with_draft and bool(completion.finish_reason))
        return None if begun.reason is not None or then is None else then(begun)

    if then is not None and settings.iqf.iqf_ahead:
        lookahead = Lookahead(until=mark, follow=follow)
    stop = None if with_draft else mark
    completion = yield Request(
        sample.prompt, (image,), stop=stop, sampling=settings.sampling(seed, 0), lookahead=lookahead
    )
    _read_pair(sample, completion, settings, mark, with_draft and bool(completion.finish_reason))
    return sample


def iqf(
    image: Any, question: str, draft: str | None, settings: RolloutSettings, task: str | None = None, seed: int = 0
) -> Rollout[Sample]:
    """VIC with the Iterative Q-Former, as a corrector: answers a given question.

    Args:
        image: An image, as in `Request.images`.
        question: The question.
        draft: An existing answer to compare with.
        settings: See [`RolloutSettings`].
        task: The task type.
        seed: Seed of sampling.
    """
    sample = Sample(task, question, draft)
    return (yield from Iqf(image, sample, settings, seed).run())


def vig_then_iqf(image: Any, task: str, settings: RolloutSettings, seed: int = 0) -> Rollout[Sample]:
    """The paper's method: VIG, then IQF on its question. Arguments are those of [`iqf`]."""

    def then(sample: Sample) -> Request | None:
        return Iqf(image, sample, settings, seed).request()

    sample = yield from vig(
        image, task, settings, seed, with_draft=settings.iqf.iqf_draft, until_question=True, then=then
    )
    if sample.reason is not None:
        sample.answer = None
        return sample
    return (yield from Iqf(image, sample, settings, seed).run())


def vig_alone(image: Any, task: str, settings: RolloutSettings, seed: int = 0) -> Rollout[Sample]:
    """VIG without correction: its draft is the answer. Arguments are those of [`iqf`]."""
    sample = yield from vig(image, task, settings, seed)
    sample.answer = sample.draft if sample.reason is None else None
    return sample


def _read_pair(
    sample: Sample, completion: Completion, settings: RolloutSettings, mark: MarkRule | None, with_draft: bool
) -> None:
    """Parses VIG's text into the sample: question and, if wanted, draft, or the reason why the pair is invalid."""
    text, logprobs = completion.text, completion.token_logprobs or []
    if not with_draft and mark is not None:
        # A beam search continues until its beams agree on the question, so that a few more words may follow it.
        end = mark.end(text, complete=True)
        if end is not None:
            text = text[:end]
            logprobs = logprobs[: kept_tokens(settings.processor, completion, text)]
    pair = settings.processor.parse_pair(text)
    sample.vig_text, sample.draft_logprob = text, mean(logprobs)
    sample.question, sample.draft, sample.reason = pair.question, pair.answer if with_draft else None, pair.reason
    if pair.question == "" and settings.iqf.iqf_prompt == "question":
        sample.reason = "the question is empty"


@dataclass
class Iqf:
    """The state of one IQF rollout.

    Args:
        image: An image, as in `Request.images`.
        sample: Has the question and optionally the draft; the answer is built in it.
        settings: See [`RolloutSettings`].
        seed: Seed of sampling.
        draft_units: The draft's sentences or paragraphs.
        done: Whether there is no further request.
        follows: Whether the last completion began as expected; if not, no draft is verified.
        asked: VIC's prompt.
    """

    image: Any
    sample: Sample
    settings: RolloutSettings
    seed: int = 0
    draft_units: list[str] | None = None
    done: bool = False
    follows: bool = True
    asked: str = field(init=False)

    def __post_init__(self) -> None:
        sample, iqf = self.sample, self.settings.iqf
        if self.draft_units is None and sample.draft is not None:
            self.draft_units = iqf.rule.split_all(sample.draft)
        self.asked = self.settings.processor.vic_prompt(sample.question, sample.task, iqf.iqf_prompt)
        if not sample.trace:
            sample.prompt = self.asked

    def run(self) -> Rollout[Sample]:
        """Yields requests until the answer is complete."""
        while not self.done:
            self.take((yield self.request()))
        return self.sample

    def request(self) -> Request:
        """The next request, which continues the text kept so far."""
        iqf, sample = self.settings.iqf, self.sample
        # 1. Generate the whole text or only its first sentence.
        whole = (sample.step == 0 and iqf.iqf_full_record) or self._keeps_all(sample.step + 1)
        # 2. Hints for speculation: the expected text, and the request that will follow.
        draft = self._expected(until_unit=not whole)
        follow = self._follow if iqf.iqf_ahead else None
        lookahead = Lookahead(draft, iqf.rule, follow) if draft is not None or follow is not None else None
        return Request(
            self.asked,
            (self.image,),
            prefix=sample.answer or "",
            stop=None if whole else iqf.rule,
            sampling=self.settings.sampling(self.seed, sample.step + 1),
            lookahead=lookahead,
        )

    def take(self, completion: Completion) -> None:
        """Keeps the completion's first sentence, or all of it, and decides whether the rollout continues."""
        iqf, sample, step = self.settings.iqf, self.sample, self.sample.step + 1
        # 1. Record the first completion, and whether the expected text was accepted.
        if step == 1 and iqf.iqf_full_record and completion.finish_reason:
            sample.full_answer = completion.text
        self.follows = completion.accepted != 0 or (step == 1 and iqf.iqf_full_record)
        # 2. Select the text to keep. If it is empty, the prompt does not change, and all further requests would have
        # the same completion, of which the last would keep all or nothing.
        whole = self._keeps_all(step)
        kept = completion.text if whole else iqf.rule.first(completion.text)
        last = whole or step == iqf.iqf_steps
        repeats = not kept
        if repeats and not last and iqf.iqf_keep_tail:
            kept = completion.text
        # 3. Record whether it differs from the draft at this position, and its log-probability.
        changed = self._changed(kept, to_the_end=whole or repeats)
        logprobs = self._logprobs(completion, kept)
        sample.trace.append(
            {"sentence": kept, "changed": changed, "logprob": mean(logprobs), "stop": completion.finish_reason}
        )
        sample.logprobs += logprobs
        # 4. Append it to the answer, with which the next prompt ends.
        separator = iqf.rule.separator
        sample.prompt = f"{sample.prompt}{' ' if step == 1 else separator}{kept}".strip()
        sample.answer = f"{sample.answer}{separator}{kept}".strip()
        endless = iqf.iqf_steps == -1 and sample.tokens >= self.settings.max_new_tokens
        self.done = last or repeats or endless

    def _follow(self, completion: Completion) -> Request | None:
        """The request that follows if the text being generated begins like this completion."""
        sample = replace(self.sample, trace=[*self.sample.trace], logprobs=[*self.sample.logprobs])
        ahead = replace(self, sample=sample)
        ahead.take(completion)
        return None if ahead.done else ahead.request()

    def _keeps_all(self, step: int) -> bool:
        iqf = self.settings.iqf
        return iqf.iqf_steps == 0 or (step == iqf.iqf_steps and iqf.iqf_keep_tail)

    def _expected(self, until_unit: bool) -> str | None:
        """The expected completion: the next text of the draft, or of VIC's first completion.

        None if drafts are not verified, or if the last one was wrong from its first token on.
        """
        iqf, sample = self.settings.iqf, self.sample
        if not (iqf.iqf_verify_drafts and self.follows):
            return None
        units = self.draft_units if sample.full_answer is None else iqf.rule.split_all(sample.full_answer)
        rest = (units or [])[sample.step :]
        return iqf.rule.separator.join(rest[:1] if until_unit else rest) or None

    def _changed(self, kept: str, to_the_end: bool) -> bool | None:
        """Whether the kept text differs from the draft's next sentence, or from the rest of the draft."""
        if self.draft_units is None:
            return None
        rest = self.draft_units[self.sample.step :]
        return self.settings.iqf.rule.split_all(kept) != (rest if to_the_end else rest[:1])

    def _logprobs(self, completion: Completion, kept: str) -> list[float]:
        """The log-probabilities of the kept tokens. If no text is kept, only non-finite ones, which are the reason."""
        logprobs = completion.token_logprobs or []
        if kept:
            return logprobs[: kept_tokens(self.settings.processor, completion, kept)]
        return [value for value in logprobs if not math.isfinite(value)]


def kept_tokens(processor: Any, completion: Completion, kept: str) -> int:
    """Number of the completion's tokens that make up `kept`, the beginning of its text; white space is ignored."""
    bare, ids = "".join(kept.split()), completion.ids
    tokenizer = getattr(processor, "tokenizer", None)
    if bare == "".join(completion.text.split()) or tokenizer is None:
        return len(ids)
    for count in range(len(ids) - 1, 0, -1):
        text = tokenizer.decode(ids[:count], skip_special_tokens=True, clean_up_tokenization_spaces=False)
        if not "".join(text.split()).startswith(bare):
            return count + 1
    return min(1, len(ids))
