"""VIG, then VIC with the Iterative Q-Former: write a sentence, look again in the light of it, write the next.

Of the model this and the engine need only what InstructBLIP has (`qformer`, `query_tokens`, `language_projection`,
`language_model`), so that a stock checkpoint can be served as well.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from .decoding_vigc import Decoding, Written
from .generation_vigc import IqfSettings, Pair, VigcRequest, mean
from .sentences_vigc import MarkRule
from .slots_vigc import Call, Row


@dataclass(frozen=True)
class Dialogue:
    """What a row's calls and texts follow from.

    Args:
        request: The row.
        processor: Makes prompts, and reads pairs.
        decoding: How texts are written.
        settings: How VIC iterates.
    """

    request: VigcRequest
    processor: Any
    decoding: Decoding
    settings: IqfSettings

    def run(self) -> Row[tuple[VigcRequest, Pair]]:
        """One row: VIG (for mode "vig") and VIC, call by call.

        Returns:
            The request and what came of it.

        Raises:
            ValueError: Another mode.
        """
        row = self._start()
        while not row.done:
            self._take(row, (yield self._call(row)))
        return self.request, row

    def _start(self) -> Pair:
        request = self.request
        if request.mode not in ("vig", "vic"):
            raise ValueError(f"mode={request.mode!r} is not known: use 'vig' or 'vic'.")
        row = Pair(request.task, request.question)
        if request.mode == "vig":
            row.prompt = row.instruction = self.processor.instruction(request.task)
            return row
        if request.draft is not None:
            row.draft, row.draft_units = request.draft, self.settings.rule.split_all(request.draft)
        row.prompt = self.processor.vic_prompt(row.question, row.task, self.settings.iqf_prompt)
        return row

    def _call(self, row: Pair) -> Call:
        """What is to be written next."""
        settings, seed = self.settings, self.request.seed
        follow = partial(self._follow, row) if settings.iqf_ahead else None
        given = (row.prompt, self.request.image_embeds, self.decoding)
        if self._is_vig(row):
            mark = self._question_ends if self.request.correct else None
            return Call(*given, mark, mark is None or settings.iqf_draft, _step_seed(seed, 0), follow=follow)
        whole = _whole(row, settings)
        draft = _expected(row, not whole, settings)
        return Call(*given, settings.rule, whole, _step_seed(seed, row.step + 1), draft, follow)

    def _follow(self, row: Pair, written: Written) -> Call | None:
        """What is to be written next if the text that is being written begins so."""
        ahead = replace(row, trace=[*row.trace], logprobs=[*row.logprobs])
        self._take(ahead, written)
        return None if ahead.done else self._call(ahead)

    @property
    def _question_ends(self) -> MarkRule:
        return MarkRule(self.processor.answer_mark)

    def _is_vig(self, row: Pair) -> bool:
        """Whether VIG is still to write."""
        return self.request.mode == "vig" and row.vig_text is None

    def _take(self, row: Pair, written: Written) -> None:
        """Takes a call's text into the row, or the beginning of one that has not stopped yet."""
        if not self._is_vig(row):
            row.follows = written.accepted != 0
            _advance(row, written, self.decoding, self.settings)
            row.follows |= row.step == 1 and self.settings.iqf_full_record  # from now on there is a better draft
            return
        correct = self.request.correct
        with_draft = bool(written.stop) and (self.settings.iqf_draft or not correct)
        if not with_draft:
            written = _cut(written, self._question_ends, self.decoding)
        _read_pair(row, written, self.processor, self.settings, with_draft)
        if row.reason is not None or not correct:
            row.answer = row.draft if row.reason is None else None
            row.done = True
        else:
            row.prompt = self.processor.vic_prompt(row.question, row.task, self.settings.iqf_prompt)


def _cut(written: Written, rule: MarkRule, decoding: Decoding) -> Written:
    """Without what stands behind the unit: a beam search goes on until its beams agree on that, and on no more."""
    end = rule.end(written.text, complete=True)
    if end is None:
        return written
    text = written.text[:end]
    count = decoding.kept_tokens(written, text)
    return replace(written, text=text, ids=written.ids[:count], logprobs=written.logprobs[:count])


def _read_pair(row: Pair, written: Written, processor: Any, settings: IqfSettings, with_draft: bool) -> None:
    """VIG's text: a question and, if asked for, a draft, or the reason why there is none."""
    pair = processor.parse_pair(written.text)
    row.vig_text, row.draft_logprob = written.text, mean(written.logprobs)
    row.question, row.draft, row.reason = pair.question, pair.answer if with_draft else None, pair.reason
    if pair.question == "" and settings.iqf_prompt == "question":
        row.reason = "the question is empty"
    if row.draft is not None:
        row.draft_units = settings.rule.split_all(row.draft)


def _expected(row: Pair, until_unit: bool, settings: IqfSettings) -> str | None:
    """What the next call will write if VIC goes on as the draft does, or as its own first call did.

    None where that is not to be verified, or where it was wrong from the first word on.
    """
    if not (settings.iqf_verify_drafts and row.follows):
        return None
    units = row.draft_units if row.full_answer is None else settings.rule.split_all(row.full_answer)
    rest = (units or [])[row.step :]
    return settings.rule.separator.join(rest[:1] if until_unit else rest) or None


def _whole(row: Pair, settings: IqfSettings) -> bool:
    """Whether the row's next call has to be written to its end, not just to the end of its first unit."""
    return (row.step == 0 and settings.iqf_full_record) or _keeps_all(row.step + 1, settings)


def _keeps_all(step: int, settings: IqfSettings) -> bool:
    return settings.iqf_steps == 0 or (step == settings.iqf_steps and settings.iqf_keep_tail)


def _advance(row: Pair, written: Written, decoding: Decoding, settings: IqfSettings) -> None:
    """Takes one call's text into the row: keeps its unit, and decides whether the row goes on."""
    row.step += 1
    if row.step == 1 and settings.iqf_full_record and written.stop:
        row.full_answer = written.text
    whole = _keeps_all(row.step, settings)
    kept = written.text if whole else settings.rule.first(written.text)
    last = whole or row.step == settings.iqf_steps
    # Nothing kept leaves the prompt as it was: all further calls would write the same text again, and the last of them
    # would keep it whole or not at all.
    repeats = not kept
    if repeats and not last and settings.iqf_keep_tail:
        kept = written.text
    draft_rest = (row.draft_units or [])[len(row.trace) :]
    tail = draft_rest if whole or repeats else draft_rest[:1]
    # Of no text at all, what is left to know is whether it is one because logits were no numbers.
    unknown = [value for value in written.logprobs if not math.isfinite(value)]
    logprobs = written.logprobs[: decoding.kept_tokens(written, kept)] if kept else unknown
    row.trace.append(
        {
            "sentence": kept,
            "changed": None if row.draft_units is None else settings.rule.split_all(kept) != tail,
            "logprob": mean(logprobs),
            "stop": written.stop,
        }
    )
    row.logprobs += logprobs
    row.tokens += len(logprobs)
    separator = settings.rule.separator
    row.prompt = f"{row.prompt}{' ' if row.step == 1 else separator}{kept}".strip()
    row.answer = f"{row.answer}{separator}{kept}".strip()
    endless = settings.iqf_steps == -1 and row.tokens >= decoding.max_new_tokens
    row.done = last or repeats or endless


def _step_seed(seed: int, step: int) -> int:
    """A stream of its own for each row and step, whatever the seeds of other rows."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{step}".encode()).digest()[:8], "big") >> 1
