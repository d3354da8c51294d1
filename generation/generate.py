"""The main job: a folder of pictures becomes a dataset of instruction rows."""

from __future__ import annotations

import hashlib
import os
import shlex
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from vigc.hub_cards import DatasetFacts, TypeFigures, write_dataset_card
from vigc.processing import GENERATED_FEATURES, INSTRUCTION_TYPES
from vigc.processing.images import ImageError, Picture, load_picture

from . import ledger
from .errors import GenerationError
from .models import WritingModel, check_settings, effective_settings, load_model
from .report import write_report
from .sources import Source, list_images, printable
from .worker import Worker

DEFAULT_TYPES = ("conversation", "detail", "complex")


@dataclass
class Summary:
    """What a run did.

    Args:
        output: The dataset folder.
        report: Its report page.
        config_hash: Hash of all settings that change what is written; part of every row.
        types: Figures of each type.
        images: How many pictures were read.
        skipped: (file, reason) of those that were not.
        malformed: (file, type, reason) of texts that are no pairs.
        samples: The first rows of each type, without their pictures.
        seconds: How long it took, the loading of the model included.
    """

    output: Path
    report: Path
    config_hash: str
    types: dict[str, TypeFigures]
    images: int = 0
    skipped: list[tuple[str, str]] = field(default_factory=list)
    malformed: list[tuple[str, str, str]] = field(default_factory=list)
    samples: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def rows(self) -> int:
        """How many rows were written."""
        return sum(figures.rows for figures in self.types.values())

    @property
    def changed(self) -> int:
        """In how many of them correction changed a word."""
        return sum(figures.changed for figures in self.types.values())

    @property
    def set_aside(self) -> int:
        """How many files and texts are in the quarantine."""
        return len(self.skipped) + len(self.malformed)


def generate_dataset(
    images: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    model: Any,
    processor: Any = None,
    types: Sequence[str] = DEFAULT_TYPES,
    batch_size: int = 8,
    shard_size: int = 256,
    limit: int | None = None,
    seed: int = 0,
    correct: bool = True,
    settings: dict[str, Any] | None = None,
    license: str = "unknown",
    overwrite: bool = False,
    **loading: Any,
) -> Summary:
    """Writes questions and corrected answers about pictures, as a dataset folder that `load_dataset` reads.

    Args:
        images: A folder of pictures, searched with its sub-folders, or one picture.
        output: The folder to write: new, empty, or with `overwrite` an earlier dataset.
        model: A folder, a Hub name, or a model object (then with `processor`).
        processor: By default the model's own.
        types: The types of instruction to write, each once about every picture.
        batch_size: Pictures worked on at a time; greedy decoding in float32 writes the same texts with any.
        shard_size: Pictures per parquet file.
        limit: Only the first so many pictures.
        seed: Decides, with a row's id, what is drawn where decoding samples.
        correct: Whether VIC corrects the drafts; without it the answer is the draft.
        settings: Decoding and `iqf_*` settings, as `model.generate` takes them, that are not the model's own.
        license: Licence of the pictures, written into every row.
        overwrite: Replace the dataset in `output`.
        loading: `dtype`, `device`, `revision`, `trust_remote_code`: see [`load_model`].

    Returns:
        Counts, what was set aside and why, and sample rows. A file that cannot be read never ends the run.

    Raises:
        GenerationError: Input, settings or folders that cannot be worked with.
    """
    started = time.monotonic()
    folder, settings = Path(output), dict(settings or {})
    _check(types, batch_size, shard_size, limit)
    check_settings(settings, correct)
    sources = list_images(Path(images))[:limit]
    ledger.check_output(folder, overwrite)
    _find_readable(sources)
    loaded = load_model(model, processor, **loading)
    plan = _plan(loaded, Path(images), types, settings, correct, seed, license)
    worker = _worker(loaded, plan)
    ledger.remove_dataset(folder)
    ledger.write_plan(folder, plan)
    summary = _run(sources, worker, folder, plan, batch_size, shard_size)
    summary.seconds = time.monotonic() - started
    return summary


def _check(types: Sequence[str], batch_size: int, shard_size: int, limit: int | None) -> None:
    if isinstance(types, str):
        raise GenerationError(f"types={types!r} is one string: give a list of types.")
    unknown = [kind for kind in types if kind not in INSTRUCTION_TYPES]
    if unknown or not types:
        given = ", ".join(map(repr, unknown)) or "no type"
        raise GenerationError(f"Types: {given} is not known: use one or more of {', '.join(INSTRUCTION_TYPES)}.")
    if len(set(types)) < len(types):
        raise GenerationError(f"Types: {', '.join(types)} names one twice: give each once.")
    for name, value in (("batch_size", batch_size), ("shard_size", shard_size), ("limit", limit)):
        if value is not None and value < 1:
            raise GenerationError(f"{name}={value} is too small: give at least 1.")


def _find_readable(sources: Sequence[Source]) -> None:
    """Makes sure, before a model is loaded or anything replaced, that there is a picture to work on."""
    reasons = []
    for source in sources:
        try:
            _open(source)
            return
        except ImageError as error:
            reasons.append(str(error))
    more = f" (and {len(reasons) - 3} more)" if len(reasons) > 3 else ""
    raise GenerationError(f"None of {len(reasons)} pictures can be read: {'; '.join(reasons[:3])}{more}.")


def _open(source: Source) -> Picture:
    if source.refused is not None:
        raise ImageError(source.name, source.refused)
    return load_picture(source.path, name=source.name)


