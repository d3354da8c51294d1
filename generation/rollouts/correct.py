"""Rollouts of `vigc correct`: a corrector answers the questions of a dataset's entries again."""

from __future__ import annotations

import hashlib
from typing import Any

from vigc.generation.sources.base import DraftPair
from vigc.generation.sources.prefetch import Item
from vigc.inference.generator import Writer
from vigc.jobs import Plan, Reason
from vigc.modeling_vigc import IqfSettings
from vigc.modeling_vigc.requests_vigc import Rollout, Sample
from vigc.processing import INSTRUCTION_TYPES
from vigc.processing.rows import row_id

from .checks import fault_of
from .worker import Batch, Key, Worker


class CorrectionWorker(Worker):
    """Answers the questions of entries again; for the arguments see [`Worker`]."""

    inputs = "entries"

    def __init__(self, writer: Writer, plan: Plan, settings: dict[str, Any]) -> None:
        super().__init__(writer, plan, settings)
        (self.kind,) = plan.configuration["types"]
        self.task = self.kind if self.kind in INSTRUCTION_TYPES else None
        self.rule = IqfSettings(**plan.configuration["iqf"]).rule

    def rollouts(self, batch: Batch) -> list[tuple[Key, Rollout[list[Sample]]]]:
        """One rollout per question; each image is encoded once."""
        return [
            ((place, turn), self._answer(item, pair, batch.encoded[place]))
            for place, item in enumerate(batch.seen)
            for turn, pair in enumerate(item.source.pairs or [])
        ]

    def _answer(self, item: Item, pair: DraftPair, image: Any) -> Rollout[list[Sample]]:
        def sample(seed: int, settings: dict[str, Any]) -> Rollout[Sample]:
            given = self.rollout_settings(settings)
            return self.corrector.rollout(image, pair["question"], pair["answer"], given, self.task, seed)

        return [(yield from self.attempts(self._id(item, pair), sample))]

    def collect(self, batch: Batch) -> None:
        """Makes rows and records in the order of the entries; entries without image are copied unchanged."""
        places, rows = [], []
        seen = {id(item): place for place, item in enumerate(batch.seen)}
        for item in batch.items:
            place = seen.get(id(item))
            for turn, pair in enumerate(item.source.pairs or []):
                draft = None if place is None else batch.samples[place, turn][0]
                fault = None if draft is None else fault_of(draft)
                if draft is not None and fault is not None:
                    batch.rejects.append((item, self._reject(item, pair, draft, fault)))
                    continue
                batch.rows.append((item, self._row(item, pair, draft)))
                if place is not None:
                    places.append(place)
                    rows.append(batch.rows[-1][1])
        self.score(rows, [batch.encoded[place] for place in places], self.task, drafts=True)

    def _compared(self, trace: list[dict[str, Any]], given: str) -> list[dict[str, Any]]:
        """Adds to each step of the trace whether its text differs from that part of the given answer."""
        units, place, compared = self.rule.split_all(given), 0, []
        for number, step in enumerate(trace, 1):
            kept = self.rule.split_all(step["sentence"])
            # The last step is compared with the whole rest, so that omitted sentences count as a change.
            end = len(units) if number == len(trace) else place + len(kept)
            compared.append({**step, "changed": kept != units[place:end]})
            place += len(kept)
        return compared

    def _id(self, item: Item, pair: DraftPair) -> str:
        # Several conversations can have the same image.
        kind = f"{self.kind}/{pair.get('conversation_id')}"
        digest = item.digest or hashlib.sha256(b"").hexdigest()
        return row_id(digest, kind, self.constants["config_hash"], pair.get("turn") or 0)

    def _row(self, item: Item, pair: DraftPair, draft: Sample | None) -> dict[str, Any]:
        turn = pair.get("turn") or 0
        answer = pair["answer"] if draft is None else str(draft.answer)
        return self.row(
            self._id(item, pair),
            self.kind,
            item,
            (pair["question"], pair["answer"], answer),
            draft,
            trace=self._compared(draft.trace, pair["answer"]) if draft else [],
            question_index=turn,
            conversation_id=pair.get("conversation_id"),
            turn=turn,
            extra=pair.get("extra"),
            **{name: pair[name] for name in ("source", "license") if pair.get(name)},
        )

    def _reject(self, item: Item, pair: DraftPair, draft: Sample, fault: Reason) -> dict[str, Any]:
        return self.reject(
            self._id(item, pair),
            self.kind,
            item,
            pair["question"],
            draft,
            fault,
            draft=pair["answer"],
            conversation_id=pair.get("conversation_id"),
            turn=pair.get("turn") or 0,
        )
