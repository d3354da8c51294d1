"""Runs a recipe: loads the data and the model, trains, and saves the trained model with its card."""

from __future__ import annotations

import hashlib
import logging
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import accumulate
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from transformers import Trainer, get_scheduler

from vigc.errors import TrainingError
from vigc.formats.annotations import read_annotations
from vigc.formats.chats import is_chat, training_chats
from vigc.formats.hf_datasets import load_rows
from vigc.hub.revisions import commit_of
from vigc.modeling_vigc import VigcConfig, VigcForConditionalGeneration
from vigc.processing import VigcProcessor
from vigc.processing.model_folder import loading_model

from .adapters import LoraSettings, choose_trained
from .checkpoints import is_trained_only, last_complete
from .data_collator import VigcDataCollator
from .epochs import epoch_sampler
from .evaluation import WrittenRow, check_metric
from .mixture import EvaluationPairs, VigcMixture
from .recipe import DataEntry, Recipe, read_recipe
from .rows import openable, readable
from .vigc_config import VigcTrainingArguments
from .vigc_trainer import VigcTrainer

logger = logging.getLogger(__name__)


@dataclass
class DryRun:
    """The result of a dry run: a summary of the run, and the problems that prevent it."""

    lines: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        problems = [f"missing: {problem}" for problem in dict.fromkeys(self.problems)]
        return "\n".join([*self.lines, *problems, "not ready" if problems else "ready to train"])


def train(
    recipe: str | Path,
    overrides: Sequence[str] = (),
    *,
    compute_metrics: Callable[[list[WrittenRow]], dict[str, float]] | None = None,
) -> VigcTrainer:
    """Trains according to a recipe, saves the model to its `output_dir`, and publishes it with `push_to_hub`.

    The same call resumes an interrupted run; for a finished run it saves the model again.

    Args:
        recipe: A YAML file, see [`~vigc.trainer.recipe`].
        overrides: Training arguments that override the recipe, such as `["--learning_rate", "1e-4"]`.
        compute_metrics: See [`VigcTrainer`].

    Raises:
        TrainingError: The recipe or the data is invalid or incomplete; or the output folder has checkpoints of another
            run, or damaged ones; or the loss is NaN or infinite.
        OSError: The disk is full: the same call resumes from the last checkpoint once there is room.
    """
    plan = read_recipe(recipe, overrides)
    args = plan.arguments
    checkpoint = _checkpoint(args)
    if problem := _model_problem(plan.model):
        raise TrainingError(problem)
    training, validation = load_data(plan)
    pinned: dict[str, str | None] = {"revision": commit_of(plan.model, plan.revision)}
    with loading_model(plan.model, TrainingError):
        processor = VigcProcessor.from_pretrained(plan.model, **pinned)
        model = load_model(plan.model, args, **pinned)
    trainer = VigcTrainer(
        model,
        args,
        mixture(plan, training, processor),
        processor=processor,
        eval_dataset=EvaluationPairs(validation, args.tasks) if validation else None,
        compute_metrics=compute_metrics,
    )
    trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_state()
    if args.push_to_hub:
        trainer.push_to_hub()  # also saves the model
    else:
        trainer.save_final()
    return trainer


def dry_run(
    recipe: str | Path,
    overrides: Sequence[str] = (),
    *,
    compute_metrics: Callable[[list[WrittenRow]], dict[str, float]] | None = None,
) -> DryRun:
    """Checks a recipe without training: arguments, paths, every entry of the data, evaluation images, and one batch.

    Args:
        recipe: A YAML file.
        overrides: As in [`train`].
        compute_metrics: As in [`train`].

    Raises:
        ValueError: The recipe or an entry of its data is invalid. Missing paths do not raise: the result lists them.
    """
    report = DryRun()
    if not torch.accelerator.is_available():
        overrides = [*overrides, "--use_cpu", "true"]
        report.lines.append("no accelerator found: arguments are checked for a CPU")
    plan = read_recipe(recipe, overrides)
    for entry in (*plan.data, *plan.validation_data):
        report.problems += _absent(entry)
    libraries = {"peft": plan.arguments.lora_rank > 0, "bitsandbytes": plan.arguments.load_in_4bit}
    report.problems += [f"library {name}" for name, needed in libraries.items() if needed and find_spec(name) is None]
    try:
        with loading_model(plan.model, TrainingError):
            pinned: dict[str, Any] = {"revision": commit_of(plan.model, plan.revision)}
            config = VigcConfig.from_pretrained(plan.model, **pinned)
            processor = VigcProcessor.from_pretrained(plan.model, **pinned)
    except TrainingError as error:
        report.problems.append(str(error))
    report.problems += [problem] if (problem := _model_problem(plan.model)) else []
    if report.problems:
        return report
    training, validation = load_data(plan)
    samples = mixture(plan, training, processor)
    for entry, rows, count in zip(plan.data, training, samples.counts, strict=True):
        report.lines.append(f"{entry.name}: {len(rows):,} rows, {count:,} samples per epoch")
    report.lines.append(f"validation: {sum(map(len, validation)):,} rows")
    report.lines.append(_model_summary(config, plan.arguments))
    report.lines.append(_steps_summary(plan.arguments, len(samples)))
    _check_settings(plan.arguments, samples)
    collate = VigcDataCollator(processor)
    if validation:
        pairs, writes = EvaluationPairs(validation, plan.arguments.tasks), plan.arguments.generation_samples > 0
        if plan.arguments.eval_strategy != "no":
            check_metric(plan.arguments.metric_for_best_model, pairs, writes, compute_metrics)
        collate([pairs[len(pairs.tasks) * start] for start in _starts(validation)])
    # One sample of each dataset besides the first two: an error in a dataset usually affects all of its rows.
    first = np.unique(samples.plan(0)[:, 0], return_index=True)[1].tolist()
    collate([samples[0, index] for index in first])
    batch = collate([samples[0, index] for index in range(min(2, len(samples)))])
    report.lines.append("first samples: " + ", ".join(f"{name} {tuple(one.shape)}" for name, one in batch.items()))
    return report


