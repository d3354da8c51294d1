"""Inputs to rows: the part of a job that a model does, whatever is asked about a picture."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

from vigc.generation.sources.base import Source
from vigc.generation.sources.prefetch import Item, Loader
from vigc.inference.loading import WritingModel
from vigc.jobs import Plan, ShardOutput
from vigc.modeling_vigc.generation_vigc import IQF_SETTINGS
from vigc.processing.bounded_parsing import parse_json
from vigc.processing.confined_paths import printable
from vigc.processing.rows import to_messages

from .checks import NOT_FINITE, Draft, Fitting
from .logprobs import mean_logprobs, visual_dependencies
from .writing import Ask, Conversation, Writing

# How a text is drawn where the settings themselves draw nothing: a second attempt stays close to the first, a second
# question does not.
AGAIN = {"do_sample": True, "num_beams": 1, "temperature": 0.7, "top_p": 0.9}
ANOTHER = {"do_sample": True, "num_beams": 1, "temperature": 1.0, "top_p": 0.95}

# Each score with how it is measured, and on which column.
_MEASURES = {"visual_dependency": (visual_dependencies, "answer"), "draft_logprob": (mean_logprobs, "draft")}


@dataclass
class Work:
    """What came of a batch of inputs, by input and not by row: copies of a picture may still turn up.

    Args:
        rows: (input, row of `GENERATED_FEATURES`).
        rejects: (input, record of a text that is no pair).
        dropped: How many questions were left out because the picture had the same one already.
    """

    rows: list[tuple[Item, dict[str, Any]]] = field(default_factory=list)
    rejects: list[tuple[Item, dict[str, Any]]] = field(default_factory=list)
    dropped: int = 0


@dataclass(eq=False)
class Batch:
    """Inputs that were opened together.

    Args:
        items: The inputs.
        seen: Those of them that have a picture.
        embeds: float (pictures, patches + 1, vision width), what the ViT saw in them, where it is needed.
        asked: How many conversations there are about them.
        drafts: What was written, by the conversation's name.
    """

    items: list[Item]
    seen: list[Item]
    embeds: torch.Tensor | None = None
    asked: int = 0
    drafts: dict[Any, list[Draft]] = field(default_factory=dict)


class Worker(ABC):
    """Makes the rows of a shard with one engine, whose slots stay full from one batch of inputs to the next.

    Args:
        loaded: The model.
        plan: Of the job: `configuration` decides what is written.
        settings: Decoding and `iqf_*` settings that are not the model's own.
        slots: Texts written at a time.
    """

    inputs: ClassVar[str]  # what they are called while they are counted

    def __init__(self, loaded: WritingModel, plan: Plan, settings: dict[str, Any], slots: int) -> None:
        self.model, self.processor = loaded.model, loaded.processor
        configuration = plan.configuration
        self.seed, self.retries, self.scores = (configuration[name] for name in ("seed", "retries", "score"))
        self.samples = bool(configuration["decoding"].get("do_sample"))
        correct = configuration["correct"]
        self.settings = {name: settings[name] for name in settings if correct or name not in IQF_SETTINGS}
        # Columns that are the same in every row.
        self.constants = {name: getattr(plan, name) for name in ("source", "license", "config_hash")}
        self.constants["model"] = configuration["model"]
        self.fitting = Fitting()
        self.writing = Writing(self.model, self.processor, slots=slots, correct=correct, fitting=self.fitting)

    @abstractmethod
    def conversations(self, batch: Batch, pixels: torch.Tensor) -> list[Conversation]:
        """What is to be asked about a batch, each under a key that is unique in it.

        Args:
            batch: The inputs.
            pixels: float (pictures, 3, H, W).
        """

    @abstractmethod
    def collect(self, batch: Batch) -> Work:
        """Rows, records and counts from the drafts of a batch."""

    def prepare(self, image: Any) -> torch.Tensor:
        """A picture's pixels, float (1, 3, H, W)."""
        return self.processor(images=[image], return_tensors="pt")["pixel_values"]

    def make(self, loader: Loader, sources: list[Source], say: Callable[[str], Any]) -> ShardOutput:
        """All that comes of a shard's inputs; `say` is told in words how far it is."""
        output, halved = ShardOutput(), self.fitting.halved
        items: list[Item] = []
        rows, rejects = [], []
        for batch, work in self.write(loader.batches(sources, output.skipped)):
            rows += work.rows
            rejects += work.rejects
            output.dropped += work.dropped
            items += batch
            say(f"{len(items)} of {len(sources)} {self.inputs}")
        # Only now is it known which pictures have copies.
        output.rows = [finish_row(item, row) for item, row in rows]
        output.rejects = [finish_reject(item, record) for item, record in rejects]
        output.bare = sum(item.image is None for item in items)
        output.images, output.duplicates = len(items) - output.bare, sum(len(item.same) for item in items)
        output.halved = self.fitting.halved - halved
        return output

    def write(self, batches: Iterable[list[Item]]) -> Iterator[tuple[list[Item], Work]]:
        """What comes of each batch.

        The engine goes on from one batch to the next without a break, so that batches may end out of their order; they
        are yielded in it.
        """
        begun: deque[Batch] = deque()
        for conversation, drafts in self.writing.run(self._begin(batches, begun)):
            batch, key = conversation.key
            batch.drafts[key] = drafts
            yield from self._ended(begun)
        yield from self._ended(begun)

    def _begin(self, batches: Iterable[list[Item]], begun: deque[Batch]) -> Iterator[list[Conversation]]:
        for items in batches:
            batch = Batch(items, [item for item in items if item.pixels is not None])
            pixels = [item.pixels for item in batch.seen if item.pixels is not None]
            for item in items:
                item.pixels = None
            conversations = self.conversations(batch, torch.cat(pixels)) if pixels else []
            for conversation in conversations:
                conversation.key = batch, conversation.key
            batch.asked = len(conversations)
            begun.append(batch)
            yield conversations

    def _ended(self, begun: deque[Batch]) -> Iterator[tuple[list[Item], Work]]:
        while begun and len(begun[0].drafts) == begun[0].asked:
            batch = begun.popleft()
            yield batch.items, self.collect(batch)

    @torch.no_grad()
    def embed(self, pixels: torch.Tensor) -> torch.Tensor:
        """All that depends on the pictures alone, float (pictures, patches + 1, vision width)."""
        embed, to = self.model.get_image_embeds, (self.model.device, self.model.dtype)
        return torch.cat(self.fitting.run(len(pixels), lambda rows: embed(pixels[rows].to(*to))))

    def attempts(
        self,
        id_: str,
        question: str | None = None,
        given: str | None = None,
        good: Callable[[Draft], bool] = lambda draft: draft.fault() is None,
        another: bool = False,
    ) -> Generator[Ask, Draft, Draft]:
        """Has a draft written, and again while it is not good; where none is, the first one stands for all.

        Args:
            id_: The row's, which decides with the job's seed what is drawn.
            question: To be answered; None has one written.
            given: The answer to that question that there is already.
            good: Whether a draft will do.
            another: Whether it must not be what greedy search would write.
        """
        chosen: Draft | None = None
        for attempt in range(self.retries + 1):
            settings = dict(self.settings)
            if not self.samples and (attempt or another):
                settings |= ANOTHER if another else AGAIN
            draft = yield Ask(row_seed(self.seed, f"{id_}/{attempt}" if attempt else id_), settings, question, given)
            draft.attempt = attempt
            will_do = good(draft)
            if chosen is None or will_do:
                chosen = draft
            if will_do or chosen.fault() == NOT_FINITE:  # which no other draw puts right
                break
        assert chosen is not None
        return chosen

    @torch.no_grad()
    def score(self, name: str, rows: Sequence[dict[str, Any]], embeds: torch.Tensor, task: str | None) -> None:
        """Measures texts once more, into the rows.

        Args:
            name: The score: "visual_dependency" of the answers, or "draft_logprob" of drafts that have none yet.
            rows: B rows.
            embeds: float (B, patches + 1, vision width).
            task: The type of their questions, or None.
        """
        measure, column = _MEASURES[name]

        def scores(part: slice) -> list[float]:
            asked = [str(row["question"]) for row in rows[part]]
            texts = [str(row[column]) for row in rows[part]]
            return measure(self.model, self.processor, embeds[part], asked, texts, [task] * len(asked))

        parts = self.fitting.run(len(rows), scores)
        for row, score in zip(rows, [score for part in parts for score in part], strict=True):
            row["scores"][name] = score

    def row(
        self, id_: str, kind: str, item: Item, texts: tuple[str, str | None, str], written: Draft | None, **columns: Any
    ) -> dict[str, Any]:
        """A row of `GENERATED_FEATURES`.

        Args:
            id_: Its id.
            kind: Its type.
            item: The input that it is about.
            texts: Question, draft and answer.
            written: What the model wrote, if it wrote anything.
            columns: Those in which kinds of jobs differ.
        """
        question, draft, answer = texts
        return {
            "id": id_,
            "image": item.image,
            "image_id": item.source.image_id,
            "type": kind,
            "question_index": 0,
            "instruction": None,
            "question": question,
            "draft": draft,
            "answer": answer,
            "messages": to_messages(question, answer),
            "trace": written.trace if written else [],
            "scores": {
                # Where there is no draft, VIG's text is the question alone, and its score is no draft's.
                "draft_logprob": written.draft_logprob if written and draft is not None else None,
                "answer_logprob": written.answer_logprob if written else None,
                "visual_dependency": None,
            },
            **dict.fromkeys(("answers", "weights", "objects", "conversation_id", "turn", "extra")),
            **self.constants,
            **columns,
        }

    def reject(
        self, id_: str, kind: str, item: Item, instruction: str, written: Draft, reason: str, **columns: Any
    ) -> dict[str, Any]:
        """The record of a text that is no pair; arguments as of `row`."""
        return {
            "kind": "text",
            "id": id_,
            "path": item.source.name,
            "image_id": item.source.image_id,
            "sha256": item.digest,
            "type": kind,
            "instruction": instruction,
            "text": written.text,
            # What is wrong may be with VIC's text, and not with VIG's.
            **({} if written.answer in (None, written.text) else {"answer": written.answer}),
            **columns,
            "reason": reason,
            "attempts": 1 if reason == NOT_FINITE else self.retries + 1,
        }


def finish_row(item: Item, row: dict[str, Any]) -> dict[str, Any]:
    """A row as it is stored, with the names of all exact copies of its picture."""
    if not item.same:
        return row
    extra = {**parse_json(row["extra"] or "{}"), "same_picture": [printable(name) for name in item.same]}
    return {**row, "extra": json.dumps(extra, ensure_ascii=True)}


def finish_reject(item: Item, record: dict[str, Any]) -> dict[str, Any]:
    """A record as it is stored, with the names of all exact copies of its picture."""
    return {**record, "same": item.same} if item.same else record


def row_seed(seed: int, id_: str) -> int:
    """32 bits that depend on the run's seed and the row alone."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{id_}".encode()).digest()[:4], "big")
