"""The end of a job: card, report and summary."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa

from vigc.errors import GenerationError, first_line
from vigc.generation.correctors import corrector_of
from vigc.generation.report.page import write_report
from vigc.hub_cards import DatasetFacts, compares_drafts, write_dataset_card
from vigc.jobs import Outcome, Plan, Totals, ledger
from vigc.jobs.plan import Uncompared
from vigc.jobs.protocols import Record
from vigc.jobs.verify import Inspection
from vigc.processing import GENERATED_FEATURES
from vigc.processing.bounded_parsing import open_parquet
from vigc.processing.confined_paths import printable

_LISTED = 1000
# The totals in `finished.json`.
_FIGURES = ("inputs", "images", "duplicates", "skipped", "rows", "repeated", "set_aside")


@dataclass
class Summary(Totals):
    """The result of a run: counters and samples of the whole folder.

    Args:
        output: The dataset folder.
        report: The path of the report.
        config_hash: Hash of all settings that determine the generated text, stored in every row.
        excluded: Number of excluded inputs by rule of a filter.
        uncompared: Unreadable files, by folder that a filter compares inputs with.
        unlisted: Number of other files beside the inputs, by description.
        skipped: (file, reason) of the first thousand skipped inputs.
        malformed: (file, type, reason) of the first thousand rejected samples.
        samples: The first rows of each type, without images.
        missing: Number of unfinished shards, left to other processes.
        held: Number of those that belong to this rank but are locked by another process.
        notice: A warning for readers of the dataset, if there is one.
        compared: Whether rows have drafts; otherwise there are no edits to count.
        resumed: Whether an earlier job was resumed.
        idle: Whether the job was already finished, so that nothing was done.
        inspection: Result of the file check of an earlier job.
        rows_made: Number of rows made in this run.
        seconds: Duration of this run, including the loading of the model.
    """

    output: Path
    report: Path
    config_hash: str
    excluded: dict[str, int] = field(default_factory=dict)
    uncompared: dict[str, Uncompared] = field(default_factory=dict)
    unlisted: dict[str, int] = field(default_factory=dict)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    malformed: list[tuple[str, str, str]] = field(default_factory=list)
    samples: dict[str, list[Record]] = field(default_factory=dict)
    missing: int = 0
    held: int = 0
    notice: str | None = None
    compared: bool = True
    resumed: bool = False
    idle: bool = False
    inspection: Inspection = field(default_factory=Inspection)
    rows_made: int = 0
    seconds: float = 0.0

    def to_json(self) -> Record:
        """The JSON of the summary, without sample rows and the lists of skipped inputs and rejected samples."""
        left = ("excluded", "uncompared", "unlisted", "missing", "held", "notice", "resumed", "idle", "rows_made")
        return {
            "output": str(self.output),
            "config_hash": self.config_hash,
            **self.counts_by_name(),
            "rows": self.rows,
            "set_aside": self.set_aside,
            "types": {kind: asdict(figures) for kind, figures in self.types.items()},
            "licenses": dict(self.licenses),
            "reasons": [[reason.rule, reason.detail, count] for reason, count in self.reasons.items()],
            **{name: getattr(self, name) for name in left},
            "seconds": self.seconds,
        }


@contextmanager
def _rows_as_written() -> Iterator[None]:
    """Turns errors of reading damaged row files into a `GenerationError` that names the repair."""
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
def summarize(folder: Path, outcome: Outcome) -> Summary:
    """The summary of a folder after a run.

    Raises:
        GenerationError: A file of rows is damaged.
    """
    plan = outcome.plan
    totals = Totals.of(ledger.shard_records(folder), plan.configuration.types)
    if not outcome.missing:
        totals.repeated = ledger.read_finished(folder).get("repeated", 0)
    summary = Summary.copied(
        totals,
        types=totals.types,
        licenses=totals.licenses,
        reasons=totals.reasons,
        output=folder,
        report=folder / ledger.REPORT,
        config_hash=plan.config_hash,
        excluded=plan.inputs.excluded,
        uncompared=plan.inputs.uncompared,
        missing=outcome.missing,
        held=outcome.held,
        notice=plan.notice,
        compared=compares_drafts(plan.configuration),
        resumed=outcome.resumed,
        idle=outcome.idle,
        rows_made=outcome.rows,
        inspection=outcome.inspection,
    )
    for record in islice(ledger.iter_quarantine(folder), _LISTED):
        if record["kind"] == "image":
            summary.skipped.append((record["path"], record["reason"]))
        else:
            summary.malformed.append((record["path"], record["type"], record["reason"]))
    for kind in plan.configuration.types:
        rows = list(_first_rows(folder, kind))
        if rows:
            summary.samples[kind] = rows
    return summary


def _first_rows(folder: Path, kind: str) -> Iterable[Record]:
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
def write_ending(folder: Path, plan: Plan) -> dict[str, int]:
    """Writes card and report; returns the totals for `finished.json`.

    Raises:
        GenerationError: A file of rows is damaged.
    """
    types = plan.configuration.types
    totals = Totals.of(ledger.shard_records(folder), types)
    totals.repeated = sum(_repeated(folder, kind) for kind in types)
    counts = totals.counts_by_name()
    facts = DatasetFacts(
        name=printable(folder.resolve().name),
        features=GENERATED_FEATURES,
        types=totals.types,
        reasons={(rule, detail): count for (rule, detail), count in totals.reasons.items()},
        configuration=plan.configuration,
        config_hash=plan.config_hash,
        command=command(plan),
        source=plan.source,
        license=plan.license,
        kind=plan.kind,
        compared=plan.inputs.compared,
        excluded=plan.inputs.excluded,
        uncompared=plan.inputs.uncompared,
        licenses=dict(totals.licenses),
        notice=plan.notice,
        **{item.name: counts[item.name] for item in fields(DatasetFacts) if item.name in counts},
    )
    write_dataset_card(folder, facts, write=ledger.atomic_write)
    write_report(folder, image_root=plan.job.get("root"))  # only in the plan if rows contain paths
    figures = counts | {"rows": totals.rows, "set_aside": totals.set_aside}
    return {name: figures[name] for name in _FIGURES}


def _repeated(folder: Path, kind: str) -> int:
    """Number of rows of a type whose id occurred before, by the first 64 bits of the ids."""
    parts = []
    for path in sorted((folder / kind).glob("train-*.parquet")):
        with open_parquet(path) as file:
            ids = file.read(columns=["id"]).column("id").to_pylist()
        parts.append(np.array([int(id_[:16], 16) for id_ in ids], dtype=np.uint64))
    return sum(map(len, parts)) - len(np.unique(np.concatenate(parts))) if parts else 0


def command(plan: Plan) -> str:
    """The command that repeats a run, without local paths."""
    configuration, job = plan.configuration, plan.job
    correcting = plan.kind == "correct"
    parts = ["vigc", plan.kind, "DATASET" if correcting else "IMAGES", "--output", "DIR"]
    parts += ["--model", configuration.model]
    if not correcting:
        parts += ["--types", ",".join(configuration.types)]
    parts += ["--seed", str(configuration["seed"])]
    parts += ["--dtype", configuration.dtype] if configuration.dtype else []
    parts += ["--license", plan.license]
    if "corrector" in configuration or (correcting and not configuration["correct"]):
        parts += ["--corrector", corrector_of(configuration)]
    elif not configuration["correct"]:
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
    for name, value in plan.settings.items():
        option = name.replace("_", "-")
        if isinstance(value, bool):
            parts.append(f"--{option}" if value else f"--no-{option}")
        else:
            parts += [f"--{option}", str(value)]
    return " ".join(map(_quoted, parts))


def _quoted(word: str) -> str:
    """Quotes a word for bash, always on one line."""
    if word.isprintable():
        return shlex.quote(word)
    kept = (char if char.isprintable() and char not in "\\'" else f"\\U{ord(char):08x}" for char in word)
    return f"$'{''.join(kept)}'"