def _starts(parts: Sequence[datasets.Dataset]) -> list[int]:
    """The start index of each dataset after concatenation."""
    return [0, *accumulate(map(len, parts))][:-1]


def load_data(plan: Recipe) -> tuple[list[datasets.Dataset], list[datasets.Dataset]]:
    """Loads training and validation rows of each dataset. Held-out rows are removed from the training rows.

    Images of validation rows are opened here; rows whose image cannot be opened are skipped with a warning.
    """
    training = [readable(_load(entry), index) for index, entry in enumerate(plan.data)]
    validation = [readable(_load(entry), index) for index, entry in enumerate(plan.validation_data)]
    if plan.validation_rows > 0:
        held_out = _images_held_out(training, plan.validation_rows, plan.arguments.seed)
        sides: list[list[datasets.Dataset]] = [[], []]
        for entry, rows in zip(plan.data, training, strict=True):
            places: list[list[int]] = [[], []]
            for index, image_id in enumerate(rows["image_id"]):
                places[image_id in held_out].append(index)
            if not places[0]:
                raise TrainingError(
                    f"validation_rows={plan.validation_rows} leaves {entry.name} none of its {len(rows)} rows to train "
                    "on: give a smaller number, or validation_data."
                )
            for side, indices in zip(sides, places, strict=True):
                side += [rows.select(indices)] if indices else []
        training, validation = sides[0], validation + sides[1]
    return training, [openable(rows) for rows in validation]


def load_model(name: str, args: VigcTrainingArguments, revision: str | None = None) -> VigcForConditionalGeneration:
    """Loads the base model in float32. Frozen weights are rounded later, when it is known which they are.

    With `load_in_4bit` the layers of the language model are quantized here. `revision` is a commit on the Hub.
    """
    kwargs: dict[str, Any] = {"revision": revision}
    if args.load_in_4bit:
        from transformers import BitsAndBytesConfig

        kwargs["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
            # Only layers of the language model: the other parts are small or trained.
            llm_int8_skip_modules=["vision_model", "qformer", "language_projection", "lm_head"],
        )
    model = VigcForConditionalGeneration.from_pretrained(name, dtype=torch.float32, **kwargs)
    model.config._commit_hash = revision  # for checkpoints and card; not stored in the model's files
    return model


def mixture(plan: Recipe, rows: list[datasets.Dataset], processor: VigcProcessor) -> VigcMixture:
    """The training samples of a recipe."""
    args, size = plan.arguments, processor.image_processor.size
    weights = [entry.weight for entry in plan.data if entry.weight is not None]
    return VigcMixture(
        rows,
        seed=args.seed,
        weights=weights or None,
        samples_per_epoch=args.samples_per_epoch,
        tasks=args.tasks,
        prefix_probability=args.prefix_probability,
        image_size=(size["width"], size["height"]) if args.augment else None,
        min_crop=args.min_crop,
    )


def _load(entry: DataEntry) -> datasets.Dataset:
    if entry.dataset is not None:
        images = () if entry.images is None else (entry.images,)
        loaded = load_rows(entry.dataset, entry.config, split=entry.split, revision=entry.revision, images=images)
        if not is_chat(loaded.column_names):
            return loaded
        place = Path(entry.dataset)
        root = place if place.is_dir() else place.parent if place.is_file() else None
        return training_chats(loaded, type=entry.type, name=entry.source or place.name, root=root)
    rows, _ = read_annotations(
        list(entry.files),
        str(entry.images),
        layout=str(entry.layout),
        type=entry.type,
        source=entry.source,
        license=entry.license,
    )
    return rows