def _plan(
    loaded: WritingModel,
    images: Path,
    types: Sequence[str],
    settings: dict[str, Any],
    correct: bool,
    seed: int,
    license: str,
) -> dict[str, Any]:
    """What the run is about. `configuration` holds all that decides what is written about a picture."""
    configuration = {
        "model": loaded.name,
        "revision": loaded.revision,
        "dtype": str(loaded.model.dtype).removeprefix("torch."),
        "types": list(types),
        "correct": correct,
        "seed": seed,
        **effective_settings(loaded.model, settings, correct),
    }
    return {
        "configuration": configuration,
        "config_hash": ledger.fingerprint(configuration),
        "settings": settings,
        "source": _source_name(images),
        "license": license,
    }


def _worker(loaded: WritingModel, plan: dict[str, Any]) -> Worker:
    configuration = plan["configuration"]
    return Worker(
        loaded.model,
        loaded.processor,
        types=configuration["types"],
        settings=plan["settings"],
        correct=configuration["correct"],
        seed=configuration["seed"],
        constants={
            "source": plan["source"],
            "license": plan["license"],
            "model": loaded.name,
            "config_hash": plan["config_hash"],
        },
    )


def _run(
    sources: Sequence[Source], worker: Worker, folder: Path, plan: dict[str, Any], batch_size: int, shard_size: int
) -> Summary:
    summary = Summary(
        folder, folder / ledger.REPORT, plan["config_hash"], {kind: TypeFigures() for kind in worker.types}
    )
    with tqdm(total=len(sources), desc="Pictures", unit="picture", disable=None) as progress:
        for shard, start in enumerate(range(0, len(sources), shard_size)):
            _run_shard(shard, sources[start : start + shard_size], worker, batch_size, summary, progress)
    _finish(summary, plan)
    return summary


def _source_name(images: Path) -> str:
    folder = images.resolve()
    return printable((folder.parent if folder.is_file() else folder).name) or "pictures"


def _run_shard(
    shard: int, sources: Sequence[Source], worker: Worker, batch_size: int, summary: Summary, progress: tqdm
) -> None:
    """Writes one shard: its rows by type and what it sets aside."""
    rows: dict[str, list[dict[str, Any]]] = {kind: [] for kind in worker.types}
    rejects: list[dict[str, Any]] = []
    for batch in _batches(sources, batch_size, rejects, progress):
        written, malformed = worker.write(batch)
        for row in written:
            rows[row["type"]].append(row)
        rejects += malformed
        summary.images += len(batch)
        progress.update(len(batch))
    for kind, written in rows.items():
        if written:
            memory, disk = ledger.write_rows(summary.output, kind, shard, written)
            summary.types[kind].add(written, memory, disk)
            kept = summary.samples.setdefault(kind, [])
            kept += [{name: row[name] for name in row if name != "image"} for row in written[: 3 - len(kept)]]
    if rejects:
        ledger.write_quarantine(summary.output, shard, rejects)
    for record in rejects:
        if record["kind"] == "image":
            summary.skipped.append((record["path"], record["reason"]))
        else:
            summary.malformed.append((record["path"], record["type"], record["reason"]))
            summary.types[record["type"]].malformed += 1


def _batches(
    sources: Sequence[Source], size: int, rejects: list[dict[str, Any]], progress: tqdm
) -> Iterator[list[tuple[Source, Picture]]]:
    """Opened pictures, `size` at a time; records of those that cannot be opened go to `rejects`."""
    batch: list[tuple[Source, Picture]] = []
    for source in sources:
        try:
            batch.append((source, _open(source)))
        except ImageError as error:
            rejects.append(_skipped(source, error))
            progress.update()
            continue
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _skipped(source: Source, error: ImageError) -> dict[str, Any]:
    cause = type(error.__cause__ or error).__name__
    return {
        "kind": "image",
        "path": source.name,
        "image_id": source.image_id,
        "sha256": _digest(source),
        "reason": error.reason,
        "exception": cause,
    }


def _digest(source: Source) -> str | None:
    """Hash of a refused file, where it may be read at all."""
    if source.refused is not None or not source.path.is_file():
        return None
    try:
        digest = hashlib.sha256()
        with source.path.open("rb") as file:
            while block := file.read(2**20):
                digest.update(block)
        return digest.hexdigest()
    except OSError:  # the reason of the refusal, then, which is recorded beside this
        return None


def _finish(summary: Summary, plan: dict[str, Any]) -> None:
    """What is made from all shards together: the card and the report."""
    configuration = plan["configuration"]
    reasons = [("a file that cannot be read", reason) for _, reason in summary.skipped]
    reasons += [("a text that is no pair", reason) for _, _, reason in summary.malformed]
    facts = DatasetFacts(
        name=printable(summary.output.resolve().name),
        features=GENERATED_FEATURES,
        types=summary.types,
        images=summary.images,
        skipped=len(summary.skipped),
        reasons=reasons,
        configuration=configuration,
        config_hash=summary.config_hash,
        command=_command(plan),
        source=plan["source"],
        license=plan["license"],
    )
    write_dataset_card(summary.output, facts, write=ledger.atomic_write)
    write_report(summary.output)


def _command(plan: dict[str, Any]) -> str:
    """The command that repeats a run, without the paths of one machine."""
    configuration = plan["configuration"]
    parts = ["vigc", "generate", "IMAGES", "--output", "DIR", "--model", configuration["model"]]
    parts += ["--types", ",".join(configuration["types"]), "--seed", str(configuration["seed"])]
    parts += ["--dtype", configuration["dtype"], "--license", plan["license"]]
    if not configuration["correct"]:
        parts.append("--no-correct")
    for name, value in plan["settings"].items():
        option = name.replace("_", "-")
        if isinstance(value, bool):
            parts.append(f"--{option}" if value else f"--no-{option}")
        else:
            parts += [f"--{option}", str(value)]
    return shlex.join(parts)
