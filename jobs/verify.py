"""Checks the files of a dataset: existence and size in every run, hashes on request."""

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
    """A damaged or missing file.

    Args:
        name: Path in the dataset folder.
        fault: The damage, as a predicate of the name.
        shard: The shard of the file, which is made again; None for a file outside of shards.
    """

    name: str
    fault: str
    shard: int | None = None


@dataclass
class Inspection:
    """The result of a check of a dataset's files.

    Args:
        content: Whether hashes were compared.
        compared: Number of checked files.
        unhashed: Number of files without a recorded hash, from older versions.
        damaged: The damaged files.
    """

    content: bool = False
    compared: int = 0
    unhashed: int = 0
    damaged: list[Damage] = field(default_factory=list)

    def look(self, folder: Path, name: str, mark: FileMark, shard: int | None = None) -> None:
        """Compares a file with its mark."""
        self.compared += 1
        self.unhashed += self.content and mark.sha256 is None
        # A card may be edited, so that its size is not compared. The list of exclusions is read in every run.
        content = self.content or name == ledger.EXCLUDED
        if (fault := mark.fault(folder / name, size=shard is not None, content=content)) is not None:
            self.damaged.append(Damage(name, fault, shard))


def inspect_state(folder: Path, *, content: bool) -> Inspection:
    """Checks the files outside of shards: plan, list of inputs, card, report, sample images, `finished.json`.

    An unfinished job is not required to have them.

    Args:
        folder: The dataset folder.
        content: Whether to compare hashes.
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
    elif (folder / ledger.REPORT).exists():  # the report is written just before `finished.json`
        found.damaged.append(Damage(ledger.FINISHED, "is missing"))
    return found


def inspect_shards(folder: Path, plan: Plan, shards: range, found: Inspection) -> None:
    """Checks the files of shards, if the job was finished or hashes are to be compared.

    Args:
        folder: The dataset folder.
        plan: Its plan.
        shards: The shards to check.
        found: The result of [`inspect_state`]; extended.
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
    """Removes the records of damaged files, so that the job makes them again.

    `settle_plan` has already rewritten plan and lists of inputs. A shard that another process holds is not reopened.
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
