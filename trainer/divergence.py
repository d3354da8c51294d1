"""Divergence checks: training ends if the loss, a gradient or a weight is NaN or infinite."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from vigc.errors import DivergenceError

from .checkpoints import last_complete
from .data_collator import Batch
from .mixture import Sample, VigcMixture
from .rows import row_name

# The most rows of a batch that an error names.
_NAMED = 64
PLACES = "places"


@dataclass
class PlacedCollator:
    """Adds `places`, int64 (B, 2), to a batch: (dataset, row) of each sample, so that errors can name them.

    Args:
        collate: The collator for the rest of the batch.
    """

    collate: Callable[[list[Any]], Any]

    def __call__(self, samples: list[Any]) -> Batch:
        """The batch of `collate`, with `places` if all samples have theirs."""
        batch = dict(self.collate(samples))
        places = [sample.place for sample in samples if isinstance(sample, Sample) and sample.place is not None]
        return {**batch, PLACES: torch.tensor(places)} if len(places) == len(samples) else batch


class FiniteCheck(TrainerCallback):
    """Checks the loss of every batch, and the gradients of every step before they are applied.

    Args:
        trainer: A [`VigcTrainer`].
    """

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer
        self._places: list[torch.Tensor] = []

    def see(self, loss: torch.Tensor, places: torch.Tensor | None, *, first: bool) -> None:
        """Checks the loss of a batch; `first` marks the first batch of a step.

        Raises:
            DivergenceError: The loss is NaN or infinite. The error names the step and the rows of the batch.
        """
        if first:
            self._places.clear()
        here = [] if places is None else [places]
        self._places += here
        if not torch.isfinite(loss).all():
            raise self._error(f"the loss is {loss.item()}", here)

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Checks the gradients, except with fp16, where overflows are normal and the scaler skips the step."""
        if self._trainer.accelerator.scaler is not None:
            return
        weights = [(name, weight.grad) for name, weight in self._trainer.model.named_parameters()]
        if first_not_finite((name, grad) for name, grad in weights if grad is not None) is not None:
            raise self._error("a gradient is NaN or infinite", self._places)

    def check_weights(self) -> None:
        """Checks the trained weights before they are saved.

        Raises:
            DivergenceError: A weight is NaN or infinite.
        """
        trained = ((name, one.detach()) for name, one in self._trainer.model.named_parameters() if one.requires_grad)
        if (name := first_not_finite(trained)) is not None:
            raise self._error(f"{name} is NaN or infinite, so nothing is saved", self._places, after=True)

    def _error(self, what: str, places: Sequence[torch.Tensor], after: bool = False) -> DivergenceError:
        trainer, args = self._trainer, self._trainer.args
        step = trainer.state.global_step + (0 if after else 1)
        last = last_complete(str(args.output_dir))
        kept = "there is no earlier checkpoint"
        if last is not None:
            whole = f"{last} itself" if not args.save_only_trained else f"merge_trained({str(last)!r}, FOLDER)"
            kept = f"{last} is the last good checkpoint; to continue with other settings, start from {whole}"
        ways = (
            f"lower learning_rate ({args.learning_rate:g}), or clip gradients (max_grad_norm, {args.max_grad_norm:g})"
        )
        ways += ", or use bf16 instead of fp16" if args.fp16 else ""
        rows = describe_batch(trainer.train_dataset, [place for part in places for place in part.tolist()])
        return DivergenceError(f"Step {step:,}: {what}. Batch: {rows}. Check these rows, {ways}; {kept}.")


def first_not_finite(tensors: Iterable[tuple[str, torch.Tensor]]) -> str | None:
    """The name of the first tensor with a NaN or infinite value; None if all are finite."""
    named = list(tensors)
    floating = [one for _, one in named if one.is_floating_point()]
    # The maximum norm: unlike a sum of squares, it cannot overflow.
    if not floating or _is_finite(torch.nn.utils.get_total_norm(floating, norm_type=float("inf"))):
        return None
    return next(name for name, one in named if one.numel() and not _is_finite(one.abs().max()))


def _is_finite(value: Any) -> bool:
    whole = value.full_tensor() if hasattr(value, "full_tensor") else value  # weights sharded over processes
    return bool(torch.isfinite(whole))


def describe_batch(samples: Any, places: Sequence[Sequence[int]]) -> str:
    """The rows of a batch, by data set: index and id."""
    if not places or not isinstance(samples, VigcMixture):
        return "its rows are unknown, because train_dataset is not a VigcMixture"
    names = []
    for part, row in list(dict.fromkeys((int(part), int(row)) for part, row in places))[:_NAMED]:
        names.append(f"row {row} of dataset {part} ({row_name(samples.rows[part].remove_columns('image')[row])})")
    more = len(set(map(tuple, places))) - len(names)
    return ", ".join(names) + (f" and {more} more" if more > 0 else "")
