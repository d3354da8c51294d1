"""Metrics of generated texts during training, on held-out rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from vigc.evaluation.metrics.vqa_accuracy import vqa_accuracy
from vigc.processing import INSTRUCTION_TYPES
from vigc.processing.rows import is_edited

# Task types whose prompt for VIC asks for a short answer.
SHORT_TYPES = frozenset(kind.name for kind in INSTRUCTION_TYPES.values() if kind.answer_templates[0] != "{question}")


class Written(Protocol):
    """The attributes of an evaluated row that metrics need; `vigc.trainer.WrittenRow` has more."""

    @property
    def type(self) -> str:
        """The task type."""

    @property
    def references(self) -> Sequence[str]:
        """All reference answers."""

    @property
    def draft(self) -> str | None:
        """VIG's answer to its question; None if its text has no valid pair."""

    @property
    def answer(self) -> str | None:
        """The draft corrected by VIC."""

    @property
    def given_answer(self) -> str | None:
        """VIC's answer to the row's question."""


def written_figures(rows: Iterable[Written]) -> dict[str, float]:
    """Metrics from 0 to 1; those without rows are omitted.

    Returns:
        "vqa_accuracy": VQA accuracy (Antol et al., 2015) of VIC's answers to rows with short answers, see
            [`~vigc.evaluation.metrics.vqa_accuracy`]; exact match if a row has one answer. "edit_rate": share of the
            other rows whose draft was changed by the correction.
    """
    hits: list[float] = []
    edits: list[float] = []
    for row in rows:
        if row.type in SHORT_TYPES:
            # Repeated, because the metric leaves one answer out and needs three equal ones for full accuracy.
            references = list(row.references) * (4 if len(row.references) == 1 else 1)
            hits.append(vqa_accuracy.counts(row.given_answer or "", references)["accuracy"])
        elif row.draft is not None:
            edits.append(is_edited(row.draft, row.answer or ""))
    figures = {"vqa_accuracy": hits, "edit_rate": edits}
    return {name: sum(values) / len(values) for name, values in figures.items() if values}
