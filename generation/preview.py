"""Previews a job before it starts: inputs, exclusions, sample rows and an estimate of time and size."""

from __future__ import annotations

import os
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from vigc.errors import ConflictError, machine_errors
from vigc.generation.filters import Needs, Selection
from vigc.generation.filters.selection import merged
from vigc.generation.filters.table import open_filters
from vigc.generation.sources.base import Source
from vigc.jobs import Plan, ShardOutput, ledger
from vigc.jobs.executors import Executor, executor_of
from vigc.jobs.output_folder import check_output
from vigc.jobs.protocols import Record
from vigc.jobs.settle import check_same, complete_plan
from vigc.jobs.verify import Inspection, inspect_shards, inspect_state

from .estimate import Estimate, estimate, spread, try_inputs
from .run import pinned
from .settings import JobSettings

_ROWS = 3
# The hash pass reads every image. With more images than this, a preview only hashes a sample of this size.
_LOOKED_AT = 1000


@dataclass
class Preview:
    """The preview of a job.

    Args:
        output: The output folder.
        plan: The plan, with the counts of the inputs.
        pairs: Maximum number of rows, if no sample is rejected or dropped.
        refused: Number of inputs known to be unusable without opening them, by reason.
        unlisted: Number of other files beside the inputs, by description.
        looks: With content filters and many images: number of excluded images in a sample, by rule.
        looked_at: Size of that sample.
        look_seconds: Estimated time to check the content of all images, from that sample.
        replaces: Whether the folder contains a dataset that would be replaced.
        finished: Whether the folder contains this job, finished.
        inspection: Damaged files of the folder, which would be made again.
        shards_done: Number of finished shards.
        rows_done: Number of rows in them.
        bytes_done: Their size on the disk.
        inputs_left: Number of inputs in the other shards.
        rows: Sample rows without images, of different inputs and types if possible.
        sample: The output of the trial; None if the job has nothing left to do.
        estimate: The estimate from the trial.
    """

    output: Path
    plan: Plan
    pairs: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    unlisted: dict[str, int] = field(default_factory=dict)
    looks: Counter[str] | None = None
    looked_at: int = 0
    look_seconds: float = 0.0
    replaces: bool = False
    finished: bool = False
    inspection: Inspection = field(default_factory=Inspection)
    shards_done: int = 0
    rows_done: int = 0
    bytes_done: int = 0
    inputs_left: int = 0
    rows: list[Record] = field(default_factory=list)
    sample: ShardOutput | None = None
    estimate: Estimate | None = None


@machine_errors()
def preview_job(job: JobSettings, output: str | os.PathLike[str]) -> Preview:
    """Plans a job and tries a few of its inputs, without writing to its folder.

    Args:
        job: The job.
        output: The output folder.

    Raises:
        GenerationError: The job itself would raise it too.
    """
    folder = Path(output)
    job = pinned(job, folder)
    exists = check_output(folder)
    with tempfile.TemporaryDirectory(prefix="vigc-preview-") as place, executor_of(job) as executor:
        scratch = Path(place)
        _borrow_hashes(folder, scratch)
        preview, selection = _planned(job, executor, scratch, folder, whole=exists)
        if exists:
            _look_into(folder, job, preview, selection.sources(scratch))
            if not job.overwrite:
                preview.inspection = inspect_state(folder, content=job.verify)
                inspect_shards(folder, preview.plan, range(preview.plan.inputs.shards), preview.inspection)
                preview.finished &= not any(damage.shard is not None for damage in preview.inspection.damaged)
        preview.unlisted = selection.unlisted | preview.unlisted
        inputs = ledger.Inputs(scratch / ledger.INPUTS)
        _count(folder, inputs, preview)
        if not preview.finished:
            _try(job, executor, scratch, preview, selection, inputs)
    return preview


def _try(
    job: JobSettings,
    executor: Executor[Source],
    scratch: Path,
    preview: Preview,
    selection: Selection,
    inputs: ledger.Inputs,
) -> None:
    """Makes the rows of a few inputs and estimates time and size of the job."""
    chosen = spread(preview.plan.inputs.taken, _ROWS + job.batch_size)
    places = (divmod(index, job.shard_size) for index in chosen)
    restored = selection.restorer(preview.output)
    trial = try_inputs(executor, preview.plan, [restored(inputs[shard][place]) for shard, place in places], _ROWS)
    if not trial.output.images + trial.output.bare:
        selection.check_readable()
    preview.sample = trial.output
    preview.rows = _varied(trial.output.rows, preview.plan.configuration.types)
    preview.estimate = estimate(
        trial,
        scratch,
        preview.output,
        preview.plan,
        left=preview.inputs_left,
        rows_done=preview.rows_done,
        bytes_done=preview.bytes_done,
        workers=executor.workers * job.world_size,
    )


