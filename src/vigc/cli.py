"""The `vigc` command. What a command needs is imported inside it, so that `vigc --help` is quick."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vigc import __version__

from .cli_convert import convert
from .cli_export import export
from .cli_scenes import scenes
from .cli_train import train
from .terminal import COMPLETE, FAILED, SET_ASIDE, count, fail, line, option

if TYPE_CHECKING:
    from vigc.generation import Summary

app = typer.Typer(
    name="vigc",
    help="Images go in; instruction rows, corrected and scored, come out as a Hugging Face dataset.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """Runs the command; the entry point of the package."""
    app(prog_name="vigc")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"vigc {__version__}")
        raise typer.Exit


@app.callback()
def _vigc(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options of the bare command."""


_JOB = "The job"
_MODEL = "Model"
_DECODING = "Decoding (by default the model's own settings)"
_IQF = "Correction (by default the model's own settings)"

Images = Annotated[
    Path,
    typer.Argument(help="A folder of pictures, searched with its sub-folders, or one picture.", show_default=False),
]
DatasetFolder = Annotated[Path, typer.Argument(help="A folder that `vigc generate` wrote.", show_default=False)]

Output = Annotated[Path, option("The dataset folder to write.", "--output", "-o", rich_help_panel=_JOB)]
Types = Annotated[str, option("Types of instruction to write, with commas between.", rich_help_panel=_JOB)]
Limit = Annotated[int | None, option("Only the first so many pictures.", min=1, rich_help_panel=_JOB)]
Seed = Annotated[int, option("Decides what is drawn where decoding samples.", rich_help_panel=_JOB)]
License = Annotated[str, option("Licence of the pictures, written into every row.", rich_help_panel=_JOB)]
ShardSize = Annotated[int, option("Pictures per parquet file.", min=1, rich_help_panel=_JOB)]
Overwrite = Annotated[bool, option("Replace the dataset that the folder holds.", "--overwrite", rich_help_panel=_JOB)]
NoCorrect = Annotated[
    bool, option("Write drafts only (VIG), without correction (VIC).", "--no-correct", rich_help_panel=_JOB)
]

Model = Annotated[str, option("Folder or Hub name of a VIGC model.", "--model", "-m", rich_help_panel=_MODEL)]
Revision = Annotated[str | None, option("Commit, tag or branch of the model.", rich_help_panel=_MODEL)]
RemoteCode = Annotated[
    bool, option("Let code from the model's folder run.", "--trust-remote-code", rich_help_panel=_MODEL)
]
BatchSize = Annotated[int, option("Pictures worked on at a time.", min=1, rich_help_panel=_MODEL)]
Dtype = Annotated[
    str, option("auto (as saved; float32 on a CPU), float32, bfloat16 or float16.", rich_help_panel=_MODEL)
]
Device = Annotated[str, option("auto (an accelerator if there is one), cpu, cuda:1, ...", rich_help_panel=_MODEL)]

NumBeams = Annotated[int | None, option("Beams; 1 is greedy search.", min=1, rich_help_panel=_DECODING)]
Penalty = Annotated[float | None, option("Penalty on tokens written before; 1 is none.", rich_help_panel=_DECODING)]
NewTokens = Annotated[int | None, option("Most tokens written per call.", min=1, rich_help_panel=_DECODING)]
DoSample = Annotated[bool | None, option("Draw tokens instead of taking the likeliest.", rich_help_panel=_DECODING)]
Temperature = Annotated[float | None, option("Of sampling; below 1 is more cautious.", rich_help_panel=_DECODING)]
TopP = Annotated[float | None, option("Sample from the likeliest tokens of this total.", rich_help_panel=_DECODING)]

IqfPreset = Annotated[
    str | None, option("vigc, or original for the released loop's settings and decoding.", rich_help_panel=_IQF)
]
IqfSteps = Annotated[
    int | None, option("VIC calls; 0 for one that is kept whole, -1 until the end of text.", rich_help_panel=_IQF)
]
IqfUnit = Annotated[str | None, option("What a call keeps: sentence or paragraph.", rich_help_panel=_IQF)]
IqfKeepTail = Annotated[bool | None, option("Whether the last call keeps all it writes.", rich_help_panel=_IQF)]
IqfPrompt = Annotated[
    str | None, option("question, or instruction for the released loop's prompt.", rich_help_panel=_IQF)
]
IqfSplit = Annotated[
    str | None, option("safe spares decimals and abbreviations; original cuts at the first dot.", rich_help_panel=_IQF)
]
IqfFullRecord = Annotated[
    bool | None, option("Also write the first VIC answer in full, into `extra`.", rich_help_panel=_IQF)
]


