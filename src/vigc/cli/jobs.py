"""`vigc generate`, `vigc correct` and `vigc demo`: run or preview a job and return the exit code."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from vigc.errors import BusyError

from .command import COMPLETE, REJECTED
from .options import Given, JobRun, given_of, with_options
from .summary import print_preview, print_summary
from .terminal import count, hide_progress_bars, say

if TYPE_CHECKING:
    from vigc.generation import JobSettings, Summary


def _generate_settings() -> Sequence[type]:
    from vigc.generation import GenerateJob
    from vigc.inference.settings import DecodingSettings

    return JobRun, GenerateJob, DecodingSettings


@with_options(_generate_settings)
def generate(given: Given) -> None:
    """Generate a dataset of questions and corrected answers about images, or resume one.

    Exit code 0: complete. 3: complete, with skipped files or rejected samples. 2: invalid input or settings. 4: the
    folder belongs to a job with other settings. 5: another process is writing it. 75: temporary failure (disk, memory,
    network): retry the same command later. 130: interrupted.
    """
    from vigc.generation import GenerateJob

    raise typer.Exit(_do(GenerateJob, given))


def _correct_settings() -> Sequence[type]:
    from vigc.generation import CorrectJob
    from vigc.inference.settings import DecodingSettings

    return JobRun, CorrectJob, DecodingSettings


@with_options(_correct_settings)
def correct(given: Given) -> None:
    """Answer the questions of a dataset again with VIC; write a copy with both answers.

    Reads JSON files and datasets in the layout of LLaVA, TRL or FineVision. Exit codes are those of `vigc generate`.
    """
    from vigc.generation import CorrectJob

    raise typer.Exit(_do(CorrectJob, given))


def _do(kind: type[JobSettings], given: Given) -> int:
    """Builds the settings of a job, checks them before slow imports, and runs it."""
    started = time.monotonic()
    from vigc.inference.settings import DecodingSettings

    decoding = {**(given["settings"] or {}), **given_of(DecodingSettings, given)}
    settings: dict[str, Any] = {"model": None, **given_of(kind, given), "settings": decoding}
    job = kind(**settings)
    job.check_paths()
    if job.model is None:
        job = replace(job, model=default_model())
    return do_job(job, given["output"], dry_run=given["dry_run"], started=started)


def do_job(job: JobSettings, output: Path, *, dry_run: bool = False, started: float | None = None) -> int:
    """Runs a job, or previews it; returns the exit code.

    Args:
        job: The settings of the job.
        output: The dataset folder.
        dry_run: Only print a preview.
        started: `time.monotonic()` at the start of the command, so that the time includes imports; by default now.
    """
    started = time.monotonic() if started is None else started
    from vigc.generation import preview_job, run_job

    hide_progress_bars()
    if not dry_run:
        return _end(run_job(job, output), started)
    print_preview(preview_job(job, output))
    return COMPLETE


def _end(summary: Summary, started: float) -> int:
    summary.seconds = time.monotonic() - started
    print_summary(summary)
    if summary.held:
        work = count(summary.held, "shard")
        raise BusyError(
            f"another process is writing {work} of this rank: run the same command again when it has ended."
        )
    return REJECTED if summary.set_aside else COMPLETE


def run_demo(output: Path, pictures: int, seed: int) -> int:
    """Runs `vigc demo`; returns the exit code."""
    started = time.monotonic()
    from vigc.generation import generate_dataset
    from vigc.scenes import write_scenes

    hide_progress_bars()
    folder = output / "scenes"
    if not folder.exists():
        write_scenes(folder, 3 * pictures, seed)
    job = {"model": default_model(), "license": "cc0-1.0", "seed": seed}
    return _end(generate_dataset(folder / "images", output / "dataset", **job), started)


def default_model() -> Path:
    """The folder of the embedded model; prints that it is used."""
    from vigc.scenes import VIGC_TINY

    say("Model: vigc-tiny (embedded). It only knows rendered scenes; give --model for photographs.", err=True)
    return VIGC_TINY
