"""A job from its settings to its summary."""

from __future__ import annotations

import os
import time
from pathlib import Path

from tqdm.auto import tqdm

from . import job as jobs
from . import ledger
from .executors import executor_of
from .finish import Summary, summarize, write_ending
from .settings import JobSettings


def run_job(job: JobSettings, output: str | os.PathLike[str]) -> Summary:
    """Does a job, or goes on with it; one that is finished is left alone, and its model is not even loaded.

    Args:
        job: What is to be done.
        output: The folder to write: new, empty, or with this job in it.

    Returns:
        Counts over the whole folder, what was set aside and why, and sample rows.

    Raises:
        GenerationError: Input, settings or folders that cannot be worked with; its `exit_code` says of which kind.
    """
    started, folder = time.monotonic(), Path(output)
    selection = job.selection()
    with jobs.alone(folder, job.rank, job.world_size), executor_of(job) as executor:
        existed = (folder / ledger.SHARDS).is_dir()
        draft = job.plan(job.describe_model(executor.device()), selection)
        plan = jobs.settle_plan(folder, draft, selection, overwrite=job.overwrite, ready=lambda: executor.start(draft))
        idle = ledger.is_finished(folder, plan["fingerprint"]) and not jobs.missing_shards(folder, plan)
        mine = range(job.rank, plan["inputs"]["shards"], job.world_size)
        if not idle:
            with tqdm(total=len(mine), desc="Shards", unit="shard", disable=None) as progress:
                shards = jobs.unfinished(folder, plan, mine, progress.update)
                for _ in executor.run(folder, plan, shards, progress.set_postfix_str):
                    progress.update()
        finished = jobs.finish(folder, plan, lambda: write_ending(folder, plan))
    summary = summarize(folder, plan, 0 if finished else jobs.missing_shards(folder, plan))
    summary.held = jobs.missing_shards(folder, plan, mine) if summary.missing else 0
    summary.idle, summary.resumed = idle, existed and not idle
    summary.seconds = time.monotonic() - started
    return summary
