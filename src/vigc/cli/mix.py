"""`vigc mix`: adds instances of one dataset to another, or replaces as many."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from vigc.errors import MixError

from .terminal import count, option, say

_BASE, _FROM = "The base", "The extra dataset"

Base = Annotated[
    list[str],
    typer.Argument(help="The base of the mixture: files in a published layout, or dataset folders."),
]
Extra = Annotated[str | None, option("A dataset folder or file that instances are taken from.", "--from")]
Output = Annotated[Path, option("The folder to write, new or empty.", "--output", "-o", show_default=False)]
Add = Annotated[
    list[str] | None,
    option("TYPE=N adds N instances of a task type, TYPE adds all of them; repeatable.", show_default=False),
]
Replace = Annotated[
    list[str] | None,
    option("TYPE=N replaces N instances of the base; repeatable.", show_default=False),
]
Text = Annotated[str, option("The answer of generated rows: answer (VIC) or draft (VIG).", rich_help_panel=_FROM)]
Seed = Annotated[int, option("Seed of the selection of instances.")]
Images = Annotated[
    str, option("path: keep images as they are, paths or embedded. embed: embed all images in the folder.")
]
Layout = Annotated[
    str,
    option("Layout of the base's files: llava, vigc, aokvqa, okvqa (two files), ...", rich_help_panel=_BASE),
]
ImageRoot = Annotated[
    Path | None,
    option("The folder of the images that the base's files or rows name.", rich_help_panel=_BASE),
]
Kind = Annotated[
    str | None,
    option("Task type of the base, if its files do not give it.", "--type", rich_help_panel=_BASE),
]
FromImageRoot = Annotated[Path | None, option("The folder of the images that --from names.", rich_help_panel=_FROM)]
FromKind = Annotated[
    str | None,
    option("Task type of --from, if it is a LLaVA file that does not give it.", "--from-type", rich_help_panel=_FROM),
]
DryRun = Annotated[bool, option("Read and mix, print the result, and write nothing.", "--dry-run")]


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
    """Mix a dataset with instances of another, by task type, count and seed. A manifest records the origin of all rows.

    An instance is a conversation with all its turns. Without --from, only the base is written. `vigc train` and `vigc
    export` read the folder. The mixtures of the paper's Table 1 are in recipes/paper/tables.
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
        instead = " replace as many" if step["operation"] == "replace" else " added"
        say(f"  {taken}{instead}")
    types = json.dumps(result["types"]).replace('"', "").strip("{}")
    say(f"Mixture: {count(result['instances'], 'instance')} ({types}), {count(result['rows'], 'row')}")
    if dry_run:
        say("Dry run: nothing is written.")
    else:
        say(f"Dataset: {output}{'' if written else ', which already has this mixture'}")


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _counts(name: str, given: list[str] | None, *, needed: bool = False) -> dict[str, int | None]:
    """The counts by task type in options such as "detail=10000"."""
    counts: dict[str, int | None] = {}
    for value in given or ():
        task, equals, number = value.partition("=")
        if task in counts or (equals and not number.isdecimal()) or (needed and not equals):
            raise MixError(f"{name} {value!r}: give each task type once, with an integer, as in {name} detail=10000.")
        counts[task] = int(number) if equals else None
    return counts


def _without_bars() -> None:
    """Hides progress bars when stderr is not a terminal."""
    import sys

    from datasets import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()