@app.command()
def generate(
    images: Images,
    output: Output,
    model: Model,
    types: Types = "conversation,detail,complex",
    limit: Limit = None,
    seed: Seed = 0,
    license: License = "unknown",
    shard_size: ShardSize = 256,
    overwrite: Overwrite = False,
    no_correct: NoCorrect = False,
    revision: Revision = None,
    trust_remote_code: RemoteCode = False,
    batch_size: BatchSize = 8,
    dtype: Dtype = "auto",
    device: Device = "auto",
    num_beams: NumBeams = None,
    repetition_penalty: Penalty = None,
    max_new_tokens: NewTokens = None,
    do_sample: DoSample = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    iqf_preset: IqfPreset = None,
    iqf_steps: IqfSteps = None,
    iqf_unit: IqfUnit = None,
    iqf_keep_tail: IqfKeepTail = None,
    iqf_prompt: IqfPrompt = None,
    iqf_split: IqfSplit = None,
    iqf_full_record: IqfFullRecord = None,
) -> None:
    """Write a dataset of questions and corrected answers about pictures.

    Exit code 0: complete. 3: complete, with files or texts set aside. 2: what was given cannot be worked with.
    """
    given = dict(locals())
    settings = {name: value for name, value in given.items() if name in _SETTINGS and value is not None}
    job = {name: value for name, value in given.items() if name in _PASSED_ON}
    summary = _generate(images, output, types, correct=not no_correct, settings=settings, **job)
    _print_summary(summary)
    raise typer.Exit(SET_ASIDE if summary.set_aside else COMPLETE)


_IQF_OPTIONS = {f"iqf_{name}" for name in ("preset", "steps", "unit", "keep_tail", "prompt", "split", "full_record")}
_SETTINGS = _IQF_OPTIONS | {
    "num_beams",
    "repetition_penalty",
    "max_new_tokens",
    "do_sample",
    "temperature",
    "top_p",
}
_PASSED_ON = {
    "model",
    "limit",
    "seed",
    "license",
    "shard_size",
    "overwrite",
    "revision",
    "trust_remote_code",
    "batch_size",
    "dtype",
    "device",
}


def _generate(images: Path, output: Path, types: str, **job: Any) -> Summary:
    """Runs the job, quietly where nobody watches, and says in a sentence what is wrong with what was given."""
    from transformers.utils import logging

    from vigc.generation import GenerationError, generate_dataset

    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    try:
        return generate_dataset(images, output, types=[kind.strip() for kind in types.split(",")], **job)
    except GenerationError as error:
        fail("generate", error)
    except OSError as error:  # a full disk, a folder that cannot be written
        fail("generate", error, FAILED)


ReportRows = Annotated[
    int | None, option("About how many rows to show; charts and figures always count all.", min=1, show_default="1,500")
]


@app.command()
def report(dataset: DatasetFolder, rows: ReportRows = None) -> None:
    """Write the report page of a dataset folder anew: pictures, drafts against answers, charts, what was set aside."""
    from vigc.generation import GenerationError, write_report

    try:
        path = write_report(dataset) if rows is None else write_report(dataset, max_rows=rows)
    except GenerationError as error:
        fail("report", error)
    typer.echo(f"Report: {path}")


app.command()(convert)
app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(train)
app.command()(export)
app.command()(scenes)


def _print_summary(summary: Summary) -> None:
    """What a person wants to know at the end: how much, what is missing, what it looks like, where it is."""
    work = f"{count(summary.rows, 'row')} from {count(summary.images, 'picture')}"
    typer.echo(f"{work} in {summary.seconds:.1f} s, {count(summary.changed, 'answer')} edited")
    for kind, figures in summary.types.items():
        aside = f", {count(figures.malformed, 'text')} set aside" if figures.malformed else ""
        typer.echo(f"  {kind:<14}{figures.rows:>6} rows, {figures.changed} edited{aside}")
    _print_set_aside([f"{path} {reason}" for path, reason in summary.skipped], "file")
    _print_set_aside([f"{path}, {kind}: {reason}" for path, kind, reason in summary.malformed], "text")
    for row in _samples(summary):
        typer.echo(f"\n{row['type']}, {line(row['image_id'])}")
        for name in ("question", "draft", "answer"):
            typer.echo(f"  {name:<10}{line(row[name])}")
    typer.echo(f"\nDataset: {summary.output}\nReport:  {summary.report}")


def _print_set_aside(lines: list[str], what: str) -> None:
    if not lines:
        return
    typer.echo(f"Set aside, {count(len(lines), what)}:")
    for text in lines[:5]:
        typer.echo(f"  {line(text)}")
    if len(lines) > 5:
        typer.echo(f"  and {len(lines) - 5} more, in the folder quarantine")


def _samples(summary: Summary) -> list[dict[str, Any]]:
    """Three rows, of different types as far as there are."""
    rounds = [rows[turn] for turn in range(3) for rows in summary.samples.values() if turn < len(rows)]
    return rounds[:3]
