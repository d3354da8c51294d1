"""`vigc export`: a dataset folder in the layouts of other trainers."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .command import REJECTED
from .terminal import count, option, say

if TYPE_CHECKING:
    from vigc.exports.export import Exported
    from vigc.formats.preferences import PreferenceRule
    from vigc.hub_cards import ExportFacts

_PAIRS = "Preference pairs (trl-dpo)"
_PICTURES = "Pictures"

Dataset = Annotated[
    Path,
    typer.Argument(help="A folder that `vigc generate` or `vigc correct` wrote, or rows to train on as parquet."),
]
Format = Annotated[str, option("trl-sft, trl-dpo, llava or finevision.", "--format", "-f", show_default=False)]
Output = Annotated[Path, option("The folder to write, new or empty.", "--output", "-o", show_default=False)]
Types = Annotated[str | None, option("Only these types of instruction, with commas between.")]
NoPictures = Annotated[
    bool, option("llava: name the pictures only, write none.", "--no-pictures", rich_help_panel=_PICTURES)
]
ImageRoot = Annotated[
    Path | None,
    option("Where pictures lie that rows only name; by default DATASET.", rich_help_panel=_PICTURES),
]
MinWords = Annotated[int, option("Words that must differ, case and punctuation aside.", rich_help_panel=_PAIRS)]
Score = Annotated[
    str,
    option(
        "What must agree with the edit. logprob: the answer's mean log-probability exceeds the draft's; "
        "visual-dependency: the answer is likelier with the picture than without; none.",
        rich_help_panel=_PAIRS,
    ),
]
MinGain = Annotated[float, option("By more than how much it must.", rich_help_panel=_PAIRS)]
KeepCuts = Annotated[
    bool,
    option("Also take edits that only cut or continue the draft.", "--keep-cuts", rich_help_panel=_PAIRS),
]


def export(
    dataset: Dataset,
    format: Format,
    output: Output,
    types: Types = None,
    no_pictures: NoPictures = False,
    image_root: ImageRoot = None,
    min_words: MinWords = 1,
    score: Score = "logprob",
    min_gain: MinGain = 0.0,
    keep_cuts: KeepCuts = False,
) -> None:
    """Write a dataset in the layout of another trainer.

    trl-sft: a chat per conversation, for TRL's SFTTrainer. finevision: FineVision's columns. llava: conversations.json
    with pictures under images/; rows that were read from a LLaVA file give back its entries, every field, turn and id.

    trl-dpo: a preference pair per correction, for TRL's DPOTrainer, with the answer chosen and the draft rejected. A
    correction counts only if it is material (words differ, and not by a cut alone) and its score agrees.
    """
    from vigc.exports.export import export_dataset
    from vigc.formats.preferences import PreferenceRule
    from vigc.hub_cards import write_export_card

    rule = PreferenceRule(min_words=min_words, score=score, min_gain=min_gain, keep_cuts=keep_cuts)

    def card(folder: Path, done: Exported) -> None:
        write_export_card(folder, _facts(done, dataset.resolve().name, rule))

    done = export_dataset(
        dataset,
        output,
        format=format,
        types=None if types is None else [kind.strip() for kind in types.split(",")],
        rule=rule,
        pictures=not no_pictures,
        image_root=image_root,
        card=card,
    )
    say(f"{count(done.records, 'record')} from {count(done.rows, 'row')}")
    for reason, number in done.left_out.most_common():
        say(f"  {number:>8,} left out: {reason}")
    for reason, number in done.unreadable.most_common():
        say(f"  {number:>8,} set aside: its picture {reason}")
    say(f"Dataset: {done.output}")
    if done.first_unreadable:
        say(f"The first that could not be read: {done.first_unreadable}", err=True)
        raise typer.Exit(REJECTED)


def _facts(done: Exported, source: str, rule: PreferenceRule) -> ExportFacts:
    """What the card says of an export."""
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
