"""`vigc export`: exports a dataset folder to the layout of another trainer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from vigc.errors import ExportError
from vigc.options import check_paths, recorded
from vigc.processing.atomic import atomic_write
from vigc.processing.job_file import job_text

from .command import REJECTED
from .options import Given, given_of, settings_of_all, with_options
from .terminal import count, say

if TYPE_CHECKING:
    from vigc.exports.export import Exported
    from vigc.formats.preferences import PreferenceRule
    from vigc.hub_cards import ExportFacts


def _settings() -> Sequence[type]:
    from vigc.exports.settings import ExportSettings
    from vigc.formats import PreferenceRule

    return ExportSettings, PreferenceRule


@with_options(_settings)
def export(given: Given) -> None:
    """Write a dataset in the layout of another trainer.

    trl-sft: a chat per conversation, for TRL's SFTTrainer. finevision: FineVision's columns. llava: conversations.json
    with images in images/; rows that were read from a LLaVA file keep all fields, turns and ids of its entries.

    trl-dpo: a preference pair per correction, for TRL's DPOTrainer: the answer is chosen, the draft is rejected. A
    correction counts only if words change, not only by a cut at the end, and if the score agrees.
    """
    _do(given)


def _do(given: Given) -> None:
    from vigc.exports.settings import ExportSettings
    from vigc.formats import PreferenceRule

    asked = ExportSettings(**given_of(ExportSettings, given))
    rule = PreferenceRule(**given_of(PreferenceRule, given))
    check_paths(asked, ExportError)

    from vigc.exports.export import export_dataset
    from vigc.hub_cards import write_export_card
    from vigc.jobs import ledger

    def card(folder: Path, done: Exported) -> None:
        write_export_card(folder, _facts(done, asked.dataset.resolve().name, rule))
        used = recorded(given, settings_of_all(_settings()))
        atomic_write(folder / ledger.JOB, job_text("vigc export", used))

    done = export_dataset(
        asked.dataset,
        asked.output,
        format=asked.format,
        types=asked.types,
        rule=rule,
        pictures=not asked.no_pictures,
        image_root=asked.image_root,
        card=card,
    )
    say(f"{count(done.records, 'record')} from {count(done.rows, 'row')}")
    for reason, number in done.left_out.most_common():
        say(f"  {number:>8,} skipped: {reason}")
    for reason, number in done.unreadable.most_common():
        say(f"  {number:>8,} skipped: its image {reason}")
    say(f"Dataset: {done.output}")
    if done.first_unreadable:
        say(f"First error: {done.first_unreadable}", err=True)
        raise typer.Exit(REJECTED)


def _facts(done: Exported, source: str, rule: PreferenceRule) -> ExportFacts:
    """The values for the dataset card."""
    from vigc.hub_cards import ExportFacts

    return ExportFacts(
        name=done.output.resolve().name,
        source=source,
        layout=done.format.title,
        note=done.format.note,
        features=done.format.features,
        rule=asdict(rule) if done.format.prefers else None,
        rows=done.rows,
        records=done.records,
        left_out=done.left_out,
        unreadable=done.unreadable,
        licenses=done.licenses,
        num_bytes=done.num_bytes,
        download_bytes=done.download_bytes,
    )
