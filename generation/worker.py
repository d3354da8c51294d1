"""Pictures to rows: the part of the job that a model does."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from vigc.modeling_vigc.generation_vigc import IQF_SETTINGS
from vigc.processing.rows import row_id, to_messages

from .attempts import NOT_FINITE, Draft, Fitting, is_same_question
from .loading import Item
from .scoring import visual_dependencies
from .short_answers import ShortAnswers, takes_short_answers
from .sources import printable
from .writing import Ask, Asking, Conversation, Writing

# How a text is drawn where the settings themselves draw nothing: a second attempt stays close to the first, a second
# question does not.
AGAIN = {"do_sample": True, "num_beams": 1, "temperature": 0.7, "top_p": 0.9}
ANOTHER = {"do_sample": True, "num_beams": 1, "temperature": 1.0, "top_p": 0.95}


@dataclass
class Work:
    """What came of a batch of pictures, by picture and not by row: copies of a picture may still turn up.

    Args:
        rows: (input, row of `GENERATED_FEATURES`).
        rejects: (input, record of a text that is no pair).
        dropped: How many questions were left out because the picture had the same one already.
    """

    rows: list[tuple[Item, dict[str, Any]]] = field(default_factory=list)
    rejects: list[tuple[Item, dict[str, Any]]] = field(default_factory=list)
    dropped: int = 0


@dataclass(eq=False)
class _Batch:
    """Pictures that were opened together, and what was written about each under each type."""

    items: list[Item]
    embeds: torch.Tensor | None = None
    drafts: dict[tuple[str, int], list[Draft]] = field(default_factory=dict)

    def is_done(self, kinds: Sequence[str]) -> bool:
        return len(self.drafts) == len(self.items) * len(kinds)


class Worker:
    """Writes the rows of a shard's pictures.

    Args:
        model: A VIGC model.
        processor: Belongs to it.
        configuration: All that decides what is written: `types`, `correct`, `seed`, `questions`, `retries`, `score`,
            `short_answers`, `decoding`.
        settings: Decoding and `iqf_*` settings that are not the model's own.
        constants: Columns that are the same in every row: `source`, `license`, `model`, `config_hash`.
        slots: Texts written at a time.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        *,
        configuration: dict[str, Any],
        settings: dict[str, Any],
        constants: dict[str, str],
        slots: int,
    ) -> None:
        self.model, self.processor = model, processor
        self.kinds, self.correct = tuple(configuration["types"]), configuration["correct"]
        self.seed, self.questions = configuration["seed"], configuration["questions"]
        self.retries, self.score = configuration["retries"], configuration["score"]
        self.samples = bool(configuration["decoding"].get("do_sample"))
        self.settings = (
            settings if self.correct else {name: settings[name] for name in settings if name not in IQF_SETTINGS}
        )
        self.constants = constants
        self.fitting = Fitting()
        self.writing = Writing(model, processor, slots=slots, correct=self.correct, fitting=self.fitting)
        given = configuration["short_answers"]
        self.short = ShortAnswers(model, processor, configuration["decoding"], **given) if given else None

    def prepare(self, image: Any) -> torch.Tensor:
        """A picture's pixels, float (1, 3, H, W)."""
        return self.processor(images=[image], return_tensors="pt")["pixel_values"]

    def write(self, batches: Iterable[list[Item]]) -> Iterator[tuple[list[Item], Work]]:
        """Rows of all types about each picture, and records of the texts that are no pairs.

        The engine goes on from one batch to the next without a break, so that batches may end out of their order; they
        are yielded in it.
        """
        waiting: dict[int, _Batch] = {}
        following = 0
        for conversation, drafts in self.writing.run(self._conversations(batches, waiting)):
            batch, kind, place = conversation.key
            batch.drafts[kind, place] = drafts
            while following in waiting and waiting[following].is_done(self.kinds):
                done = waiting.pop(following)
                following += 1
                yield done.items, self._collect(done)

    def _conversations(self, batches: Iterable[list[Item]], waiting: dict[int, _Batch]) -> Iterator[list[Conversation]]:
        """What is to be asked about each batch, once its pictures have passed the ViT."""
        for number, items in enumerate(batches):
            pixels = torch.cat([item.pixels for item in items if item.pixels is not None])
            for item in items:
                item.pixels = None
            batch = waiting[number] = _Batch(items)
            short = [kind for kind in self.kinds if self.short is not None and takes_short_answers(kind)]
            if self.score or len(short) < len(self.kinds):
                # All that depends on the picture alone, once for all types.
                batch.embeds = self._embed(pixels)
            conversations = []
            for kind in self.kinds:
                written = self._write_short(kind, items, pixels) if kind in short else None
                for place, item in enumerate(items):
                    asking = self._ask(item, kind) if written is None else _known(written[place])
                    embeds = pixels[place] if batch.embeds is None else batch.embeds[place]
                    conversations.append(Conversation(asking, embeds, kind, (batch, kind, place)))
            yield conversations

    @torch.no_grad()
    def _embed(self, pixels: torch.Tensor) -> torch.Tensor:
        embed, to = self.model.get_image_embeds, (self.model.device, self.model.dtype)
        return torch.cat(self.fitting.run(len(pixels), lambda rows: embed(pixels[rows].to(*to))))

    def _ask(self, item: Item, kind: str) -> Asking:
        """Questions of one type about a picture: of each the first attempt that is a pair and asks something new.

        Where none is, the first attempt of all stands for it.
        """
        asked: list[str] = []
        drafts: list[Draft] = []
        for index in range(self.questions):
            id_ = row_id(item.digest, kind, self.constants["config_hash"], index)
            draft: Draft | None = None
            for attempt in range(self.retries + 1):
                settings = dict(self.settings)
                if not self.samples and (attempt or index):
                    settings |= ANOTHER if index else AGAIN
                other = yield Ask(row_seed(self.seed, f"{id_}/{attempt}" if attempt else id_), settings)
                other.attempt = attempt
                good = other.fault() is None and not is_same_question(str(other.question), asked)
                if draft is None or good:
                    draft = other
                if good or draft.fault() == NOT_FINITE:  # which no other draw puts right
                    break
            assert draft is not None
            if draft.fault() is None:
                draft.repeats = is_same_question(str(draft.question), asked)
                if not draft.repeats:
                    asked.append(str(draft.question))
            drafts.append(draft)
        return drafts

    def _write_short(self, kind: str, items: Sequence[Item], pixels: torch.Tensor) -> dict[int, list[Draft]]:
        """Questions with several short answers, the same one of every picture at a time; the drafts by picture."""
        asking = {place: self._ask(item, kind) for place, item in enumerate(items)}
        wanted = {place: next(row) for place, row in asking.items()}
        found: dict[int, list[Draft]] = {}
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
    def _short(self, kind: str, pixels: torch.Tensor, seeds: list[int], settings: dict[str, Any]) -> list[Draft]:
        assert self.short is not None
        write, to = self.short.write, (self.model.device, self.model.dtype)
        parts = self.fitting.run(len(seeds), lambda rows: write(kind, pixels[rows].to(*to), seeds[rows], settings))
        return [draft for part in parts for draft in part]

    def _collect(self, batch: _Batch) -> Work:
        """Rows, records and counts from the drafts of a batch."""
        work = Work()
        for kind in self.kinds:
            for index in range(self.questions):
                good = []
                for place, item in enumerate(batch.items):
                    draft = batch.drafts[kind, place][index]
                    id_ = row_id(item.digest, kind, self.constants["config_hash"], index)
                    fault = draft.fault()
                    if fault is not None:
                        work.rejects.append((item, self._reject(id_, kind, item, draft, fault)))
                    elif draft.repeats:
                        work.dropped += 1
                    else:
                        good.append(place)
                        work.rows.append((item, self._row(id_, kind, index, item, draft)))
                if self.score and good:
                    self._score(work.rows[-len(good) :], kind, batch, good)
        return work

    @torch.no_grad()
    def _score(self, rows: list[tuple[Item, dict[str, Any]]], kind: str, batch: _Batch, places: list[int]) -> None:
        """How much the answers owe to the picture, into the rows."""

        def scores(part: slice) -> list[float]:
            assert batch.embeds is not None
            asked = [str(row["question"]) for _, row in rows[part]]
            answered = [str(row["answer"]) for _, row in rows[part]]
            embeds = batch.embeds[places[part]]
            return visual_dependencies(self.model, self.processor, embeds, asked, answered, [kind] * len(asked))

        parts = self.fitting.run(len(rows), scores)
        for (_, row), score in zip(rows, [score for part in parts for score in part], strict=True):
            row["scores"]["visual_dependency"] = score

    def _row(self, id_: str, kind: str, index: int, item: Item, draft: Draft) -> dict[str, Any]:
        question, answer = str(draft.question), str(draft.answer)
        extra: dict[str, Any] = {}
        if draft.full_answer is not None:
            extra["answer_given_question"] = draft.full_answer
        if draft.attempt:
            extra["attempt"] = draft.attempt + 1
        return {
            "id": id_,
            "image": item.image,
            "image_id": item.source.image_id,
            "type": kind,
            "question_index": index,
            "instruction": self.processor.instruction(kind),
            "question": question,
            "draft": draft.draft,
            "answer": answer,
            "messages": to_messages(question, answer),
            "trace": draft.trace,
            "scores": {
                "draft_logprob": draft.draft_logprob,
                "answer_logprob": draft.answer_logprob,
                "visual_dependency": None,
            },
            "answers": draft.answers,
            "weights": draft.weights,
            "objects": item.source.objects,
            "conversation_id": None,
            "turn": None,
            "extra": extra or None,
            **self.constants,
            **({"license": item.source.license} if item.source.license else {}),
        }

    def _reject(self, id_: str, kind: str, item: Item, draft: Draft, reason: str) -> dict[str, Any]:
        return {
            "kind": "text",
            "id": id_,
            "path": item.source.name,
            "image_id": item.source.image_id,
            "sha256": item.digest,
            "type": kind,
            "instruction": self.processor.instruction(kind),
            "text": draft.text,
            # What is wrong may be with VIC's text, and not with VIG's.
            **({} if draft.answer is None else {"answer": draft.answer}),
            "reason": reason,
            "attempts": 1 if reason == NOT_FINITE else self.retries + 1,
        }


def _known(drafts: list[Draft]) -> Asking:
    """Nothing is to be asked: the drafts are there."""
    return drafts
    yield


def finish_row(item: Item, row: dict[str, Any]) -> dict[str, Any]:
    """A row as it is stored, with the names of all exact copies of its picture."""
    extra = dict(row["extra"] or {})
    if item.same:
        extra["same_picture"] = [printable(name) for name in item.same]
    return {**row, "extra": json.dumps(extra, ensure_ascii=True) if extra else None}


def finish_reject(item: Item, record: dict[str, Any]) -> dict[str, Any]:
    """A record as it is stored, with the names of all exact copies of its picture."""
    return {**record, "same": item.same} if item.same else record


def row_seed(seed: int, id_: str) -> int:
    """32 bits that depend on the run's seed and the row alone."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{id_}".encode()).digest()[:4], "big")
