"""Inputs to rows: the part of a job that a model does, whatever is asked about a picture."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeAlias

from vigc.generation.correctors import CORRECTORS, corrector_of
from vigc.generation.sources.base import Source
from vigc.generation.sources.prefetch import Item, Loader
from vigc.inference.generator import Writer
from vigc.jobs import Plan, Reason, ShardOutput
from vigc.jobs.protocols import Report
from vigc.modeling_vigc.generation_vigc import IQF_SETTINGS, split_settings
from vigc.modeling_vigc.requests_vigc import Rollout, Sample, deferred
from vigc.modeling_vigc.rollout_vigc import RolloutSettings
from vigc.processing.bounded_parsing import parse_json
from vigc.processing.confined_paths import printable
from vigc.processing.rows import to_messages

from .checks import NOT_FINITE, fault_of

# How a text is drawn where the settings themselves draw nothing: a second attempt stays close to the first, a second
# question does not.
AGAIN = {"do_sample": True, "num_beams": 1, "temperature": 0.7, "top_p": 0.9}
ANOTHER = {"do_sample": True, "num_beams": 1, "temperature": 1.0, "top_p": 0.95}


# A rollout of a batch: the place of its image among those, and which of the rollouts about that image it is.
Key: TypeAlias = tuple[int, Hashable]


@dataclass(eq=False)
class Batch:
    """Inputs that were opened together, and what comes of them.

    Rows and records are kept by input: exact copies of its image may still turn up.

    Args:
        items: The inputs.
        seen: Those of them that have an image.
        encoded: What requests carry of each image of `seen`.
        asked: How many rollouts there are about them.
        left: By the place of an image, how many of its rollouts have not ended.
        samples: What they returned, by the rollout's key.
        rows: (input, row of `GENERATED_FEATURES`).
        rejects: (input, record of a rejected sample).
        dropped: How many questions were left out because the image had the same one already.
    """

    items: list[Item]
    seen: list[Item]
    encoded: Sequence[Any] = ()
    asked: int = 0
    left: Counter[int] = field(default_factory=Counter)
    samples: dict[Key, list[Sample]] = field(default_factory=dict)
    rows: list[tuple[Item, dict[str, Any]]] = field(default_factory=list)
    rejects: list[tuple[Item, dict[str, Any]]] = field(default_factory=list)
    dropped: int = 0


class Worker(ABC):
    """Makes the rows of a shard with one model, which stays busy from one batch of inputs to the next.

    Args:
        writer: The model.
        plan: Of the job: `configuration` decides what is written.
        settings: Decoding and `iqf_*` settings that are not the model's own.
    """

    inputs: ClassVar[str]  # what they are called while they are counted

    def __init__(self, writer: Writer, plan: Plan, settings: dict[str, Any]) -> None:
        self.writer = writer
        configuration = plan.configuration
        self.seed, self.retries = configuration["seed"], configuration["retries"]
        self.scorer = writer.scorer if configuration["score"] else None
        self.samples = bool(configuration["decoding"].get("do_sample"))
        correct = configuration["correct"]
        self.settings = {name: settings[name] for name in settings if correct or name not in IQF_SETTINGS}
        # Columns that are the same in every row.
        self.constants = {name: getattr(plan, name) for name in ("source", "license", "config_hash")}
        self.constants["model"] = configuration["model"]
        self.corrector = CORRECTORS[corrector_of(configuration)]
        self.max_new_tokens = configuration["decoding"].get("max_new_tokens") or 249
        self._rollout_settings: dict[str, RolloutSettings] = {}

    @abstractmethod
    def rollouts(self, batch: Batch) -> list[tuple[Key, Rollout[list[Sample]]]]:
        """The rollouts of a batch whose images are encoded, each with a key that is unique in it."""

    @abstractmethod
    def collect(self, batch: Batch) -> None:
        """Makes rows, records and counts of the samples of a batch."""

    def make(self, loader: Loader, sources: list[Source], report: Report) -> ShardOutput:
        """All that comes of a shard's inputs; `report` is told how far it is whenever a rollout ends."""
        output, halved = ShardOutput(), self.writer.halved
        items: list[Item] = []
        rows, rejects = [], []
        done, made = 0, 0

        def ended(images: int, samples: Sequence[Sample]) -> None:
            nonlocal done, made
            done += images
            made += sum(fault_of(sample) is None and not sample.repeats for sample in samples)
            report(done + len(output.skipped), made)

        report(0, 0)
        for batch in self.write(loader.batches(sources, output.skipped), ended):
            rows += batch.rows
            rejects += batch.rejects
            output.dropped += batch.dropped
            items += batch.items
        # Only now is it known which pictures have copies.
        output.rows = [finish_row(item, row) for item, row in rows]
        output.rejects = [finish_reject(item, record) for item, record in rejects]
        output.bare = sum(item.image is None for item in items)
        output.images, output.duplicates = len(items) - output.bare, sum(len(item.same) for item in items)
        output.halved = self.writer.halved - halved
        return output

    def write(self, batches: Iterable[list[Item]], ended: Callable[[int, Sequence[Sample]], object]) -> Iterator[Batch]:
        """Runs the rollouts of each batch, and makes its rows.

        The model goes on from one batch to the next without a break, so that batches may end out of their order; they
        are yielded in it.

        Args:
            batches: The inputs.
            ended: Is called when a rollout ends, with 1 if it was the last one about its image, or else 0, and samples.
        """
        begun: deque[Batch] = deque()
        for batch, key, samples in self.writer.run(self._begin(batches, begun)):
            batch.samples[key] = samples
            batch.left[key[0]] -= 1
            ended(int(not batch.left[key[0]]), samples)
            yield from self._ended(begun)
        yield from self._ended(begun)

    def _begin(self, batches: Iterable[list[Item]], begun: deque[Batch]) -> Iterator[Rollout[Any] | None]:
        """The rollouts of all batches, as a generator's `run` takes them."""
        for items in batches:
            batch = Batch(items, [item for item in items if item.image is not None])
            if batch.seen:
                batch.encoded = self.writer.encode_batch([item.prepared for item in batch.seen])
            for item in items:
                item.prepared = None
            rollouts = self.rollouts(batch)
            batch.asked, batch.left = len(rollouts), Counter(place for (place, _), _ in rollouts)
            begun.append(batch)
            for key, rollout in rollouts:
                yield _named(batch, key, rollout)
            # The batch ends; or it was empty, and the generator goes on with what it has.
            if rollouts or any(len(other.samples) < other.asked for other in begun):
                yield None

    def _ended(self, begun: deque[Batch]) -> Iterator[Batch]:
        while begun and len(begun[0].samples) == begun[0].asked:
            self.collect(begun[0])
            yield begun.popleft()

    def settings_of(self, attempt: int, another: bool) -> dict[str, Any]:
        """Decoding and `iqf_*` settings of an attempt, over the model's own."""
        if self.samples or not (attempt or another):
            return dict(self.settings)
        return self.settings | (ANOTHER if another else AGAIN)

    def rollout_settings(self, given: dict[str, Any]) -> RolloutSettings:
        """What `given` decoding and `iqf_*` settings ask of a rollout; the same object for equal ones."""
        name = repr(sorted(given.items()))
        if name not in self._rollout_settings:
            iqf, decoding = split_settings(self.writer.facts.generation_config, given)
            self._rollout_settings[name] = RolloutSettings(self.writer.prompts, iqf, decoding, self.max_new_tokens)
        return self._rollout_settings[name]

    def attempts(
        self,
        id_: str,
        sample: Callable[[int, dict[str, Any]], Rollout[Sample]],
        good: Callable[[Sample], bool] = lambda sample: fault_of(sample) is None,
        another: bool = False,
    ) -> Rollout[Sample]:
        """Makes a sample, and again while it is not good; where none is, the first one stands for all.

        Args:
            id_: The row's, which decides with the job's seed what is drawn.
            sample: Makes an attempt from a seed and settings.
            good: Whether a sample will do.
            another: Whether it must not be what greedy search would generate.
        """
        chosen: Sample | None = None
        for attempt in range(self.retries + 1):
            seed = row_seed(self.seed, f"{id_}/{attempt}" if attempt else id_)
            rollout = sample(seed, self.settings_of(attempt, another))
            # Further attempts wait behind the first ones of their batch.
            found = yield from (deferred(rollout) if attempt or another else rollout)
            found.attempt = attempt
            will_do = good(found)
            if chosen is None or will_do:
                chosen = found
            if will_do or fault_of(chosen) == NOT_FINITE:  # which no other draw puts right
                break
        assert chosen is not None
        return chosen

    def score(
        self, rows: Sequence[dict[str, Any]], images: Sequence[Any], task: str | None, *, drafts: bool = False
    ) -> None:
        """Measures texts once more, into the rows, where the job has scores.

        Args:
            rows: B rows.
            images: Their images, as they were encoded.
            task: The type of their questions, or None.
            drafts: Whether the drafts are measured too: those of others have no score yet.
        """
        if self.scorer is None or not rows:
            return
        measures = {"visual_dependency": (self.scorer.visual_dependencies, "answer")}
        if drafts:
            measures["draft_logprob"] = (self.scorer.mean_logprobs, "draft")
        questions = [str(row["question"]) for row in rows]
        for name, (measure, column) in measures.items():
            scores = measure(images, questions, [str(row[column]) for row in rows], task)
            for row, score in zip(rows, scores, strict=True):
                row["scores"][name] = score

    def row(
        self,
        id_: str,
        kind: str,
        item: Item,
        texts: tuple[str, str | None, str],
        written: Sample | None,
        **columns: Any,
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
        self, id_: str, kind: str, item: Item, instruction: str, written: Sample, fault: Reason, **columns: Any
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
            "reason": fault.detail,
            "attempts": 1 if fault == NOT_FINITE else self.retries + 1,
        }


def _named(batch: Batch, key: Key, rollout: Rollout[list[Sample]]) -> Rollout[tuple[Batch, Key, list[Sample]]]:
    """A rollout that returns whose samples it has, too."""
    samples = yield from rollout
    return batch, key, samples


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
