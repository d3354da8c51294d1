"""Checks of a dry run: missing files, and invalid commands."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import sft
import torch
from steps import Step
from typer.main import get_command

from vigc.cli.root import app
from vigc.trainer.recipe import read_recipe


def problems_of(step: Step, steps: Sequence[Step]) -> list[str]:
    """The problems of a step, assuming that earlier steps are done."""
    before = [one.makes for one in steps[: steps.index(step)]]
    absent = [path for path in step.needs if not path.exists()]
    missing = [str(path) for path in absent if path not in before]
    if step.tool == "words":
        return missing
    if step.tool == "sft":
        return missing + list(_of_tuning(step, whole=not absent))
    return missing + list(_of_vigc(step, whole=not absent))


def _of_tuning(step: Step, *, whole: bool) -> Iterator[str]:
    try:
        settings, args = sft.parsed([*step.words, *_without_accelerator()])
    except ValueError as error:
        yield str(error)
        return
    if whole:
        yield from sft.problems(settings, args)


def _of_vigc(step: Step, *, whole: bool) -> Iterator[str]:
    """Parses the command; if its inputs exist, runs its dry run."""
    words = list(step.words)
    command: Any = get_command(app)
    while getattr(command, "commands", None):
        name = words.pop(0)
        if name not in command.commands:
            yield f"vigc has no command {name!r}"
            return
        command = command.commands[name]
    try:
        command.make_context(step.words[0], list(words))
        if command.name == "train":
            read_recipe(Path(words[0]), [*words[1:], *_without_accelerator()])
    except Exception as error:
        if not (isinstance(error, ValueError) or hasattr(error, "format_message")):  # click's, which typer may rename
            raise
        yield f"vigc {step.words[0]}: {error}"
        return
    if whole and any(parameter.name == "dry_run" for parameter in command.params):
        output = io.StringIO()
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            code = get_command(app).main([*step.words, "--dry-run"], prog_name="vigc", standalone_mode=False)
        if code:
            yield f"vigc {step.words[0]}: {' '.join(output.getvalue().split())}"


def _without_accelerator() -> list[str]:
    """Replaces arguments for GPUs if there is no GPU."""
    return [] if torch.accelerator.is_available() else ["--use_cpu", "true"]