def _borrow_hashes(folder: Path, scratch: Path) -> None:
    """Gives a hash pass in `scratch` the cached hashes of the dataset folder, which is not written to."""
    kept, borrowed = folder / ledger.HASHES, scratch / ledger.HASHES
    for path in kept.rglob("part-*.jsonl"):
        link = borrowed / path.relative_to(kept)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path.resolve())


def _planned(
    job: JobSettings, executor: Executor[Source], scratch: Path, folder: Path, *, whole: bool
) -> tuple[Preview, Selection]:
    """Makes the plan in `scratch`; returns the preview and the selected inputs.

    With content filters and many inputs, the plan ignores those filters and only a sample of the inputs is checked. A
    folder with a job needs the `whole` plan.
    """
    model, selection = job.describe_model(executor.device()), job.selection()

    def complete(chosen: Selection) -> Preview:
        return Preview(folder, complete_plan(scratch, job.plan(model, chosen), chosen, write=True))

    if whole or not selection.reads_content:
        return complete(selection), selection
    by_name = selection.without_content()
    preview = complete(by_name)
    if preview.plan.inputs.taken <= _LOOKED_AT:
        return complete(selection), selection
    _look(selection, scratch, preview, job.shard_size)
    return preview, by_name


def _look(selection: Selection, scratch: Path, preview: Preview, shard_size: int) -> None:
    """Checks the content of evenly spaced inputs of the plan."""
    taken, inputs = preview.plan.inputs.taken, ledger.Inputs(scratch / ledger.INPUTS)
    places = (divmod(index, shard_size) for index in spread(taken, _LOOKED_AT))
    sources = (Source(**inputs[shard][place]) for shard, place in places)
    filters = [
        each for each in open_filters(selection.filters, scratch / ledger.HASHES) if each.needs is not Needs.NAME
    ]
    compared = merged(filters)
    preview.plan = replace(preview.plan, inputs=replace(preview.plan.inputs, uncompared=compared.uncompared))
    preview.unlisted = compared.unlisted
    preview.looks, preview.looked_at, started = Counter(), _LOOKED_AT, time.monotonic()
    for _, exclusion in selection.checked(sources, filters, scratch / "sample"):
        if exclusion is not None and exclusion.copy_of is None:  # a sample cannot estimate copies
            preview.looks[exclusion.rule] += 1
    preview.look_seconds = (time.monotonic() - started) / _LOOKED_AT * taken


def _look_into(folder: Path, job: JobSettings, preview: Preview, sources: Iterable[Source]) -> None:
    """Compares the job in the folder with this one."""
    finished = ledger.is_finished(folder, preview.plan.fingerprint)
    try:
        check_same(folder, preview.plan, sources)
    except ConflictError:
        if not job.overwrite:
            raise
        preview.replaces = True
    preview.replaces = preview.replaces or (job.overwrite and finished)
    preview.finished = finished and not preview.replaces


def _count(folder: Path, inputs: ledger.Inputs, preview: Preview) -> None:
    """Counts finished shards, their rows and bytes, and the remaining inputs."""
    configuration = preview.plan.configuration
    damaged = {damage.shard for damage in preview.inspection.damaged}
    each = len(configuration.types) * configuration.questions
    for shard in range(len(inputs)):
        record = None if preview.replaces or shard in damaged else ledger.read_shard(folder, shard)
        done = record is not None and record.fingerprint == preview.plan.fingerprint
        if record is not None and done:
            preview.shards_done += 1
            preview.rows_done += record.rows
            preview.bytes_done += sum(mark.size or 0 for mark in record.files.values())
        sources = inputs[shard]
        preview.inputs_left += 0 if done else len(sources)
        for source in sources:
            if source.get("refused"):
                preview.refused[source["refused"]] += 1
            else:
                preview.pairs += len(source["pairs"]) if "pairs" in source else each


def _varied(rows: list[Record], types: list[str]) -> list[Record]:
    """A few rows of different inputs and, if possible, different types."""
    by_input: dict[str, list[Record]] = {}
    for row in rows:
        by_input.setdefault(row["image_id"], []).append(row)
    chosen = []
    for number, found in enumerate(list(by_input.values())[:_ROWS]):
        kind = types[number % len(types)]
        chosen.append(next((row for row in found if row["type"] == kind), found[0]))
    known = {row["id"] for row in chosen}
    chosen += [row for row in rows if row["id"] not in known][: _ROWS - len(chosen)]
    return [{name: value for name, value in row.items() if name != "image"} for row in chosen]
