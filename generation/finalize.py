"""The end of a job: card, report, and what a person wants to know."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from vigc.errors import GenerationError, first_line
from vigc.generation.report.page import write_report
from vigc.hub_cards import DatasetFacts, TypeFigures, compares_drafts, write_dataset_card
from vigc.jobs import ledger
from vigc.jobs.verify import Inspection
from vigc.processing import GENERATED_FEATURES
from vigc.processing.bounded_parsing import open_parquet
from vigc.processing.confined_paths import printable

from .shards import Totals

_LISTED = 1000


@dataclass
class Summary:
    """What is in the folder after a run.

    Args:
        output: The dataset folder.
        report: Its report page.
        config_hash: Hash of all settings that change what is written; part of every row.
        types: Figures of each type.
        images: How many pictures were read.
        duplicates: How many inputs are exact copies of one of them.
        excluded: How many inputs were left out, by reason.
        uncompared: By folder of pictures to leave out: how many files of it could not be read ("count"), so that
            nothing was compared with them, and the names of some ("first").
        unlisted: What lies beside the inputs and is none of them, in words, with its count.
        dropped: How many questions were left out because the picture had the same one already.
        bare: How many inputs have no picture; their rows were passed on as they were.
        repeated: How many rows have the id of another one, where exact copies of a picture lie in different shards;
            known at the end.
        set_aside: How many files and texts are in the quarantine.
        skipped: (file, reason) of files that were set aside; the first thousand.
        malformed: (file, type, reason) of texts that are no pairs; the first thousand.
        samples: The first rows of each type, without their pictures.
        missing: How many shards other processes have still to write.
        held: How many of those are of this process's own share, which another one works on.
        resumed: Whether the run went on with a job that was there.
        notice: What readers must know first, if there is such a thing.
        compared: Whether answers are corrections of drafts; else there are no edits to count.
        idle: Whether the job was finished before, so that nothing was done.
        inspection: What came of looking at the files of a folder whose job was begun before.
        seconds: How long it took, the loading of the model included.
    """

    output: Path
    report: Path
    config_hash: str
    types: dict[str, TypeFigures]
    images: int = 0
    duplicates: int = 0
    excluded: dict[str, int] = field(default_factory=dict)
    uncompared: dict[str, dict[str, Any]] = field(default_factory=dict)
    unlisted: dict[str, int] = field(default_factory=dict)
    dropped: int = 0
    bare: int = 0
    repeated: int = 0
    set_aside: int = 0
    skipped: list[tuple[str, str]] = field(default_factory=list)
    malformed: list[tuple[str, str, str]] = field(default_factory=list)
    samples: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    missing: int = 0
    held: int = 0
    notice: str | None = None
    compared: bool = True
    resumed: bool = False
    idle: bool = False
    inspection: Inspection = field(default_factory=Inspection)
    seconds: float = 0.0

    @property
    def rows(self) -> int:
        """How many rows were written."""
        return sum(figures.rows for figures in self.types.values())

    @property
    def changed(self) -> int:
        """In how many of them correction changed a word."""
        return sum(figures.changed for figures in self.types.values())


@contextmanager
def _rows_as_written() -> Iterator[None]:
    """Rows that cannot be read because their file was damaged since, as a `GenerationError` that says what mends it."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        reason = first_line(error)
        raise GenerationError(
            f"A file of rows is damaged ({reason}): the same command with --verify finds it and writes it again."
        ) from error


@_rows_as_written()
def summarize(folder: Path, plan: dict[str, Any], missing: int) -> Summary:
    """The summary of what a folder holds now."""
    kinds = plan["configuration"]["types"]
    totals = Totals.of(ledger.shard_records(folder), kinds)
    summary = Summary(folder, folder / ledger.REPORT, plan["config_hash"], totals.types, missing=missing)
    summary.images, summary.duplicates = totals.images, totals.duplicates
    summary.dropped, summary.bare, summary.set_aside = totals.dropped, totals.bare, totals.set_aside
    summary.repeated = 0 if missing else ledger.read_finished(folder).get("repeated", 0)
    summary.notice = plan.get("notice")
    summary.compared = compares_drafts(plan["configuration"])
    summary.excluded = plan["inputs"]["excluded"]
    summary.uncompared = plan["inputs"].get("uncompared", {})
    for record in islice(ledger.iter_quarantine(folder), _LISTED):
        if record["kind"] == "image":
            summary.skipped.append((record["path"], record["reason"]))
        else:
            summary.malformed.append((record["path"], record["type"], record["reason"]))
    for kind in kinds:
        rows = list(_first_rows(folder, kind))
        if rows:
            summary.samples[kind] = rows
    return summary


