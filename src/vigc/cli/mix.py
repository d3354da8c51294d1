"""`vigc mix`: instances of one dataset added to another, or put in the place of as many."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from vigc.errors import MixError

from .terminal import count, option, say

_BASE, _FROM = "The base", "What is mixed in"

Base = Annotated[
    list[str],
    typer.Argument(help="Files in a published layout, or dataset folders: what the mixture starts from."),
]
Extra = Annotated[str | None, option("A dataset folder or file that instances are taken from.", "--from")]
Output = Annotated[Path, option("The folder to write, new or empty.", "--output", "-o", show_default=False)]
Add = Annotated[
    list[str] | None,
    option("TYPE=N adds N instances of a type, TYPE alone all of them; repeatable.", show_default=False),
]
Replace = Annotated[
    list[str] | None,
    option("TYPE=N puts N instances in the place of as many of the base; repeatable.", show_default=False),
]
Text = Annotated[str, option("What generated rows answer: answer (VIC) or draft (VIG).", rich_help_panel=_FROM)]
Seed = Annotated[int, option("Decides which instances.")]
Images = Annotated[
    str, option("path: pictures stay as they are, named or embedded. embed: the folder holds all of them.")
]
Layout = Annotated[
    str,
    option("Of the base's files: llava, vigc, aokvqa, okvqa (two files), ...", rich_help_panel=_BASE),
]
ImageRoot = Annotated[
    Path | None,
    option("The folder of the pictures that its files, or the rows of its datasets, name.", rich_help_panel=_BASE),
]
Kind = Annotated[
    str | None,
    option("Its type of instruction, where the files do not say it.", "--type", rich_help_panel=_BASE),
]
FromImageRoot = Annotated[Path | None, option("The folder of the pictures that --from names.", rich_help_panel=_FROM)]
FromKind = Annotated[
    str | None,
    option("Its type, if --from is a LLaVA file that does not say it.", "--from-type", rich_help_panel=_FROM),
]
DryRun = Annotated[bool, option("Read and mix, say what would be written, write nothing.", "--dry-run")]


def mix(
    base: Base,
    output: Output,
    extra: Extra = None,
    add: Add = None,
    replace: Replace = None,
    text: Text = "answer",
    seed: Seed = 0,
    images: Images = "path",
    layout: Layout = "llava",
    image_root: ImageRoot = None,
    type: Kind = None,
    from_image_root: FromImageRoot = None,
    from_type: FromKind = None,
    dry_run: DryRun = False,
) -> None:
    """Mix a dataset with instances of another, by type, count and seed; a manifest says what was taken from where.

    An instance is a conversation with all its turns. Without --from, the base alone is written. The folder is one to
    train on, for `vigc train` and `vigc export`. The paper's Table 1 is made of such mixtures (recipes/paper/tables).
    """
    from vigc.exports.mix import MixRequest, Mixture, Source, write_mixture
    from vigc.exports.mix import mix as mixed
    from vigc.hub_cards import write_mix_card

    def card(folder: Path, mixture: Mixture) -> None:
        write_mix_card(
            folder,
            mixture.manifest,
            name=output.resolve().name,
            num_bytes=mixture.num_bytes,
            download_bytes=mixture.download_bytes,
        )

    _without_bars()
    request = MixRequest(
        Source(tuple(base), _text(image_root), layout, type),
        None if extra is None else Source((extra,), _text(from_image_root), type=from_type),
        add=_counts("--add", add),
        replace={kind: number or 0 for kind, number in _counts("--replace", replace, needed=True).items()},
        text=text,
        seed=seed,
        images=images,
    )
    mixture = mixed(request)
    written = not dry_run and write_mixture(mixture, output, card=card)
    start, result = mixture.manifest["base"], mixture.manifest["result"]
    say(f"{start['name']}: {count(start['instances'], 'instance')}, {count(start['rows'], 'row')}")
    for step in mixture.manifest["steps"]:
        taken = f"{count(step['instances'], 'instance')} of {step['type']} from {step['from']}"
        instead = " in the place of as many" if step["operation"] == "replace" else " added"
        say(f"  {taken}{instead}")
    types = json.dumps(result["types"]).replace('"', "").strip("{}")
    say(f"Mixture: {count(result['instances'], 'instance')} ({types}), {count(result['rows'], 'row')}")
    if dry_run:
        say("Nothing is written: this was a dry run.")
    else:
        say(f"Dataset: {output}{'' if written else ', which held this mixture already'}")


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _counts(name: str, given: list[str] | None, *, needed: bool = False) -> dict[str, int | None]:
    """The counts of options such as "detail=10000"."""
    counts: dict[str, int | None] = {}
    for value in given or ():
        kind, said, number = value.partition("=")
        if kind in counts or (said and not number.isdecimal()) or (needed and not said):
            raise MixError(f"{name} {value!r}: give each type once, with a whole number, as in {name} detail=10000.")
        counts[kind] = int(number) if said else None
    return counts


def _without_bars() -> None:
    """No progress bars where nobody watches."""
    import sys

    from datasets import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()
