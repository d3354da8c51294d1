"""A job from its plan to its end, whatever is made."""

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
    """What became of a run.

    Args:
        plan: The plan, complete.
        missing: How many shards other processes have still to do.
        held: How many of those are of this process's own share, which another one works on.
        idle: Whether the job was finished before, so that nothing was done.
        resumed: Whether a job that was there was resumed.
        rows: How many rows this run made.
        inspection: What came of looking at the files of a folder whose job was begun before.
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
    """Does a job, or resumes it; one that is finished is left alone, and its model is not even loaded.

    Args:
        task: What is to be made.
        inputs: Of what.
        draft: Makes the plan without its inputs, given the kind of device of the executor.
        folder: The dataset folder.

    Raises:
        VigcError: Inputs, settings or a folder that cannot be worked with; its `exit_code` says of which kind.
    """
    with resume.alone(folder, task.rank, task.world_size), executor_of(task) as executor:
        existed = (folder / ledger.SHARDS).is_dir()
        # 1. What is damaged of an earlier run, and the plan: written, or compared with the folder's.
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
        # 2. Shards of this rank whose files are damaged are made again.
        mine = range(task.rank, plan.inputs.shards, task.world_size)
        if not task.overwrite:
            verify.inspect_shards(folder, plan, mine, found)
            verify.reopen(folder, found.damaged)
        # 3. The shards of this rank that are not finished.
        idle = ledger.is_finished(folder, plan.fingerprint) and not resume.missing_shards(folder, plan)
        rows = 0 if idle else _make_shards(task, inputs, executor, folder, plan, mine)
        # 4. Whoever does the last shard of all writes the end.
        finished = resume.finish(folder, plan, lambda: task.finalize(folder, plan))
    missing = 0 if finished else resume.missing_shards(folder, plan)
    held = resume.missing_shards(folder, plan, mine) if missing else 0
    return Outcome(plan, missing, held, idle, existed and not idle, rows, found)


def _make_shards(
    task: Task[InputT], inputs: InputSet[InputT], executor: Executor[InputT], folder: Path, plan: Plan, mine: range
) -> int:
    """Makes the shards of this rank that are not finished, and shows how far it is; returns how many rows it made."""

    def inputs_of(shards: Iterable[int]) -> int:
        full = inputs.shard_size  # as all are but the last
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
