"""Runs a job from its plan to its end."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from . import ledger, resume, settle, verify
from .executors import Executor, executor_of
from .plan import Plan
from .progress import Progress
from .protocols import InputSet, InputT, Task


@dataclass
class Outcome:
    """The result of a run.

    Args:
        plan: The complete plan.
        missing: Number of unfinished shards, left to other processes.
        held: Number of those that belong to this rank but are locked by another process.
        idle: Whether the job was already finished, so that nothing was done.
        resumed: Whether an earlier job was resumed.
        rows: Number of rows made in this run.
        inspection: Result of the file check of an earlier job.
    """

    plan: Plan
    missing: int = 0
    held: int = 0
    idle: bool = False
    resumed: bool = False
    rows: int = 0
    inspection: verify.Inspection = field(default_factory=verify.Inspection)


def run_task(
    task: Task[InputT], inputs: InputSet[InputT], draft: Callable[[str | None], Plan], folder: Path
) -> Outcome:
    """Runs or resumes a job. The model of a finished job is not loaded.

    Args:
        task: The task.
        inputs: The inputs.
        draft: Makes the plan without inputs from the device type of the executor.
        folder: The dataset folder.

    Raises:
        VigcError: Invalid inputs, settings or folder; `exit_code` gives the class of the error.
    """
    with resume.alone(folder, task.rank, task.world_size), executor_of(task) as executor:
        existed = (folder / ledger.SHARDS).is_dir()
        # 1. Find damaged files of an earlier run; write the plan, or compare it with that of the folder.
        found = verify.Inspection() if task.overwrite else verify.inspect_state(folder, content=task.verify)
        begun = draft(executor.device())
        plan = settle.settle_plan(
            folder,
            begun,
            inputs,
            overwrite=task.overwrite,
            types=task.row_schema.types,
            ready=lambda: executor.start(begun),
        )
        # 2. Reopen the shards of this rank whose files are damaged.
        mine = range(task.rank, plan.inputs.shards, task.world_size)
        if not task.overwrite:
            verify.inspect_shards(folder, plan, mine, found)
            verify.reopen(folder, found.damaged)
        # 3. Make the unfinished shards of this rank.
        idle = ledger.is_finished(folder, plan.fingerprint) and not resume.missing_shards(folder, plan)
        rows = 0 if idle else _make_shards(task, inputs, executor, folder, plan, mine)
        # 4. Finish the job, if this process made the last shard.
        finished = resume.finish(folder, plan, lambda: task.finalize(folder, plan))
    missing = 0 if finished else resume.missing_shards(folder, plan)
    held = resume.missing_shards(folder, plan, mine) if missing else 0
    return Outcome(plan, missing, held, idle, existed and not idle, rows, found)


def _make_shards(
    task: Task[InputT], inputs: InputSet[InputT], executor: Executor[InputT], folder: Path, plan: Plan, mine: range
) -> int:
    """Makes the unfinished shards of this rank and shows the progress; returns the number of rows."""

    def inputs_of(shards: Iterable[int]) -> int:
        full = inputs.shard_size  # only the last shard has fewer
        return sum(min(full, plan.inputs.taken - full * shard) for shard in shards)

    left, total = resume.unfinished(folder, plan, mine), inputs_of(mine)
    label = f"rank {task.rank} of {task.world_size}" if task.world_size > 1 else ""
    before = total - inputs_of(left)
    with Progress(task.inputs_name, total, made="rows", before=before, label=label) as progress:
        shards = resume.with_inputs(folder, inputs, left)
        for shard in executor.run(folder, plan, shards, progress.within):
            if (record := ledger.read_shard(folder, shard)) is not None:
                progress.add(inputs_of([shard]), record.rows)
            else:  # another process holds it
                progress.skip(inputs_of([shard]))
    return progress.made_now
