"""Rollouts of `vigc generate`: questions of each task type about an image, with their answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from vigc.generation.correctors import Corrector
from vigc.generation.sources.prefetch import Item
from vigc.inference.generator import Writer
from vigc.jobs import Plan
from vigc.modeling_vigc.requests_vigc import Request, Rollout, Sample
from vigc.modeling_vigc.rollout_vigc import RolloutSettings, vig
from vigc.processing.rows import row_id

from .checks import fault_of, is_same_question
from .short_answers import ShortAnswerSettings, short_answers, takes_short_answers
from .worker import Batch, Key, Worker


class PairWorker(Worker):
    """Generates questions of every task type about each image, with answers; for the arguments see [`Worker`]."""

    inputs = "images"

    def __init__(self, writer: Writer, plan: Plan, settings: dict[str, Any]) -> None:
        super().__init__(writer, plan, settings)
        configuration = plan.configuration
        self.kinds, self.questions = tuple(configuration["types"]), configuration["questions"]
        given = configuration["short_answers"]
        # Questions with short answers always have a draft; it is only stored in the row if the job has drafts.
        self.with_drafts = configuration["iqf"].get("iqf_draft", True)
        self.short = ShortAnswerSettings(configuration["decoding"], **given) if given else None

    def rollouts(self, batch: Batch) -> list[tuple[Key, Rollout[list[Sample]]]]:
        """One rollout per image and task type."""
        return [
            ((place, kind), self._questions(item, kind, partial(self._attempt, image, kind)))
            for kind in self.kinds
            for place, (item, image) in enumerate(zip(batch.items, batch.encoded, strict=True))
        ]

    def _attempt(self, image: Any, kind: str, seed: int, given: dict[str, Any]) -> Rollout[Sample]:
        if self.short is None or not takes_short_answers(kind):
            return draft_then_correct(self.corrector, image, kind, self.rollout_settings(given), seed)
        return short_answers(image, kind, self.rollout_settings(given), self.short, seed)

    def _id(self, item: Item, kind: str, index: int) -> str:
        return row_id(item.digest, kind, self.constants["config_hash"], index)

    def _questions(
        self, item: Item, kind: str, sample: Callable[[int, dict[str, Any]], Rollout[Sample]]
    ) -> Rollout[list[Sample]]:
        """The samples of one task type: for each question the first attempt that is valid and new."""
        asked: list[str] = []
        drafts: list[Sample] = []

        def is_new(draft: Sample) -> bool:
            return fault_of(draft) is None and not is_same_question(str(draft.question), asked)

        for index in range(self.questions):
            draft = yield from self.attempts(self._id(item, kind, index), sample, good=is_new, another=index > 0)
            if fault_of(draft) is None:
                draft.repeats = not is_new(draft)
                if not draft.repeats:
                    asked.append(str(draft.question))
            drafts.append(draft)
        return drafts

    def collect(self, batch: Batch) -> None:
        """Makes rows, records and counts, by task type and question."""
        for kind in self.kinds:
            for index in range(self.questions):
                good, rows = [], []
                for place, item in enumerate(batch.items):
                    draft = batch.samples[place, kind][index]
                    id_, instruction = self._id(item, kind, index), self.writer.prompts.instruction(kind)
                    fault = fault_of(draft)
                    if fault is not None:
                        batch.rejects.append((item, self.reject(id_, kind, item, instruction, draft, fault)))
                    elif draft.repeats:
                        batch.dropped += 1
                    else:
                        good.append(place)
                        rows.append(self._row(id_, kind, index, item, draft))
                self.score(rows, [batch.encoded[place] for place in good], kind)
                batch.rows += zip([batch.items[place] for place in good], rows, strict=True)

    def _row(self, id_: str, kind: str, index: int, item: Item, draft: Sample) -> dict[str, Any]:
        extra: dict[str, Any] = {}
        if draft.full_answer is not None:
            extra["answer_given_question"] = draft.full_answer
        if draft.attempt:
            extra["attempt"] = draft.attempt + 1
        own = {"license": item.source.license} if item.source.license else {}
        return self.row(
            id_,
            kind,
            item,
            (str(draft.question), draft.draft if self.with_drafts else None, str(draft.answer)),
            draft,
            question_index=index,
            instruction=self.writer.prompts.instruction(kind),
            answers=draft.answers,
            weights=draft.weights,
            objects=item.source.objects,
            extra=json.dumps(extra, ensure_ascii=True) if extra else None,
            **own,
        )


def draft_then_correct(
    corrector: Corrector, image: Any, task: str, settings: RolloutSettings, seed: int = 0
) -> Rollout[Sample]:
    """VIG's question and draft, followed by a corrector.

    If the corrector does not need the draft, its first request is announced as soon as the question is complete, so
    that draft and answer are generated together.

    Args:
        corrector: The corrector.
        image: The image, as in `Request.images`.
        task: The task type.
        settings: Prompts, IQF and decoding.
        seed: The seed of sampling.
    """

    def corrected(sample: Sample) -> Rollout[Sample]:
        return corrector.rollout(image, str(sample.question), sample.draft, settings, task, seed)

    def first_request(sample: Sample) -> Request | None:
        return next(corrected(sample), None)

    ahead = not corrector.needs_draft
    sample = yield from vig(
        image,
        task,
        settings,
        seed,
        with_draft=corrector.needs_draft or settings.iqf.iqf_draft,
        until_question=ahead,
        then=first_request if ahead else None,
    )
    if sample.reason is not None:
        sample.answer = None
        return sample
    answered = yield from corrected(sample)
    names = ("task", "question", "draft", "instruction", "vig_text", "draft_logprob")
    return replace(answered, **{name: getattr(sample, name) for name in names})