def _first_rows(folder: Path, kind: str) -> Iterable[dict[str, Any]]:
    columns = [name for name in GENERATED_FEATURES if name != "image"]
    wanted = 3
    for path in sorted((folder / kind).glob("train-*.parquet")):
        with open_parquet(path) as file:
            rows = next(file.iter_batches(wanted, columns=columns)).to_pylist()
        yield from rows
        wanted -= len(rows)
        if not wanted:
            return


@_rows_as_written()
def write_ending(folder: Path, plan: dict[str, Any]) -> dict[str, int]:
    """Writes card and report; returns the figures that the mark of the end holds."""
    configuration = plan["configuration"]
    totals = Totals.of(ledger.shard_records(folder), configuration["types"])
    repeated = sum(_repeated(folder, kind) for kind in configuration["types"])
    facts = DatasetFacts(
        name=printable(folder.resolve().name),
        features=GENERATED_FEATURES,
        types=totals.types,
        images=totals.images,
        skipped=totals.skipped,
        reasons=totals.reasons,
        configuration=configuration,
        config_hash=plan["config_hash"],
        command=command(plan),
        source=plan["source"],
        license=plan["license"],
        kind=plan["kind"],
        duplicates=totals.duplicates,
        dropped=totals.dropped,
        bare=totals.bare,
        repeated=repeated,
        compared=plan["inputs"].get("compared", ()),
        excluded=plan["inputs"]["excluded"],
        uncompared=plan["inputs"].get("uncompared", {}),
        licenses=dict(totals.licenses),
        notice=plan.get("notice"),
    )
    write_dataset_card(folder, facts, write=ledger.atomic_write)
    write_report(folder, image_root=plan["job"].get("root"))  # in the plan only where rows hold paths
    return {
        "inputs": totals.inputs,
        "images": totals.images,
        "duplicates": totals.duplicates,
        "skipped": totals.skipped,
        "rows": totals.rows,
        "repeated": repeated,
        "set_aside": totals.set_aside,
    }


def _repeated(folder: Path, kind: str) -> int:
    """How many rows of a type have the id of another one, from the first 64 bits of each."""
    parts = []
    for path in sorted((folder / kind).glob("train-*.parquet")):
        with open_parquet(path) as file:
            ids = file.read(columns=["id"]).column("id").to_pylist()
        parts.append(np.array([int(id_[:16], 16) for id_ in ids], dtype=np.uint64))
    return sum(map(len, parts)) - len(np.unique(np.concatenate(parts))) if parts else 0


def command(plan: dict[str, Any]) -> str:
    """The command that repeats a run, without the paths of one machine."""
    configuration, job = plan["configuration"], plan["job"]
    correcting = plan["kind"] == "correct"
    parts = ["vigc", plan["kind"], "DATASET" if correcting else "IMAGES", "--output", "DIR"]
    parts += ["--model", configuration["model"]]
    if not correcting:
        parts += ["--types", ",".join(configuration["types"])]
    parts += ["--seed", str(configuration["seed"])]
    parts += ["--dtype", configuration["dtype"], "--license", plan["license"]]
    if not configuration["correct"]:
        parts.append("--no-correct")
    for name, default in (("questions", 1), ("retries", 2)):
        if configuration.get(name, default) != default:
            parts += [f"--{name}", str(configuration[name])]
    if configuration.get("score"):
        parts.append("--score")
    if given := configuration.get("short_answers"):
        parts += ["--answers", str(given["count"]), "--answer-threshold", f"{given['threshold']:g}"]
        parts += ["--first-words", "FILE"] if given["first_words"] else []
    if job.get("format", "folder") != "folder":
        parts += ["--format", job["format"]]
    if job.get("data_revision"):
        parts += ["--data-revision", job["data_revision"]]
    for name, value in plan["settings"].items():
        option = name.replace("_", "-")
        if isinstance(value, bool):
            parts.append(f"--{option}" if value else f"--no-{option}")
        else:
            parts += [f"--{option}", str(value)]
    return " ".join(map(_quoted, parts))


def _quoted(word: str) -> str:
    """A word for bash, on one line whatever is in it."""
    if word.isprintable():
        return shlex.quote(word)
    kept = (char if char.isprintable() and char not in "\\'" else f"\\U{ord(char):08x}" for char in word)
    return f"$'{''.join(kept)}'"
