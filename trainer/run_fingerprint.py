"""What a run notes of itself, so that it can go on as the same run."""

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

# What steps depend on. How batches are split, what is evaluated and where files go may change on the way.
_DECIDING = (
    "seed", "learning_rate", "min_learning_rate", "warmup_learning_rate", "lr_scheduler_type", "warmup_steps",
    "weight_decay", "max_grad_norm", "freeze_policy", "train_ln_vision", "lora_rank", "lora_alpha", "lora_dropout",
    "lora_targets", "load_in_4bit", "frozen_dtype", "bf16", "fp16", "train_sampling_strategy",
)  # fmt: skip
# What only moves the schedule's end: a run may be made longer.
_LENGTH = ("num_train_epochs", "max_steps")


class RunRecord(TrainerCallback, ExportableState):
    """Travels with every checkpoint, in its `trainer_state.json`.

    Attributes:
        run: What the run is, of [`describe_run`].
        image_use: The checks of pictures "before" training and "after" its first evaluation, as far as made.
        unreadable: (data set, row) of rows whose pictures could not be opened.

    In a checkpoint it also holds the hashes of the checkpoint's files, of its state and of itself.
    """

    def __init__(self) -> None:
        self.run: JsonObject = {}
        self.image_use: dict[str, JsonObject] = {}
        self.unreadable: list[list[int]] = []
        self._checkpoint: tuple[Path, TrainerState] | None = None

    @contextmanager
    def of_checkpoint(self, folder: Path, state: TrainerState) -> Iterator[None]:
        """While a checkpoint is written, whose state is written last: the record holds the hashes of its files."""
        self._checkpoint = (folder, state)
        try:
            yield
        finally:
            self._checkpoint = None

    def state(self) -> JsonObject:
        """As HF's Trainer writes and restores it."""
        attributes: JsonObject = {"run": self.run, "image_use": self.image_use, "unreadable": self.unreadable}
        if self._checkpoint is not None:
            folder, state = self._checkpoint
            attributes[FILES] = file_hashes(folder)
            attributes[STATE_HASH] = state_hash(asdict(state), attributes)
        return {"args": {}, "attributes": attributes}

    def go_on(self, saved: Mapping[str, Any]) -> None:
        """Takes what was measured and met before; the run's description stays its own."""
        self.image_use, self.unreadable = saved["image_use"], saved["unreadable"]


def recorded(state: Mapping[str, Any]) -> JsonObject | None:
    """The attributes of a checkpoint's [`RunRecord`], by the checkpoint's callback states; None without one."""
    found = state.get(RunRecord.__name__)
    return found["attributes"] if found else None


def check_intact(checkpoint: str | Path, names: str = "*") -> None:
    """Compares a checkpoint's files with the hashes that were recorded when they were written.

    Args:
        checkpoint: Its folder; one that was written without hashes passes.
        names: Which files, as a pattern.

    Raises:
        CheckpointError: A file is missing, cut or altered. The error names it and the latest earlier checkpoint that
            is as it was written.
    """
    folder = Path(checkpoint)
    if (said := damage(folder, recorded, names)) is None:
        return
    good = next((one for one in earlier_than(folder) if damage(one, recorded) is None), None)
    fix = "no earlier checkpoint there is intact: start again in another output_dir"
    if good is not None:
        fix = f"delete this checkpoint and resume from {good}, which is intact (--resume_from_checkpoint {good})"
    raise CheckpointError(f"The checkpoint {folder} is damaged: {said}. Bring the file back, or {fix}.")


def describe_run(args: VigcTrainingArguments, samples: Any, base: str | None) -> JsonObject:
    """What decides the steps of a run: settings, samples, and the model it started from.

    Args:
        args: Its settings.
        samples: What it is trained on; of anything but a [`VigcMixture`] nothing is known.
        base: What tells that model from others: a commit or a fingerprint of its weights.
    """
    said = {name: getattr(args, name) for name in (*_DECIDING, *_LENGTH)}
    said["lr_scheduler_type"] = str(getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type))
    said["optim"] = OptimizerNames(args.optim).value
    said["batch"] = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
    said["model"] = base
    if isinstance(samples, VigcMixture):
        for name in ("samples_per_epoch", "tasks", "prefix_probability", "image_size", "min_crop"):
            said[name] = getattr(samples, name)
        for index, (rows, count) in enumerate(zip(samples.rows, samples.counts, strict=True)):
            said |= {
                f"data[{index}]: source": source_of(rows),
                f"data[{index}]: rows": len(rows),
                f"data[{index}]: samples per epoch": count,
                f"data[{index}]: texts": _digest(rows),
            }
    return parse_json(json.dumps(said))


def check_same_run(checkpoint: str | Path, now: Mapping[str, Any]) -> None:
    """Compares a checkpoint's run with this one.

    Raises:
        ValueError: Another one; what differs is listed.
    """
    state = read_json(Path(checkpoint) / "trainer_state.json")
    then = (recorded(state.get("stateful_callbacks") or {}) or {}).get("run")
    if not then:
        return
    changes = list(_changes(then, now))
    if other := [said for name, said in changes if name not in _LENGTH]:
        raise TrainingError(
            f"{checkpoint} is of another run: {'; '.join(other)}. Go on with what it had, or start anew in another "
            "output_dir."
        )
    if changes:
        said = "; ".join(said for _, said in changes)
        logger.warning("The learning rate follows another schedule than before %s: %s.", checkpoint, said)


def _changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name in dict.fromkeys([*then, *now]):
        if then.get(name) != now.get(name):
            yield name, f"{name} was {then.get(name)!r} and is {now.get(name)!r}"


def _digest(rows: datasets.Dataset) -> str:
    """16 hexadecimal digits that change with questions, answers, and whose picture they are about."""
    wanted = ("image_id", "type", "question", "answers", "answer", "weights")
    total = hashlib.sha256()
    for batch in rows.select_columns([name for name in wanted if name in rows.column_names]).iter(1000):
        if not any(batch.get("weights", ())):
            batch.pop("weights", None)  # rows without weights have the digest that they had before there were any
        total.update(json.dumps(batch, sort_keys=True).encode())
    return total.hexdigest()[:16]
