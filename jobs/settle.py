"""Writes the plan into a new folder, or compares it with the plan of the folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from vigc.errors import ConflictError, GenerationError, VigcError
from vigc.processing.digest import file_digest

from . import ledger, locks
from .differences import changed_input, plan_differences
from .output_folder import check_output, remove_dataset
from .plan import Plan, is_whole
from .protocols import Input, InputSet, InputT, Record


def settle_plan(
    folder: Path,
    plan: Plan,
    inputs: InputSet[InputT],
    *,
    overwrite: bool,
    types: Sequence[str],
    ready: Callable[[], Any],
) -> Plan:
    """Writes the plan of a new job, or checks that the folder has the same plan.

    Args:
        folder: The dataset folder.
        plan: The plan without its inputs.
        inputs: The inputs.
        overwrite: Whether another job or a finished one may be replaced.
        types: All types that rows can have, to remove a dataset whose plan is damaged.
        ready: Loads the model; called before the folder is changed, so that a loading error destroys nothing.

    Raises:
        ConflictError: The folder holds another job.
        BusyError: The folder is to be replaced while another process writes to it.
    """
    if not check_output(folder):
        with locks.hold(folder, "plan", wait=True):
            if not check_output(folder):
                return _begin(folder, plan, inputs, ready)
    # One rank writes the plan. The others list the inputs in parallel and compare.
    done = complete_plan(folder, plan, inputs, write=False)
    if not overwrite and _is_settled(folder, done, inputs):
        return done
    with locks.hold(folder, "plan", wait=True):
        if check_output(folder):
            old_finished = ledger.is_finished(folder, done.fingerprint)
            try:
                check_same(folder, done, inputs.sources(folder))
            except VigcError:
                if not overwrite:
                    raise
                old_finished = True
            if not (overwrite and old_finished):
                return _rebuilt(folder, done, inputs, plan)
            inputs.check_readable()
            ready()
            remove_dataset(folder, types)
        return _begin(folder, plan, inputs, ready)


def _begin(folder: Path, plan: Plan, inputs: InputSet[InputT], ready: Callable[[], Any]) -> Plan:
    """Writes the plan into a folder that has none."""
    done = complete_plan(folder, plan, inputs, write=True)
    try:
        inputs.check_readable()
        ready()
    except VigcError:
        for name in (ledger.INPUTS, ledger.EXCLUDED, ledger.EMPTY_FOLDERS):
            (folder / name).unlink(missing_ok=True)
        raise
    ledger.write_plan(folder, done)
    return done


def _is_settled(folder: Path, done: Plan, inputs: InputSet[InputT]) -> bool:
    """Whether the folder has this plan and its list of inputs, both intact.

    Raises:
        ConflictError: The folder holds another job.
    """
    check_same(folder, done, inputs.sources(folder))
    try:
        values = ledger.read_plan_json(folder)
    except GenerationError:
        return False
    whole = is_whole(values) and values["fingerprint"] == done.fingerprint
    return whole and _is_listed(folder, done, inputs)


def _rebuilt(folder: Path, done: Plan, inputs: InputSet[InputT], plan: Plan) -> Plan:
    """Writes damaged or missing files of the plan again; returns the plan."""
    if not _is_settled(folder, done, inputs):
        complete_plan(folder, plan, inputs, write=True)
        ledger.write_plan(folder, done)
    return done


def _is_listed(folder: Path, plan: Plan, inputs: InputSet[InputT]) -> bool:
    """Whether the hashes of both lists of inputs match; line counts would not show a truncated last line."""
    excluded = _digest(_excluded_lines(inputs))
    if excluded is not None and file_digest(folder / ledger.EXCLUDED) != excluded:
        return False
    return file_digest(folder / ledger.INPUTS) == plan.inputs.sha256


def complete_plan(folder: Path, plan: Plan, inputs: InputSet[InputT], *, write: bool) -> Plan:
    """The plan with inputs and fingerprint; with `write`, both lists of inputs are written to the folder.

    Raises:
        GenerationError: There is no input.
    """
    digest, shards = hashlib.sha256(), 0

    def lines() -> Iterator[bytes]:
        nonlocal shards
        for line in _lines(inputs, folder):
            digest.update(line)
            shards += 1
            yield line

    if write:
        ledger.atomic_write(folder / ledger.INPUTS, lines())
        ledger.write_empty_folders(folder, inputs.empty_folders)
        if any(True for _ in inputs.excluded()):
            ledger.atomic_write(folder / ledger.EXCLUDED, _excluded_lines(inputs))
        else:  # left by a job that was killed before it had a plan
            (folder / ledger.EXCLUDED).unlink(missing_ok=True)
    else:
        for _ in lines():
            pass
    facts = inputs.facts()
    if not facts.taken:
        raise GenerationError(f"Nothing is left of {facts.listed} inputs: exclude less.")
    return plan.completed(replace(facts, shards=shards, sha256=digest.hexdigest()))


def _lines(inputs: InputSet[InputT], folder: Path) -> Iterator[bytes]:
    sources = inputs.sources(folder)
    while shard := [source.to_record() for source in islice(sources, inputs.shard_size)]:
        yield f"{json.dumps(shard, ensure_ascii=True)}\n".encode()


def _excluded_lines(inputs: InputSet[InputT]) -> Iterator[bytes]:
    for record in inputs.excluded():
        yield f"{json.dumps(record, ensure_ascii=True)}\n".encode()


def _digest(lines: Iterable[bytes]) -> str | None:
    """SHA-256 of lines in hexadecimal digits; None without lines."""
    digest, empty = hashlib.sha256(), True
    for line in lines:
        digest.update(line)
        empty = False
    return None if empty else digest.hexdigest()


def check_same(folder: Path, plan: Plan, sources: Iterable[Input]) -> None:
    """Raises a `ConflictError` with the difference if the folder's plan or a finished shard is of another job.

    Args:
        folder: The dataset folder.
        plan: Plan of the requested job.
        sources: Its inputs; only iterated if they differ.
    """
    old: Record | None = None
    with suppress(GenerationError):  # damaged: written again, unless shards are of another job
        found = ledger.read_plan_json(folder)
        old = found if is_whole(found) else None
    if old is not None and old.get("fingerprint") != plan.fingerprint:
        differences = plan_differences(old, plan.to_json())
        if not differences and old.get("inputs", {}).get("sha256") != plan.inputs.sha256:
            differences = [changed_input(folder, sources)]
        listed = "; ".join(differences) or "it was made by another version of vigc"
        raise _conflict(folder, listed)
    others = [record.shard for record in ledger.shard_records(folder) if record.fingerprint != plan.fingerprint]
    if others:
        raise _conflict(folder, f"its shard {others[0]} was made by another plan")


def _conflict(folder: Path, difference: str) -> ConflictError:
    return ConflictError(
        f"{str(folder)!r} holds a dataset of another job: {difference}. Use the same settings to "
        "resume it, give --overwrite to replace it, or another folder."
    )
