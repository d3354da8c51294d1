"""The order of samples, epoch by epoch."""

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
    """The (epoch, index) places of one epoch, in an order that depends on seed and epoch alone.

    Args:
        mixture: The samples, which the mixture has already shuffled.
        group: Samples of one step, if each step should have samples of about one length; 0 takes them as they come.
    """

    # Enough batches to sort among that lengths agree, few enough that each holds all sorts of samples.
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
        # The longest first, so that too little memory shows at once; the rest in random order; what is left over last.
        turns = np.random.default_rng([self.mixture.seed, self.epoch, 2]).permutation(len(batches))
        if len(batches):
            longest = int(lengths[batches].max(axis=1).argmax())
            turns = np.concatenate([[longest], turns[turns != longest]])
        return np.concatenate([batches[turns].ravel(), order[whole:]])


def epoch_sampler(mixture: VigcMixture, args: TrainingArguments) -> EpochSampler:
    """The sampler of a run's strategy.

    Raises:
        ValueError: A strategy that is not one of a mixture's.
    """
    strategy = args.train_sampling_strategy
    if strategy not in ("random", "group_by_length"):
        raise TrainingError(
            f"train_sampling_strategy={strategy!r}: a mixture is drawn at 'random' or by 'group_by_length'."
        )
    step = args.train_batch_size * args.world_size
    return EpochSampler(mixture, group=step if strategy == "group_by_length" else 0)


class EpochCallback(TrainerCallback):
    """Tells the sampler which epoch begins, checks the use of pictures before the first, and reads what a run noted.

    Args:
        trainer: A [`VigcTrainer`].
    """

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Measures the use of pictures, or, where training goes on, takes what was measured."""
        record = self._trainer.record
        if state.global_step == 0:
            record.go_on({"image_use": {}, "unreadable": []})
            self._trainer.note_image_use("before")
            return
        states = cast("JsonObject", state.stateful_callbacks)
        if saved := recorded(states):
            record.go_on(saved)
        else:
            states[type(record).__name__] = record.state()  # HF's Trainer writes only those that it has read

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Says which pictures could not be opened."""
        self._trainer.note_unreadable()

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """The same, and tells the other processes."""
        self._trainer.note_unreadable(share=True)

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Sets the sampler's epoch."""
        if not isinstance(self._trainer.train_dataset, VigcMixture):
            return
        # A whole number at the start of an epoch, and between two where training goes on amid one.
        self._trainer.epoch_sampler.epoch = math.floor(state.epoch or 0)
