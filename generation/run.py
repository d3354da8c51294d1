"""A job from its settings to its summary."""

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
    """Does a job, or resumes it; one that is finished is left alone, and its model is not even loaded.

    Args:
        job: What is to be done.
        output: The folder to write: new, empty, or with this job in it.

    Returns:
        Counts over the whole folder, what was skipped and rejected and why, and sample rows.

    Raises:
        VigcError: Inputs, settings or a folder that cannot be worked with; its `exit_code` says of which kind.
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
    """The job with the commit of its dataset, if that is on the Hub, where it may change while the job runs.

    Args:
        job: What is to be done.
        folder: Where. A job in it is resumed with the commit that it was begun with.

    Raises:
        GenerationError: A revision is given of inputs that have none.
    """
    name = job.hub_dataset
    if name is None:
        if job.data_revision is not None:
            raise GenerationError(f"data_revision={job.data_revision!r} is of a dataset on the Hub: leave it out here.")
        return job
    revision = job.data_revision
    if revision is None and not (job.overwrite and (folder / ledger.FINISHED).exists()):
        try:
            plan = ledger.read_plan(folder)
        except GenerationError:  # none yet, or torn
            plan = None
        if plan is not None and plan.source == name:
            revision = plan.job.get("data_revision")
    return replace(job, data_revision=commit_of(name, revision, "dataset"))
