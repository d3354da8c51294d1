"""Jobs from the command line: their settings put together, run or previewed, and the exit code."""

from __future__ import annotations

import sys
import time
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vigc.errors import BusyError

from .command import COMPLETE, REJECTED
from .options import CorrectOptions, GenerateOptions
from .summary import print_preview, print_summary
from .terminal import count, say

if TYPE_CHECKING:
    from vigc.generation import JobSettings, Summary


def run_generate(options: GenerateOptions) -> int:
    """`vigc generate`; returns the exit code."""
    started = time.monotonic()
    from vigc.generation import GenerateJob

    types = [kind.strip() for kind in options.types.split(",")]
    job = GenerateJob(**_settings(options, GenerateJob), types=types, correct=not options.no_correct)
    return do_job(job, options.output, dry_run=options.dry_run, started=started)


def run_correct(options: CorrectOptions) -> int:
    """`vigc correct`; returns the exit code."""
    started = time.monotonic()
    from vigc.generation import CorrectJob

    job = CorrectJob(**_settings(options, CorrectJob))
    return do_job(job, options.output, dry_run=options.dry_run, started=started)


def _settings(options: GenerateOptions | CorrectOptions, job: type[JobSettings]) -> dict[str, Any]:
    """The settings of a job: the options of the same names, as far as they are given."""
    names = {item.name for item in fields(job)} - {"types", "settings"}
    given = {name: value for name in names if (value := getattr(options, name, None)) is not None}
    return {**given, "model": options.model or default_model(), "settings": options.settings()}


def do_job(job: JobSettings, output: Path, *, dry_run: bool = False, started: float | None = None) -> int:
    """Runs a job, or previews it; returns the exit code.

    Args:
        job: Its settings.
        output: The dataset folder.
        dry_run: Whether only to print what would be done.
        started: When the command began, on `time.monotonic`'s clock, as imports take a while, too; by default now.
    """
    started = time.monotonic() if started is None else started
    from vigc.generation import preview_job, run_job

    _quiet()
    if not dry_run:
        return _end(run_job(job, output), started)
    print_preview(preview_job(job, output))
    return COMPLETE


def _end(summary: Summary, started: float) -> int:
    summary.seconds = time.monotonic() - started
    print_summary(summary)
    if summary.held:
        work = count(summary.held, "shard")
        raise BusyError(f"another process holds {work} of this share: run the same command again when it has ended.")
    return REJECTED if summary.set_aside else COMPLETE


def run_demo(output: Path, pictures: int, seed: int) -> int:
    """`vigc demo`; returns the exit code."""
    started = time.monotonic()
    from vigc.generation import generate_dataset
    from vigc.scenes import write_scenes

    _quiet()
    folder = output / "scenes"
    if not folder.exists():
        write_scenes(folder, 3 * pictures, seed)
    job = {"model": default_model(), "license": "cc0-1.0", "seed": seed}
    return _end(generate_dataset(folder / "images", output / "dataset", **job), started)


def default_model() -> Path:
    """The folder of the embedded model; says that it is used."""
    from vigc.scenes import VIGC_TINY

    say("Model: vigc-tiny, the embedded one. It knows rendered scenes only; give --model for photographs.", err=True)
    return VIGC_TINY


def _quiet() -> None:
    """Hides progress bars when stderr is not a terminal."""
    from transformers.utils import logging

    if not sys.stderr.isatty():
        logging.disable_progress_bar()
