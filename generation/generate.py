"""The main job: pictures become a dataset of instruction rows."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from vigc.processing import INSTRUCTION_TYPES

from . import job as jobs
from . import ledger
from .errors import GenerationError
from .finish import Summary, summarize, write_ending
from .job import Share
from .loading import Loader
from .models import WritingModel, check_settings, effective_settings, load_model
from .plan import Selection, make_plan
from .shards import MakeShard, ShardOutput
from .short_answers import read_first_words, takes_short_answers
from .sources import Collection, Folder, Source
from .sources_json import Annotated, LlavaPictures
from .worker import Worker, finish_reject, finish_row

DEFAULT_TYPES = ("conversation", "detail", "complex")
FORMATS = ("folder", "coco", "objects365", "dataset", "llava")


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
    format: str = "folder",
    image_root: str | os.PathLike[str] | None = None,
    subset: str | None = None,
    split: str = "train",
    exclude_ids: Sequence[str | os.PathLike[str]] = (),
    exclude_images: Sequence[str | os.PathLike[str]] = (),
    dedup: bool = False,
    questions: int = 1,
    retries: int = 2,
    score: bool = False,
    answers: int = 0,
    answer_threshold: float = 0.0,
    first_words: str | os.PathLike[str] | None = None,
    store: str = "embed",
    rank: int = 0,
    world_size: int = 1,
    **loading: Any,
) -> Summary:
    """Writes questions and corrected answers about pictures, as a dataset folder that `load_dataset` reads.

    A job that was interrupted goes on where it was when it is called again; a finished one is left alone.

    Args:
        images: What `format` says: a folder of pictures, searched with its sub-folders, or one picture; an annotation
            file; a dataset.
        output: The folder to write: new, empty, or with this job in it.
        model: A folder, a Hub name, or a model object (then with `processor`).
        processor: By default the model's own.
        types: The types of instruction to write about every picture.
        batch_size: Texts written at a time, and pictures read at a time; greedy decoding in float32 writes the same
            texts with any.
        shard_size: Pictures per parquet file, which is also what an interruption costs at most.
        limit: Only the first so many pictures.
        seed: Decides, with a row's id, what is drawn where decoding samples.
        correct: Whether VIC corrects the drafts; without it the answer is the draft.
        settings: Decoding and `iqf_*` settings, as `model.generate` takes them, that are not the model's own.
        license: Licence of pictures that do not state their own.
        overwrite: Replace another dataset in `output`, or a finished one. An unfinished job of these settings goes on.
        format: "folder", "coco" or "objects365" (annotations), "llava" (a conversation file), or "dataset" (parquet
            files, a dataset's folder or its Hub name).
        image_root: With an annotation or conversation file: the folder that its file names are relative to; by
            default the file's own.
        subset: Of a dataset: its configuration.
        split: Of a dataset: its split.
        exclude_ids: Files of ids or names (text, or JSON of any known form) of pictures to leave out.
        exclude_images: Folders of pictures; what looks like one of them is left out.
        dedup: Find exact copies in the whole job by a hash pass, not only within a shard.
        questions: How many questions of each type to ask about a picture, all different.
        retries: How often a text that is no pair is drawn again before it is set aside.
        score: Whether to compute `visual_dependency`, two more passes over each answer.
        answers: For types with short answers: how many, with weights; 0 writes one as for the other types.
        answer_threshold: The least weight of an answer, of 100.
        first_words: For types with short answers: a JSON file that says how often each word begins a question.
        store: "embed" puts pictures into the rows, "path" the paths of their files.
        rank: Of several processes that share the job: which this is.
        world_size: How many there are.
        loading: `dtype`, `device`, `revision`, `trust_remote_code`: see [`load_model`].

    Returns:
        Counts over the whole folder, what was set aside and why, and sample rows.

    Raises:
        GenerationError: Input, settings or folders that cannot be worked with; its `exit_code` says of which kind.
    """
    started = time.monotonic()
    folder, settings, share = Path(output), dict(settings or {}), Share(rank, world_size)
    _check(types, store, batch_size=batch_size, shard_size=shard_size, limit=limit, questions=questions)
    check_settings(settings, correct)
    collection = open_collection(Path(images), format, image_root, subset=subset, split=split)
    selection = Selection(
        collection,
        [Path(path) for path in exclude_ids],
        [Path(path) for path in exclude_images],
        dedup,
        limit,
        shard_size,
    )
    short = short_answer_settings(types, answers, answer_threshold, first_words)
    with jobs.alone(folder, share):
        loaded = load_model(model, processor, **loading)
        configuration = {
            **written_by(loaded),
            "types": list(types),
            "correct": correct,
            "seed": seed,
            "questions": questions,
            "retries": retries,
            "score": score,
            "short_answers": short,
            **effective_settings(loaded.model, settings, correct),
        }
        plan = make_plan(
            "generate",
            configuration,
            settings=settings,
            source=collection.name,
            license=license,
            job={**job_facts(loaded, batch_size, shard_size, limit, store), **collection.facts, "dedup": dedup},
        )

        def maker(plan: dict[str, Any]) -> MakeShard:
            return _maker(loaded, plan, collection, batch_size, store)

        return run_job(folder, plan, selection, share, maker, overwrite=overwrite, started=started)


def run_job(
    folder: Path,
    plan: dict[str, Any],
    selection: Selection,
    share: Share,
    maker: Callable[[dict[str, Any]], MakeShard],
    *,
    overwrite: bool,
    started: float,
) -> Summary:
    """Does a share of a job in a folder that is held: plan, shards, and the end if this share is the last."""
    existed = (folder / ledger.SHARDS).is_dir()
    plan = jobs.settle_plan(folder, plan, selection, overwrite=overwrite)
    idle = ledger.is_finished(folder, plan["fingerprint"]) and not jobs.missing_shards(folder, plan)
    if not idle:
        jobs.run_shards(folder, plan, share, maker(plan))
    finished = jobs.finish(folder, plan, lambda: write_ending(folder, plan))
    summary = summarize(folder, plan, 0 if finished else jobs.missing_shards(folder, plan))
    summary.idle, summary.resumed = idle, existed and not idle
    summary.seconds = time.monotonic() - started
    return summary


def _check(types: Sequence[str], store: str, **counts: int | None) -> None:
    if isinstance(types, str):
        raise GenerationError(f"types={types!r} is one string: give a list of types.")
    unknown = [kind for kind in types if kind not in INSTRUCTION_TYPES]
    if unknown or not types:
        given = ", ".join(map(repr, unknown)) or "no type"
        raise GenerationError(f"Types: {given} is not known: use one or more of {', '.join(INSTRUCTION_TYPES)}.")
    if len(set(types)) < len(types):
        raise GenerationError(f"Types: {', '.join(types)} names one twice: give each once.")
    check_counts(store, **counts)


def check_counts(store: str, **counts: int | None) -> None:
    """Raises a `GenerationError` for a count below one, or another way to store pictures than there is."""
    for name, value in counts.items():
        if value is not None and value < 1:
            raise GenerationError(f"{name}={value} is too small: give at least 1.")
    if store not in ("embed", "path"):
        raise GenerationError(f"store={store!r} is not known: use 'embed' or 'path'.")


def short_answer_settings(
    types: Sequence[str], answers: int, threshold: float, first_words: str | os.PathLike[str] | None
) -> dict[str, Any] | None:
    """The settings of questions with several answers, or None; refused where no type has short answers."""
    if not answers:
        if threshold or first_words:
            raise GenerationError("A threshold and first words are for several answers: give --answers too.")
        return None
    if answers < 0:
        raise GenerationError(f"answers={answers} is too small: give at least 1.")
    if not any(takes_short_answers(kind) for kind in types):
        raise GenerationError(f"None of {', '.join(types)} has short answers: several are for okvqa, aokvqa, vqav2.")
    words = None if first_words is None else read_first_words(Path(first_words))
    return {"count": answers, "threshold": threshold, "first_words": words}


def open_collection(
    images: Path,
    format: str,
    image_root: str | os.PathLike[str] | None = None,
    *,
    subset: str | None = None,
    split: str = "train",
) -> Collection:
    """The inputs of a job, by their format.

    Raises:
        GenerationError: They cannot be read, or the format is not known.
    """
    root = Path(image_root) if image_root is not None else images.parent
    if format == "folder":
        return Folder(images)
    if format in ("coco", "objects365"):
        return Annotated(images, root, format)
    if format == "llava":
        return LlavaPictures(images, root)
    if format == "dataset":
        from .sources_dataset import DatasetRows

        return DatasetRows(str(images), subset=subset, split=split)
    raise GenerationError(f"Format {format!r} is not known: use one of {', '.join(FORMATS)}.")


def written_by(loaded: WritingModel) -> dict[str, Any]:
    """What names the model in a configuration."""
    dtype = str(loaded.model.dtype).removeprefix("torch.")
    return {"model": loaded.name, "revision": loaded.revision, "dtype": dtype}


def job_facts(loaded: WritingModel, batch_size: int, shard_size: int, limit: int | None, store: str) -> dict[str, Any]:
    """What decides what a folder holds to the last bit, beside the configuration and the inputs."""
    device = str(loaded.model.device.type)
    return {"batch_size": batch_size, "shard_size": shard_size, "limit": limit, "images": store, "device": device}


def constants(loaded: WritingModel, plan: dict[str, Any]) -> dict[str, str]:
    """Columns that are the same in every row."""
    return {
        "source": plan["source"],
        "license": plan["license"],
        "model": loaded.name,
        "config_hash": plan["config_hash"],
    }


def _maker(
    loaded: WritingModel, plan: dict[str, Any], collection: Collection, batch_size: int, store: str
) -> MakeShard:
    worker = Worker(
        loaded.model,
        loaded.processor,
        configuration=plan["configuration"],
        settings=plan["settings"],
        constants=constants(loaded, plan),
        slots=batch_size,
    )
    loader = Loader(collection, worker.prepare, batch_size, embed=store == "embed")

    def make(sources: list[Source], say: Callable[[str], Any]) -> ShardOutput:
        output = ShardOutput()
        halved, items = worker.fitting.halved, []
        rows, rejects = [], []
        for batch, work in worker.write(loader.batches(sources, output.skipped)):
            rows += work.rows
            rejects += work.rejects
            output.dropped += work.dropped
            items += batch
            say(f"{len(items)} of {len(sources)} pictures")
        # Only now is it known which pictures have copies.
        output.rows = [finish_row(item, row) for item, row in rows]
        output.rejects = [finish_reject(item, record) for item, record in rejects]
        output.images, output.duplicates = len(items), sum(len(item.same) for item in items)
        output.halved = worker.fitting.halved - halved
        return output

    return make
