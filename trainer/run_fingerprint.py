"""The record of a run in its checkpoints, which ensures that it is resumed as the same run."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import datasets
from transformers import TrainerCallback, TrainerState
from transformers.trainer_callback import ExportableState
from transformers.training_args import OptimizerNames

from vigc.errors import CheckpointError, TrainingError
from vigc.processing.bounded_parsing import JsonObject, parse_json, read_json

from .intact import FILES, STATE_HASH, damage, earlier_than, file_hashes, state_hash
from .mixture import VigcMixture
from .rows import source_of
from .vigc_config import VigcTrainingArguments

logger = logging.getLogger(__name__)

# Settings that determine the training steps. The split of batches, evaluation and output paths may change on resuming.
_DECIDING = (
    "seed", "learning_rate", "min_learning_rate", "warmup_learning_rate", "lr_scheduler_type", "warmup_steps",
    "weight_decay", "max_grad_norm", "freeze_policy", "train_ln_vision", "lora_rank", "lora_alpha", "lora_dropout",
    "lora_targets", "load_in_4bit", "frozen_dtype", "bf16", "fp16", "train_sampling_strategy",
)  # fmt: skip
# Settings that only change the length of the schedule: a run may be extended.
_LENGTH = ("num_train_epochs", "max_steps")


class RunRecord(TrainerCallback, ExportableState):
    """The record of a run, saved in the `trainer_state.json` of every checkpoint.

    In a checkpoint the record also has the hashes of the checkpoint's files, of its state and of itself.

    Attributes:
        run: The description of the run, from [`describe_run`].
        image_use: Image use "before" training and "after" the first evaluation, if measured.
        unreadable: (dataset, row) of rows whose images could not be opened.
    """

    def __init__(self) -> None:
        self.run: JsonObject = {}
        self.image_use: dict[str, JsonObject] = {}
        self.unreadable: list[list[int]] = []
        self._checkpoint: tuple[Path, TrainerState] | None = None

    @contextmanager
    def of_checkpoint(self, folder: Path, state: TrainerState) -> Iterator[None]:
        """While a checkpoint is saved, adds hashes of its files to the record. The state is saved last."""
        self._checkpoint = (folder, state)
        try:
            yield
        finally:
            self._checkpoint = None

    def state(self) -> JsonObject:
        """The state in the form that HF's Trainer saves and restores."""
        attributes: JsonObject = {"run": self.run, "image_use": self.image_use, "unreadable": self.unreadable}
        if self._checkpoint is not None:
            folder, state = self._checkpoint
            attributes[FILES] = file_hashes(folder)
            attributes[STATE_HASH] = state_hash(asdict(state), attributes)
        return {"args": {}, "attributes": attributes}

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Restores the measurements and unreadable rows of a checkpoint, but not its description of the run."""
        self.image_use, self.unreadable = saved["image_use"], saved["unreadable"]


def recorded(state: Mapping[str, Any]) -> JsonObject | None:
    """The attributes of the [`RunRecord`] among a checkpoint's callback states; None if there is none."""
    found = state.get(RunRecord.__name__)
    return found["attributes"] if found else None


def check_intact(checkpoint: str | Path, names: str = "*") -> None:
    """Compares a checkpoint's files with their recorded hashes.

    Args:
        checkpoint: The checkpoint's folder. A checkpoint without hashes is accepted.
        names: Pattern of the files to check.

    Raises:
        CheckpointError: A file is missing, truncated or changed. The error names it and the latest intact checkpoint
            before this one.
    """
    folder = Path(checkpoint)
    if (problem := damage(folder, recorded, names)) is None:
        return
    good = next((one for one in earlier_than(folder) if damage(one, recorded) is None), None)
    fix = "start again in another output_dir, because no earlier checkpoint is intact"
    if good is not None:
        fix = f"delete this checkpoint and resume from {good}, which is intact (--resume_from_checkpoint {good})"
    raise CheckpointError(f"The checkpoint {folder} is damaged: {problem}. Restore the file, or {fix}.")


def describe_run(args: VigcTrainingArguments, samples: Any, base: str | None) -> JsonObject:
    """Describes everything that determines the steps of a run: settings, samples and base model.

    Args:
        args: The settings.
        samples: The training samples; only a [`VigcMixture`] is described.
        base: The commit, or the fingerprint of the weights, of the base model.
    """
    run = {name: getattr(args, name) for name in (*_DECIDING, *_LENGTH)}
    run["lr_scheduler_type"] = str(getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type))
    run["optim"] = OptimizerNames(args.optim).value
    run["batch"] = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
    run["model"] = base
    if isinstance(samples, VigcMixture):
        for name in ("samples_per_epoch", "tasks", "prefix_probability", "image_size", "min_crop"):
            run[name] = getattr(samples, name)
        for index, (rows, count) in enumerate(zip(samples.rows, samples.counts, strict=True)):
            run |= {
                f"data[{index}]: source": source_of(rows),
                f"data[{index}]: rows": len(rows),
                f"data[{index}]: samples per epoch": count,
                f"data[{index}]: texts": _digest(rows),
            }
    return parse_json(json.dumps(run))


def check_same_run(checkpoint: str | Path, now: Mapping[str, Any]) -> None:
    """Checks that a checkpoint belongs to this run.

    Raises:
        ValueError: It belongs to another run; the message lists the differences.
    """
    state = read_json(Path(checkpoint) / "trainer_state.json")
    then = (recorded(state.get("stateful_callbacks") or {}) or {}).get("run")
    if not then:
        return
    changes = list(_changes(then, now))
    if other := [change for name, change in changes if name not in _LENGTH]:
        raise TrainingError(
            f"{checkpoint} is of another run: {'; '.join(other)}. Resume with the same settings and data, or start a "
            "new run in another output_dir."
        )
    if changes:
        listed = "; ".join(change for _, change in changes)
        logger.warning("The learning rate follows another schedule than before %s: %s.", checkpoint, listed)


def _changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name in dict.fromkeys([*then, *now]):
        if then.get(name) != now.get(name):
            yield name, f"{name} was {then.get(name)!r} and is {now.get(name)!r}"


def _digest(rows: datasets.Dataset) -> str:
    """16 hexadecimal digits, a hash of the questions, answers and image ids."""
    wanted = ("image_id", "type", "question", "answers", "answer", "weights")
    total = hashlib.sha256()
    for batch in rows.select_columns([name for name in wanted if name in rows.column_names]).iter(1000):
        if not any(batch.get("weights", ())):
            batch.pop("weights", None)  # the digest of rows without weights predates weights
        total.update(json.dumps(batch, sort_keys=True).encode())
    return total.hexdigest()[:16]
