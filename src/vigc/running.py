"""Jobs from the command line: settings put together, and exit codes."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from .endings import print_preview, print_summary
from .options import CorrectOptions, GenerateOptions, JobOptions
from .terminal import COMPLETE, FAILED, SET_ASIDE, count, line, say

if TYPE_CHECKING:
    from vigc.generation import JobSettings, Summary

TRY_AGAIN, INTERRUPTED = 75, 130


def run_generate(options: GenerateOptions) -> int:
    """`vigc generate`; returns the exit code."""

    def job() -> JobSettings:
        from vigc.generation import GenerateJob

        return GenerateJob(
            **_shared(options),
            images=options.images,
            format=options.format,
            types=[kind.strip() for kind in options.types.split(",")],
            correct=not options.no_correct,
            questions=options.questions,
            answers=options.answers,
            answer_threshold=options.answer_threshold,
            first_words=options.first_words,
            exclude_ids=options.exclude_ids or (),
            exclude_images=options.exclude_images or (),
            dedup=options.dedup,
        )

    return do_job("generate", job, options.output, dry_run=options.dry_run)


def run_correct(options: CorrectOptions) -> int:
    """`vigc correct`; returns the exit code."""

    def job() -> JobSettings:
        from vigc.generation import CorrectJob

        return CorrectJob(**_shared(options), dataset=options.dataset, type=options.type)

    return do_job("correct", job, options.output, dry_run=options.dry_run)


def _shared(options: GenerateOptions | CorrectOptions) -> dict[str, Any]:
    """The settings of any job."""
    given = {item.name: getattr(options, item.name) for item in fields(JobOptions)}
    del given["output"], given["dry_run"]
    given |= {"allow_urls": given["allow_urls"] or (), "model": given["model"] or default_model()}
    return {**given, "settings": options.settings()}


def do_job(command: str, job: Callable[[], JobSettings], output: Path, *, dry_run: bool = False) -> int:
    """A job, or its preview; returns the exit code.

    Args:
        command: What the command is called.
        job: Makes the job; a mistake in its settings is said like any other.
        output: The dataset folder.
        dry_run: Whether only to say what would be done.
    """

    def work() -> int:
        from vigc.generation import preview_job, run_job

        if not dry_run:
            return _end(run_job(job(), output))
        print_preview(preview_job(job(), output))
        return COMPLETE

    return _run(command, work)


def _end(summary: Summary) -> int:
    from vigc.errors import BusyError

    print_summary(summary)
    if summary.held:
        work = count(summary.held, "shard")
        raise BusyError(f"another process holds {work} of this share: run the same command again when it has ended.")
    return SET_ASIDE if summary.set_aside else COMPLETE


def run_demo(output: Path, pictures: int, seed: int) -> int:
    """`vigc demo`; returns the exit code."""

    def work() -> int:
        from vigc.generation import generate_dataset
        from vigc.scenes import write_scenes

        folder = output / "scenes"
        if not folder.exists():
            write_scenes(folder, 3 * pictures, seed)
        job = {"model": default_model(), "license": "cc0-1.0", "seed": seed}
        return _end(generate_dataset(folder / "images", output / "dataset", **job))

    return _run("demo", work)


def default_model() -> Path:
    """The folder of the embedded model; says that it is used."""
    from vigc.scenes import VIGC_TINY

    say("Model: vigc-tiny, the embedded one. It knows rendered scenes only; give --model for photographs.", err=True)
    return VIGC_TINY


def _run(command: str, work: Callable[[], int]) -> int:
    """Does the work, quietly where nobody watches, and says in a sentence what is wrong; returns the exit code."""
    from transformers.utils import logging

    from vigc.errors import GenerationError, is_transient

    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    try:
        with _stopped_by_signals():
            return work()
    except GenerationError as error:
        return _say(command, error, error.exit_code)
    except (OSError, MemoryError) as error:  # a full disk, a folder that cannot be written
        return _say(command, error, TRY_AGAIN if is_transient(error) else FAILED)
    except KeyboardInterrupt:
        say(f"vigc {command}: interrupted. The same command goes on from here.", err=True)
        return INTERRUPTED


@contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """A preempted machine sends SIGTERM; it ends the job as Ctrl-C does."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _say(command: str, error: BaseException, code: int) -> int:
    say(f"vigc {command}: {line(str(error))}", err=True)
    return code
