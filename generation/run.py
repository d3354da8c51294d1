"""Runs a job from its settings to its summary."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

from vigc.errors import GenerationError, machine_errors
from vigc.hub.revisions import commit_of
from vigc.jobs import ledger, run_task

from .finalize import Summary, summarize
from .settings import JobSettings


@machine_errors()
def run_job(job: JobSettings, output: str | os.PathLike[str]) -> Summary:
    """Runs or resumes a job. The model of a finished job is not loaded.

    Args:
        job: The job.
        output: The output folder: new, empty, or of the same job.

    Returns:
        Counts of the whole folder, skipped inputs and rejected samples with reasons, and sample rows.

    Raises:
        VigcError: Invalid inputs, settings or folder; `exit_code` gives the class of the error.
    """
    started, folder = time.monotonic(), Path(output)
    job = pinned(job, folder)
    selection = job.selection()
    outcome = run_task(job, selection, lambda device: job.plan(job.describe_model(device), selection), folder)
    summary = summarize(folder, outcome)
    summary.unlisted = selection.unlisted
    summary.seconds = time.monotonic() - started
    return summary


def pinned(job: JobSettings, folder: Path) -> JobSettings:
    """Pins a dataset on the Hub to a commit, since it may change while the job runs.

    Args:
        job: The job.
        folder: The dataset folder. A job in it is resumed with its commit.

    Raises:
        GenerationError: A revision is given for inputs that are not on the Hub.
    """
    name = job.hub_dataset
    if name is None:
        if job.data_revision is not None:
            raise GenerationError(
                f"data_revision={job.data_revision!r} only applies to a dataset on the Hub: remove it."
            )
        return job
    revision = job.data_revision
    if revision is None and not (job.overwrite and (folder / ledger.FINISHED).exists()):
        try:
            plan = ledger.read_plan(folder)
        except GenerationError:  # missing or damaged
            plan = None
        if plan is not None and plan.source == name:
            revision = plan.job.get("data_revision")
    return replace(job, data_revision=commit_of(name, revision, "dataset"))