def _images_held_out(parts: list[datasets.Dataset], wanted: int, seed: int) -> set[str]:
    """Ids of random images that together have at least `wanted` rows in all datasets."""
    if not all("image_id" in rows.column_names for rows in parts):
        raise TrainingError("validation_rows needs a column image_id in every dataset: give validation_data instead.")
    counts = Counter(image_id for rows in parts for image_id in rows["image_id"])
    held_out: set[str] = set()
    found = 0
    for image_id in sorted(counts, key=lambda one: hashlib.sha256(f"{seed}/validation/{one}".encode()).digest()):
        if found >= wanted:
            break
        held_out.add(image_id)
        found += counts[image_id]
    return held_out


def _checkpoint(args: VigcTrainingArguments) -> str | None:
    """The checkpoint to resume from: the last one, unless `resume_from_checkpoint` names another, or is "none"."""
    last = last_complete(str(args.output_dir))
    requested = args.resume_from_checkpoint
    if requested == "none":
        if last is not None:
            raise TrainingError(
                f"{args.output_dir} already has {last.name}: give another --output_dir, or resume without "
                "--resume_from_checkpoint none."
            )
        return None
    if requested in (None, "", "last", "true", "True", True):
        if last is not None:
            logger.warning("Resuming from %s.", last)
        elif requested not in (None, ""):
            logger.warning("%s has no checkpoint: training starts from the beginning.", args.output_dir)
        return str(last) if last else None
    if not Path(str(requested)).is_dir():
        raise TrainingError(f"resume_from_checkpoint={requested!r} is not a folder: name a checkpoint, or give 'last'.")
    return str(requested)


def _model_problem(name: str) -> str | None:
    """Why training cannot start from a folder; None if it has a whole model, and for names on the Hub."""
    if not Path(name).is_dir() or any(Path(name).glob("model*.safetensors*")):
        return None
    if is_trained_only(name):
        return (
            f"model {name!r} has only trained weights: vigc.trainer.merge_trained({name!r}, FOLDER) saves the whole "
            "model, which can be trained further."
        )
    return f"model {name!r}: the folder has no model*.safetensors"


def _check_settings(args: VigcTrainingArguments, samples: VigcMixture) -> None:
    """Creates the Trainer's sampler, optimizer and scheduler; `ValueError` or `ImportError` if a setting is invalid."""
    epoch_sampler(samples, args)
    Trainer.get_optimizer_cls_and_kwargs(args)
    if args.lr_scheduler_type != "cosine":
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=args.learning_rate)
        total = _steps(args, len(samples))[1]
        given = {"num_warmup_steps": args.get_warmup_steps(total), "num_training_steps": total}
        own: Any = args.lr_scheduler_kwargs
        try:
            get_scheduler(args.lr_scheduler_type, optimizer, scheduler_specific_kwargs=own, **given)
        except (TypeError, ValueError) as error:
            raise TrainingError(f"lr_scheduler_type={args.lr_scheduler_type!r}: {error}") from error


def _absent(entry: DataEntry) -> list[str]:
    if entry.dataset is not None:
        # Other names may be datasets on the Hub, which only loading can check.
        looks_local = entry.dataset.startswith((".", "/")) or entry.dataset.count("/") > 1
        return [f"dataset {entry.dataset}"] if looks_local and not Path(entry.dataset).exists() else []
    absent = [f"file {path}" for path in entry.files if not Path(path).is_file()]
    return absent + ([] if Path(str(entry.images)).is_dir() else [f"image folder {entry.images}"])


def _model_summary(config: VigcConfig, args: VigcTrainingArguments) -> str:
    with torch.device("meta"):
        model = VigcForConditionalGeneration(config)
    lora = None
    if args.lora_rank:
        lora = LoraSettings(args.lora_rank, args.lora_alpha, args.lora_dropout, tuple(args.lora_targets))
    choose_trained(model, args.freeze_policy, args.train_ln_vision, lora)
    weights = list(model.parameters())
    trained = sum(weight.numel() for weight in weights if weight.requires_grad)
    return f"model: {trained:,} of {sum(weight.numel() for weight in weights):,} parameters are trained"


def _steps(args: VigcTrainingArguments, samples: int) -> tuple[int, int, int]:
    """(optimizer steps per epoch, optimizer steps in total, samples per step)."""
    batch = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
    steps = math.ceil(samples / batch)
    total = args.max_steps if args.max_steps > 0 else math.ceil(steps * args.num_train_epochs)
    return steps, total, batch


def _steps_summary(args: VigcTrainingArguments, samples: int) -> str:
    steps, total, batch = _steps(args, samples)
    shared = f" over {args.world_size} processes" if args.world_size > 1 else " on one process"
    return f"steps: {steps:,} per epoch of {samples:,} samples, {total:,} in all, batch {batch}{shared}"
