"""Pictures to pairs: questions of each type with their answers, as `vigc generate` writes them."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from vigc.generation.sources.prefetch import Item
from vigc.inference.vigc import VigcGenerator
from vigc.jobs import Plan
from vigc.modeling_vigc.requests_vigc import Rollout, Sample
from vigc.processing.rows import row_id

from .checks import fault_of, is_same_question
from .short_answers import ShortAnswers, takes_short_answers
from .worker import Batch, Key, Worker


class PairWorker(Worker):
    """Writes questions of every type about each picture, and answers them. Arguments are those of [`Worker`]."""

    inputs = "images"

    def __init__(self, loaded: VigcGenerator, plan: Plan, settings: dict[str, Any], slots: int) -> None:
        super().__init__(loaded, plan, settings, slots)
        configuration = plan.configuration
        self.kinds, self.questions = tuple(configuration["types"]), configuration["questions"]
        given = configuration["short_answers"]
        # Plain decoding writes a pair whatever is asked for; where no drafts are, its answer is none.
        self.with_drafts = configuration["iqf"].get("iqf_draft", True)
        self.short = ShortAnswers(self.model, self.processor, configuration["decoding"], **given) if given else None

    def rollouts(self, batch: Batch, pixels: torch.Tensor) -> list[tuple[Key, Rollout[list[Sample]]]]:
        """One for each type and image; several short answers are generated at once, and need no slot."""
        short = [kind for kind in self.kinds if self.short is not None and takes_short_answers(kind)]
        if self.scores or len(short) < len(self.kinds):
            batch.embeds = self.generator.encode_pixels(pixels)
        rollouts: list[tuple[Key, Rollout[list[Sample]]]] = []
        for kind in self.kinds:
            if kind in short:
                known = self._write_short(kind, batch.items, pixels)
                rollouts += [((place, kind), _known(known[place])) for place in range(len(batch.items))]
                continue
            assert batch.embeds is not None
            for place, (item, image) in enumerate(zip(batch.items, batch.embeds, strict=True)):
                rollouts.append(((place, kind), self._questions(item, kind, partial(self.sample, image, kind))))
        return rollouts

    def _id(self, item: Item, kind: str, index: int) -> str:
        return row_id(item.digest, kind, self.constants["config_hash"], index)

    def _questions(
        self, item: Item, kind: str, sample: Callable[[int, dict[str, Any]], Generator[Any, Any, Sample]]
    ) -> Generator[Any, Any, list[Sample]]:
        """Questions of one type about an image: of each the first attempt that is a pair and asks something new."""
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

    def _write_short(self, kind: str, items: Sequence[Item], pixels: torch.Tensor) -> dict[int, list[Sample]]:
        """Questions with several short answers, the same one of every image at a time; the samples by image."""
        asking = {place: self._questions(item, kind, _short_sample) for place, item in enumerate(items)}
        wanted = {place: next(row) for place, row in asking.items()}
        found: dict[int, list[Sample]] = {}
        while wanted:
            settings = next(iter(wanted.values())).settings
            places = [place for place, ask in wanted.items() if ask.settings == settings]
            seeds = [wanted.pop(place).seed for place in places]
            for place, draft in zip(places, self._short(kind, pixels[places], seeds, settings), strict=True):
                try:
                    wanted[place] = asking[place].send(draft)
                except StopIteration as end:
                    found[place] = end.value
        return found

    @torch.no_grad()
    def _short(self, kind: str, pixels: torch.Tensor, seeds: list[int], settings: dict[str, Any]) -> list[Sample]:
        assert self.short is not None
        write, to = self.short.write, (self.model.device, self.model.dtype)
        parts = self.fitting.run(len(seeds), lambda rows: write(kind, pixels[rows].to(*to), seeds[rows], settings))
        return [draft for part in parts for draft in part]

    def collect(self, batch: Batch) -> None:
        """Rows, records and counts, by type and question."""
        for kind in self.kinds:
            for index in range(self.questions):
                good, rows = [], []
                for place, item in enumerate(batch.items):
                    draft = batch.samples[place, kind][index]
                    id_, instruction = self._id(item, kind, index), self.processor.instruction(kind)
                    fault = fault_of(draft)
                    if fault is not None:
                        batch.rejects.append((item, self.reject(id_, kind, item, instruction, draft, fault)))
                    elif draft.repeats:
                        batch.dropped += 1
                    else:
                        good.append(place)
                        rows.append(self._row(id_, kind, index, item, draft))
                if self.scores and rows:
                    assert batch.embeds is not None
                    self.score("visual_dependency", rows, batch.embeds[good], kind)
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
            instruction=self.processor.instruction(kind),
            answers=draft.answers,
            weights=draft.weights,
            objects=item.source.objects,
            extra=json.dumps(extra, ensure_ascii=True) if extra else None,
            **own,
        )


@dataclass(frozen=True)
class _Short:
    """A question with short answers that is wanted; `deferred` is set by `deferred` alone."""

    seed: int
    settings: dict[str, Any]
    deferred: bool = False


def _short_sample(seed: int, settings: dict[str, Any]) -> Generator[_Short, Sample, Sample]:
    """An attempt at a question with short answers."""
    return (yield _Short(seed, settings))


def _known(samples: list[Sample]) -> Rollout[list[Sample]]:
    """A rollout without requests: the samples are there."""
    return samples
    yield
