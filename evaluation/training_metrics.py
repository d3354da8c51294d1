"""Figures of what a model in training writes about rows that it is not trained on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from vigc.evaluation.metrics.vqa_accuracy import vqa_accuracy
from vigc.processing import INSTRUCTION_TYPES
from vigc.processing.rows import is_edited

# Their VIC is asked for a short answer, and not by the bare question alone.
SHORT_TYPES = frozenset(kind.name for kind in INSTRUCTION_TYPES.values() if kind.answer_templates[0] != "{question}")


class Written(Protocol):
    """What of a row and of the texts about it is looked at; `vigc.trainer.WrittenRow` has more."""

    @property
    def type(self) -> str:
        """Its type of instruction."""

    @property
    def references(self) -> Sequence[str]:
        """All answers of the row."""

    @property
    def draft(self) -> str | None:
        """VIG's answer to its own question; None where it wrote no pair."""

    @property
    def answer(self) -> str | None:
        """That answer corrected by VIC."""

    @property
    def given_answer(self) -> str | None:
        """What VIC wrote to the row's own question."""


def written_figures(rows: Iterable[Written]) -> dict[str, float]:
    """Shares, from 0 to 1; one that has no rows is left out.

    Returns:
        "vqa_accuracy": of VIC's answers to rows of types with short answers (Antol et al., 2015), see
            [`~vigc.evaluation.metrics.vqa_accuracy`]; where a row has one answer, whether it is that. "edit_rate": of
            the drafts of other types, in how many the correction changed a word.
    """
    hits: list[float] = []
    edits: list[float] = []
    for row in rows:
        if row.type in SHORT_TYPES:
            # As if all had given it: the metric leaves one person out, and takes three for certain.
            references = list(row.references) * (4 if len(row.references) == 1 else 1)
            hits.append(vqa_accuracy.counts(row.given_answer or "", references)["accuracy"])
        elif row.draft is not None:
            edits.append(is_edited(row.draft, row.answer or ""))
    figures = {"vqa_accuracy": hits, "edit_rate": edits}
    return {name: sum(values) / len(values) for name, values in figures.items() if values}
