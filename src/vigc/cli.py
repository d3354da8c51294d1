"""The `vigc` command. What a command needs is imported inside it, so that `vigc --help` is quick."""

from __future__ import annotations

from typing import Annotated

import typer

from vigc import __version__

from . import options as opt
from .cli_convert import convert
from .cli_export import export
from .cli_judge import judge
from .cli_mix import mix
from .cli_scenes import demo, scenes
from .cli_train import train
from .terminal import fail

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


@app.command()
def generate(
    images: opt.Images,
    output: opt.Output,
    model: opt.Model = None,
    types: opt.Types = "conversation,detail,complex",
    format: opt.Format = "folder",
    image_root: opt.ImageRoot = None,
    subset: opt.Subset = None,
    split: opt.Split = "train",
    exclude_ids: opt.ExcludeIds = None,
    exclude_images: opt.ExcludeImages = None,
    dedup: opt.Dedup = False,
    limit: opt.Limit = None,
    seed: opt.Seed = 0,
    license: opt.License = "unknown",
    shard_size: opt.ShardSize = 256,
    overwrite: opt.Overwrite = False,
    rank: opt.Rank = 0,
    world_size: opt.WorldSize = 1,
    store: opt.Store = "embed",
    no_correct: opt.NoCorrect = False,
    questions: opt.Questions = 1,
    retries: opt.Retries = 2,
    score: opt.Score = False,
    answers: opt.Answers = 0,
    answer_threshold: opt.AnswerThreshold = 0.0,
    first_words: opt.FirstWords = None,
    revision: opt.Revision = None,
    trust_remote_code: opt.RemoteCode = False,
    batch_size: opt.BatchSize = 8,
    dtype: opt.Dtype = "auto",
    device: opt.Device = "auto",
    num_beams: opt.NumBeams = None,
    repetition_penalty: opt.Penalty = None,
    max_new_tokens: opt.NewTokens = None,
    do_sample: opt.DoSample = None,
    temperature: opt.Temperature = None,
    top_p: opt.TopP = None,
    iqf_preset: opt.IqfPreset = None,
    iqf_steps: opt.IqfSteps = None,
    iqf_unit: opt.IqfUnit = None,
    iqf_keep_tail: opt.IqfKeepTail = None,
    iqf_prompt: opt.IqfPrompt = None,
    iqf_split: opt.IqfSplit = None,
    iqf_full_record: opt.IqfFullRecord = None,
) -> None:
    """Write a dataset of questions and corrected answers about pictures, or go on with one.

    Exit code 0: complete. 3: complete, with files or texts set aside. 2: what was given cannot be worked with.
    4: the folder holds a job with other settings. 5: another process is writing it. 75: the machine is in the way,
    the same command finishes the job later. 130: interrupted.
    """
    from .running import run_generate

    raise typer.Exit(run_generate(dict(locals())))


@app.command()
def correct(
    dataset: opt.Given,
    output: opt.Output,
    model: opt.Model = None,
    type: opt.Kind = None,
    image_root: opt.ImageRoot = None,
    subset: opt.Subset = None,
    split: opt.Split = "train",
    limit: opt.Limit = None,
    seed: opt.Seed = 0,
    license: opt.License = "unknown",
    shard_size: opt.ShardSize = 256,
    overwrite: opt.Overwrite = False,
    rank: opt.Rank = 0,
    world_size: opt.WorldSize = 1,
    store: opt.Store = "embed",
    retries: opt.Retries = 2,
    score: opt.Score = False,
    revision: opt.Revision = None,
    trust_remote_code: opt.RemoteCode = False,
    batch_size: opt.BatchSize = 8,
    dtype: opt.Dtype = "auto",
    device: opt.Device = "auto",
    num_beams: opt.NumBeams = None,
    repetition_penalty: opt.Penalty = None,
    max_new_tokens: opt.NewTokens = None,
    do_sample: opt.DoSample = None,
    temperature: opt.Temperature = None,
    top_p: opt.TopP = None,
    iqf_preset: opt.IqfPreset = None,
    iqf_steps: opt.IqfSteps = None,
    iqf_unit: opt.IqfUnit = None,
    iqf_keep_tail: opt.IqfKeepTail = None,
    iqf_prompt: opt.IqfPrompt = None,
    iqf_split: opt.IqfSplit = None,
    iqf_full_record: opt.IqfFullRecord = None,
) -> None:
    """Answer the questions of a dataset again with VIC: a copy with both answers.

    Reads LLaVA's files and datasets in TRL's or FineVision's columns. Exit codes are those of `vigc generate`.
    """
    from .running import run_correct

    raise typer.Exit(run_correct(dict(locals())))


@app.command()
def report(dataset: opt.DatasetFolder, rows: opt.ReportRows = None) -> None:
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
app.command()(mix)
app.command()(judge)
app.command()(scenes)
app.command()(demo)
