"""Whether a dataset's files are as they were written: by existence and size at every run, by hashes on request."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from vigc.errors import GenerationError
from vigc.processing.digest import file_digest

from . import ledger, locks
from .plan import Plan, is_whole
from .progress import Progress
from .records import FileMark


@dataclass(frozen=True, slots=True)
class Damage:
    """A file that is not as it was written.

    Args:
        name: Its path in the dataset folder.
        fault: What is wrong with it, to be read behind the name.
        shard: The shard that it is of, which is made again; None for what is written without the model.
    """

    name: str
    fault: str
    shard: int | None = None


@dataclass
class Inspection:
    """What came of looking at a dataset's files.

    Args:
        content: Whether their content was compared, too, by hashes.
        compared: How many files were looked at.
        unhashed: Of how many an older version recorded no hash.
        damaged: Those that are not as they were written.
    """

    content: bool = False
    compared: int = 0
    unhashed: int = 0
    damaged: list[Damage] = field(default_factory=list)

    def look(self, folder: Path, name: str, mark: FileMark, shard: int | None = None) -> None:
        """Compares a file with what was recorded of it."""
        self.compared += 1
        self.unhashed += self.content and mark.sha256 is None
        # A card may be edited, and its size then says nothing. The list of what was excluded is read at every run.
        content = self.content or name == ledger.EXCLUDED
        if (fault := mark.fault(folder / name, size=shard is not None, content=content)) is not None:
            self.damaged.append(Damage(name, fault, shard))


def inspect_state(folder: Path, *, content: bool) -> Inspection:
    """Looks at what is written without the model: plan, list of inputs, card, report, samples, the mark of the end.

    Of a folder whose job is not finished, nothing is expected yet.

    Args:
        folder: The dataset folder.
        content: Whether to compare contents.
    """
    found = Inspection(content)
    if not any((folder / name).exists() for name in (ledger.PLAN, ledger.FINISHED)):
        return found
    try:
        plan = ledger.read_plan_json(folder)
    except GenerationError:
        plan = {}
    if not plan or not is_whole(plan):
        found.damaged.append(Damage(ledger.PLAN, "is missing or damaged"))
    elif file_digest(folder / ledger.INPUTS) != plan["inputs"]["sha256"]:
        found.damaged.append(Damage(ledger.INPUTS, "is missing or damaged"))
    found.compared += 2
    if finished := ledger.read_finished(folder):
        for name, mark in ledger.finished_files(finished).items():
            found.look(folder, name, mark)
    elif (folder / ledger.FINISHED).exists():
        found.damaged.append(Damage(ledger.FINISHED, "is damaged"))
    elif (folder / ledger.REPORT).exists():  # the last thing before it; a job that was killed in between is no other
        found.damaged.append(Damage(ledger.FINISHED, "is missing"))
    return found


def inspect_shards(folder: Path, plan: Plan, shards: range, found: Inspection) -> None:
    """Looks at the files of shards, where the job was finished once or contents are to be compared.

    Args:
        folder: The dataset folder.
        plan: Its plan.
        shards: Which.
        found: What [`inspect_state`] found; added to.
    """
    ended = (folder / ledger.FINISHED).exists() or any(damage.name == ledger.FINISHED for damage in found.damaged)
    if not ended and not found.content:
        return
    with Progress("shards", len(shards), label="verified") as progress:
        for shard in shards:
            record = ledger.read_record(folder, shard)
            if record is not None and record.fingerprint == plan.fingerprint:
                found.compared += 1
                for name, mark in record.files.items():
                    found.look(folder, name, mark, shard)
            elif ended or ledger.record_file(folder, shard).exists():
                found.damaged.append(Damage(ledger.record_name(shard), "is missing or damaged", shard))
            progress.add(1)


def reopen(folder: Path, damaged: Iterable[Damage]) -> None:
    """Removes the records of what is damaged, so that the job makes it again.

    Plan and lists of inputs were written again when the plan was settled. A shard that another process holds is left to
    that process.
    """
    for damage in damaged:
        if damage.name in (ledger.PLAN, ledger.INPUTS, ledger.EXCLUDED):
            continue
        if damage.shard is None:
            (folder / ledger.FINISHED).unlink(missing_ok=True)
            continue
        with locks.hold(folder, f"shard-{damage.shard:05d}") as free:
            if free:
                ledger.reopen_shard(folder, damage.shard)
