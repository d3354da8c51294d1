"""The base of workers, which make the rows of a shard with a model."""

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

# Sampling of further texts if the job itself does not sample: a second attempt stays close to the first, a second
# question does not.
AGAIN = {"do_sample": True, "num_beams": 1, "temperature": 0.7, "top_p": 0.9}
ANOTHER = {"do_sample": True, "num_beams": 1, "temperature": 1.0, "top_p": 0.95}


# A rollout of a batch: the index of its image, and a key among the rollouts of that image.
Key: TypeAlias = tuple[int, Hashable]


@dataclass(eq=False)
class Batch:
    """Inputs that are opened together, with their samples and rows.

    Rows and records are kept with their input, because exact copies of its image may still be found.

    Args:
        items: The inputs.
        seen: The inputs with an image.
        encoded: The encoded images of `seen`.
        asked: Number of rollouts.
        left: Number of unfinished rollouts, by index of the image.
        samples: The samples of rollouts, by key.
        rows: (input, row of `GENERATED_FEATURES`).
        rejects: (input, record of a rejected sample).
        dropped: Number of questions dropped because the image already had the same question.
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
    """Makes the rows of a shard with one model, whose slots stay full across batches of inputs.

    Args:
        writer: The model.
        plan: The plan; its `configuration` determines the text.
        settings: The explicit decoding and `iqf_*` settings.
    """

    inputs: ClassVar[str]  # name of the inputs in the progress

    def __init__(self, writer: Writer, plan: Plan, settings: dict[str, Any]) -> None:
        self.writer = writer
        configuration = plan.configuration
        self.seed, self.retries = configuration["seed"], configuration["retries"]
        self.scorer = writer.scorer if configuration["score"] else None
        self.samples = bool(configuration["decoding"].get("do_sample"))
        correct = configuration["correct"]
        self.settings = {name: settings[name] for name in settings if correct or name not in IQF_SETTINGS}
        # Columns with the same value in every row.
        self.constants = {name: getattr(plan, name) for name in ("source", "license", "config_hash")}
        self.constants["model"] = configuration["model"]
        self.corrector = CORRECTORS[corrector_of(configuration)]
        self.max_new_tokens = configuration["decoding"].get("max_new_tokens") or 249
        self._rollout_settings: dict[str, RolloutSettings] = {}

    @abstractmethod
    def rollouts(self, batch: Batch) -> list[tuple[Key, Rollout[list[Sample]]]]:
        """The rollouts of a batch with encoded images, each with a unique key."""

    @abstractmethod
    def collect(self, batch: Batch) -> None:
        """Makes rows, records and counts of the samples of a batch."""

    def make(self, loader: Loader, sources: list[Source], report: Report) -> ShardOutput:
        """Makes the output of a shard; calls `report` whenever a rollout ends."""
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
        # The copies of images are only known now.
        output.rows = [finish_row(item, row) for item, row in rows]
        output.rejects = [finish_reject(item, record) for item, record in rejects]
        output.bare = sum(item.image is None for item in items)
        output.images, output.duplicates = len(items) - output.bare, sum(len(item.same) for item in items)
        output.halved = self.writer.halved - halved
        return output

    def write(self, batches: Iterable[list[Item]], ended: Callable[[int, Sequence[Sample]], object]) -> Iterator[Batch]:
        """Runs the rollouts of each batch and makes its rows.

        Rollouts of several batches run together, so that batches can end out of order; they are yielded in order.

        Args:
            batches: The inputs.
            ended: Called at the end of a rollout, with 1 if it is the last of its image (else 0) and its samples.
        """
        begun: deque[Batch] = deque()
        for batch, key, samples in self.writer.run(self._begin(batches, begun)):
            batch.samples[key] = samples
            batch.left[key[0]] -= 1
            ended(int(not batch.left[key[0]]), samples)
            yield from self._ended(begun)
        yield from self._ended(begun)

    def _begin(self, batches: Iterable[list[Item]], begun: deque[Batch]) -> Iterator[Rollout[Any] | None]:
        """The rollouts of all batches, for [`TextGenerator.run`]."""
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
            # End of the batch. An empty batch instead lets the generator continue with running rollouts.
            if rollouts or any(len(other.samples) < other.asked for other in begun):
                yield None

    def _ended(self, begun: deque[Batch]) -> Iterator[Batch]:
        while begun and len(begun[0].samples) == begun[0].asked:
            self.collect(begun[0])
            yield begun.popleft()

    def settings_of(self, attempt: int, another: bool) -> dict[str, Any]:
        """The decoding and `iqf_*` settings of an attempt."""
        if self.samples or not (attempt or another):
            return dict(self.settings)
        return self.settings | (ANOTHER if another else AGAIN)

    def rollout_settings(self, given: dict[str, Any]) -> RolloutSettings:
        """The rollout settings for `given` decoding and `iqf_*` settings; cached."""
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
        """Makes attempts until a sample is good; if none is, returns the first one.

        Args:
            id_: The row's id, which together with the job's seed determines the sampling.
            sample: Makes an attempt from a seed and settings.
            good: Whether a sample is accepted.
            another: Whether to sample the first attempt too, so that it differs from greedy search.
        """
        chosen: Sample | None = None
        for attempt in range(self.retries + 1):
            seed = row_seed(self.seed, f"{id_}/{attempt}" if attempt else id_)
            rollout = sample(seed, self.settings_of(attempt, another))
            # Further attempts run after the first attempts of their batch.
            found = yield from (deferred(rollout) if attempt or another else rollout)
            found.attempt = attempt
            will_do = good(found)
            if chosen is None or will_do:
                chosen = found
            if will_do or fault_of(chosen) == NOT_FINITE:  # another attempt cannot repair it
                break
        assert chosen is not None
        return chosen

    def score(
        self, rows: Sequence[dict[str, Any]], images: Sequence[Any], task: str | None, *, drafts: bool = False
    ) -> None:
        """Adds scores of the texts to the rows, if the job has scores.

        Args:
            rows: B rows.
            images: Their B encoded images.
            task: The task type of their questions, or None.
            drafts: Whether to score drafts too; drafts of an existing dataset have no score yet.
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
            id_: The row's id.
            kind: The task type.
            item: The input.
            texts: Question, draft and answer.
            written: The generated sample, if there is one.
            columns: Columns that depend on the command.
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
                # Without a draft, VIG's text is only the question, and its score is not that of a draft.
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
        """The record of a rejected sample; for the arguments see `row`."""
        return {
            "kind": "text",
            "id": id_,
            "path": item.source.name,
            "image_id": item.source.image_id,
            "sha256": item.digest,
            "type": kind,
            "instruction": instruction,
            "text": written.text,
            # The fault may be in VIC's text instead of VIG's.
            **({} if written.answer in (None, written.text) else {"answer": written.answer}),
            **columns,
            "reason": fault.detail,
            "attempts": 1 if fault == NOT_FINITE else self.retries + 1,
        }


def _named(batch: Batch, key: Key, rollout: Rollout[list[Sample]]) -> Rollout[tuple[Batch, Key, list[Sample]]]:
    """Wraps a rollout so that it returns its batch and key with the samples."""
    samples = yield from rollout
    return batch, key, samples


def finish_row(item: Item, row: dict[str, Any]) -> dict[str, Any]:
    """The stored form of a row, with the names of all exact copies of its image."""
    if not item.same:
        return row
    extra = {**parse_json(row["extra"] or "{}"), "same_picture": [printable(name) for name in item.same]}
    return {**row, "extra": json.dumps(extra, ensure_ascii=True)}


def finish_reject(item: Item, record: dict[str, Any]) -> dict[str, Any]:
    """The stored form of a record, with the names of all exact copies of its image."""
    return {**record, "same": item.same} if item.same else record


def row_seed(seed: int, id_: str) -> int:
    """A 32-bit seed that depends only on the job's seed and the row id."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{id_}".encode()).digest()[:4], "big")
