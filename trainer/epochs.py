"""Sampling order of each epoch, and callbacks for epochs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from vigc.errors import TrainingError
from vigc.processing.bounded_parsing import JsonObject

from .mixture import VigcMixture
from .run_fingerprint import recorded


class EpochSampler(torch.utils.data.Sampler):
    """Yields the (epoch, index) keys of one epoch, in an order that depends only on seed and epoch.

    Args:
        mixture: The samples, already shuffled by the mixture.
        group: Number of samples per step, to group samples of similar length into steps; 0 for no grouping.
    """

    # Samples are sorted within this many batches: enough for similar lengths, few enough to keep batches diverse.
    _SORTED_AT_ONCE = 50

    def __init__(self, mixture: VigcMixture, group: int = 0) -> None:
        self.mixture = mixture
        self.group = group
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.mixture)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = self._grouped() if self.group else range(len(self.mixture))
        return ((self.epoch, int(index)) for index in order)

    def _grouped(self) -> np.ndarray:
        lengths = self.mixture.lengths(self.epoch)
        part = self.group * self._SORTED_AT_ONCE
        order = np.concatenate(
            [
                start + np.argsort(-lengths[start : start + part], kind="stable")
                for start in range(0, len(lengths), part)
            ]
        )
        whole = len(order) // self.group * self.group
        batches = order[:whole].reshape(-1, self.group)
        # The longest batch first, so that out-of-memory errors occur at once; then random order; the remainder last.
        turns = np.random.default_rng([self.mixture.seed, self.epoch, 2]).permutation(len(batches))
        if len(batches):
            longest = int(lengths[batches].max(axis=1).argmax())
            turns = np.concatenate([[longest], turns[turns != longest]])
        return np.concatenate([batches[turns].ravel(), order[whole:]])


def epoch_sampler(mixture: VigcMixture, args: TrainingArguments) -> EpochSampler:
    """The sampler for `train_sampling_strategy`.

    Raises:
        ValueError: A mixture does not support the strategy.
    """
    strategy = args.train_sampling_strategy
    if strategy not in ("random", "group_by_length"):
        raise TrainingError(
            f"train_sampling_strategy={strategy!r} is not supported for a mixture: use 'random' or 'group_by_length'."
        )
    step = args.train_batch_size * args.world_size
    return EpochSampler(mixture, group=step if strategy == "group_by_length" else 0)


class EpochCallback(TrainerCallback):
    """Sets the sampler's epoch, measures image use before the first epoch, and restores the run's record on resuming.

    Args:
        trainer: A [`VigcTrainer`].
    """

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Measures image use; when resuming, restores the record instead."""
        record = self._trainer.record
        if state.global_step == 0:
            record.restore({"image_use": {}, "unreadable": []})
            self._trainer.note_image_use("before")
            return
        states = cast("JsonObject", state.stateful_callbacks)
        if saved := recorded(states):
            record.restore(saved)
        else:
            states[type(record).__name__] = record.state()  # HF's Trainer saves only states that it has loaded

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Warns about images that could not be opened."""
        self._trainer.note_unreadable()

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Warns about unreadable images, and shares them between processes."""
        self._trainer.note_unreadable(share=True)

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Sets the sampler's epoch."""
        if not isinstance(self._trainer.train_dataset, VigcMixture):
            return
        # An integer at the start of an epoch; fractional when resuming inside one.
        self._trainer.epoch_sampler.epoch = math.floor(state.epoch or 0)
