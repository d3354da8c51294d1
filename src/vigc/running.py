"""Jobs from the command line: settings put together, exit codes, and what is printed at the end."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from .terminal import COMPLETE, FAILED, SET_ASIDE, count, line, say

if TYPE_CHECKING:
    from vigc.generation import Summary

TRY_AGAIN, INTERRUPTED = 75, 130

_SETTINGS = frozenset(
    ["num_beams", "repetition_penalty", "max_new_tokens", "do_sample", "temperature", "top_p"]
    + [f"iqf_{name}" for name in ("preset", "steps", "unit", "keep_tail", "prompt", "split", "full_record")]
)


def run_generate(given: dict[str, Any]) -> int:
    """`vigc generate` with all its options; returns the exit code."""

    def work() -> Summary:
        from vigc.generation import generate_dataset

        return generate_dataset(**_arguments(given))

    return _run("generate", work)


def run_correct(given: dict[str, Any]) -> int:
    """`vigc correct` with all its options; returns the exit code."""

    def work() -> Summary:
        from vigc.generation import correct_dataset

        return correct_dataset(**_arguments(given))

    return _run("correct", work)


def run_demo(output: Path, pictures: int, seed: int) -> int:
    """`vigc demo`; returns the exit code."""

    def work() -> Summary:
        from vigc.generation import generate_dataset
        from vigc.scenes import write_scenes

        folder = output / "scenes"
        if not folder.exists():
            write_scenes(folder, 3 * pictures, seed)
        return generate_dataset(
            folder / "images", output / "dataset", model=default_model(), license="cc0-1.0", seed=seed
        )

    return _run("demo", work)


def _arguments(given: dict[str, Any]) -> dict[str, Any]:
    """The job's arguments from the command's options."""
    settings = {name: value for name, value in given.items() if name in _SETTINGS and value is not None}
    job = {name: value for name, value in given.items() if name not in _SETTINGS and name not in _OURS}
    if "types" in job:
        job["types"] = [kind.strip() for kind in job["types"].split(",")]
    for name in ("exclude_ids", "exclude_images"):
        if name in job:
            job[name] = job[name] or ()
    if "no_correct" in given:
        job["correct"] = not given["no_correct"]
    if job["model"] is None:
        job["model"] = default_model()
    return {**job, "settings": settings}


def default_model() -> Path:
    """The folder of the embedded model; says that it is used."""
    from vigc.scenes import VIGC_TINY

    say("Model: vigc-tiny, the embedded one. It knows rendered scenes only; give --model for photographs.", err=True)
    return VIGC_TINY


_OURS = ("no_correct", "run_generate", "run_correct")


def _run(command: str, work: Callable[[], Summary]) -> int:
    """Does the work, quietly where nobody watches, and says in a sentence what is wrong; returns the exit code."""
    from transformers.utils import logging

    from vigc.generation import GenerationError
    from vigc.generation.errors import is_passing

    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    try:
        with _stopped_by_signals():
            summary = work()
    except GenerationError as error:
        return _say(command, error, error.exit_code)
    except (OSError, MemoryError) as error:  # a full disk, a folder that cannot be written
        return _say(command, error, TRY_AGAIN if is_passing(error) else FAILED)
    except KeyboardInterrupt:
        say(f"vigc {command}: interrupted. The same command goes on from here.", err=True)
        return INTERRUPTED
    _print_summary(summary)
    return SET_ASIDE if summary.set_aside else COMPLETE


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


def _print_summary(summary: Summary) -> None:
    """What a person wants to know at the end: how much, what is missing, what it looks like, where it is."""
    if summary.idle:
        say("Nothing to do: this job is finished. What the folder holds:")
    elif summary.resumed:
        say("Went on with a job that was there. What the folder holds now:")
    work = f"{count(summary.rows, 'row')} from {count(summary.images, 'picture')}"
    say(f"{work} in {summary.seconds:.1f} s, {count(summary.changed, 'answer')} edited")
    for kind, figures in summary.types.items():
        aside = f", {count(figures.malformed, 'text')} set aside" if figures.malformed else ""
        say(f"  {kind:<14}{figures.rows:>6} rows, {figures.changed} edited{aside}")
    for what, number in (
        ("exact copies of another picture", summary.duplicates),
        ("entries without picture, passed on as they were", summary.bare),
        ("repeated questions left out", summary.dropped),
        *((f"left out: {reason}", number) for reason, number in summary.excluded.items()),
    ):
        if number:
            say(f"  {number:,} {line(what)}")
    texts = sum(figures.malformed for figures in summary.types.values())
    _print_set_aside([f"{path} {reason}" for path, reason in summary.skipped], summary.set_aside - texts, "file")
    _print_set_aside([f"{path}, {kind}: {reason}" for path, kind, reason in summary.malformed], texts, "text")
    for row in _samples(summary):
        say(f"\n{row['type']}, {line(row['image_id'])}")
        for name in ("question", "draft", "answer"):
            say(f"  {name:<10}{line(row[name])}")
    if summary.missing:
        say(f"\nDataset: {summary.output}, {count(summary.missing, 'shard')} still to be written by others")
        return
    say(f"\nDataset: {summary.output}\nReport:  {summary.report}")


def _print_set_aside(lines: list[str], number: int, what: str) -> None:
    if not number:
        return
    say(f"Set aside, {count(number, what)}:")
    for text in lines[:5]:
        say(f"  {line(text)}")
    if number > 5:
        say(f"  and {number - 5} more, in the folder quarantine")


def _samples(summary: Summary) -> list[dict[str, Any]]:
    """Three rows, of different types as far as there are."""
    rounds = [rows[turn] for turn in range(3) for rows in summary.samples.values() if turn < len(rows)]
    return rounds[:3]
