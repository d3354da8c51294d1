"""A job from its settings to its summary."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

from tqdm.auto import tqdm

from vigc.errors import GenerationError, machine_errors
from vigc.hub.revisions import commit_of
from vigc.jobs import ledger, verify

from . import job as jobs
from .executors import executor_of
from .finalize import Summary, summarize, write_ending
from .settings import JobSettings


@machine_errors()
def run_job(job: JobSettings, output: str | os.PathLike[str]) -> Summary:
    """Does a job, or goes on with it; one that is finished is left alone, and its model is not even loaded.

    Args:
        job: What is to be done.
        output: The folder to write: new, empty, or with this job in it.

    Returns:
        Counts over the whole folder, what was set aside and why, and sample rows.

    Raises:
        VigcError: Inputs, settings or a folder that cannot be worked with; its `exit_code` says of which kind.
    """
    started, folder = time.monotonic(), Path(output)
    job = pinned(job, folder)
    selection = job.selection()
    with jobs.alone(folder, job.rank, job.world_size), executor_of(job) as executor:
        existed = (folder / ledger.SHARDS).is_dir()
        found = verify.Inspection() if job.overwrite else verify.inspect_state(folder, content=job.verify)
        draft = job.plan(job.describe_model(executor.device()), selection)
        plan = jobs.settle_plan(folder, draft, selection, overwrite=job.overwrite, ready=lambda: executor.start(draft))
        mine = range(job.rank, plan["inputs"]["shards"], job.world_size)
        if not job.overwrite:
            verify.inspect_shards(folder, plan, mine, found)
            verify.reopen(folder, found.damaged)
        idle = ledger.is_finished(folder, plan["fingerprint"]) and not jobs.missing_shards(folder, plan)
        if not idle:
            with tqdm(total=len(mine), desc="Shards", unit="shard", disable=None) as progress:
                shards = jobs.unfinished(folder, plan, selection, mine, progress.update)
                for _ in executor.run(folder, plan, shards, progress.set_postfix_str):
                    progress.update()
        finished = jobs.finish(folder, plan, lambda: write_ending(folder, plan))
    summary = summarize(folder, plan, 0 if finished else jobs.missing_shards(folder, plan))
    summary.held = jobs.missing_shards(folder, plan, mine) if summary.missing else 0
    summary.unlisted = selection.unlisted
    summary.inspection = found
    summary.idle, summary.resumed = idle, existed and not idle
    summary.seconds = time.monotonic() - started
    return summary


def pinned(job: JobSettings, folder: Path) -> JobSettings:
    """The job with the commit of its dataset, if that is on the Hub, where it may change while the job is at work.

    Args:
        job: What is to be done.
        folder: Where. A job in it that goes on does so with the commit that it was begun with.

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
            plan = {}
        if plan.get("source") == name:
            revision = plan["job"].get("data_revision")
    return replace(job, data_revision=commit_of(name, revision, "dataset"))
