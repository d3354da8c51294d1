"""The Trainer for VIGC models."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from transformers import set_seed
from transformers.trainer_utils import EvalLoopOutput, TrainOutput

from vigc.errors import ImageError, TrainingError
from vigc.modeling_vigc import VigcForConditionalGeneration
from vigc.processing import VigcProcessor
from vigc.scenes import model_name

from .adapters import LoraSettings, choose_trained, hold_frozen_in, quantized
from .checkpoints import last_complete, weights_fingerprint
from .data_collator import Batch, VigcDataCollator
from .divergence import PLACES, FiniteCheck, PlacedCollator
from .epochs import EpochCallback, epoch_sampler
from .evaluation import (
    ImageUse,
    WrittenRow,
    check_metric,
    image_use,
    losses_by_group,
    row_losses,
    rows_with_other_pictures,
    sample_indices,
    say_image_use,
    write_rows,
)
from .mixture import EvaluationPairs, Sample, VigcMixture
from .rows import open_row_image
from .run_fingerprint import RunRecord, check_intact, check_same_run, describe_run
from .saving import UNNAMED, SavingTrainer
from .vigc_config import VigcTrainingArguments, learning_rate_factor
from .vision_cache import compute_features

logger = logging.getLogger(__name__)


class VigcTrainer(SavingTrainer):
    """A [`~transformers.Trainer`] that trains VIG and VIC as in the paper, with freezing, LoRA and its own evaluation.

    ```python
    trainer = VigcTrainer(model, args, train_dataset=VigcMixture([rows], seed=args.seed), processor=processor,
                          eval_dataset=EvaluationPairs([held_out]))
    trainer.train()
    trainer.save_final()
    ```

    Args:
        model: The model, changed in place: weights are frozen and LoRA is added according to `args`.
        args: The settings.
        train_dataset: The training samples.
        processor: The model's processor.
        eval_dataset: Held-out rows.
        data_collator: Collator for samples other than the [`Sample`]s of a mixture; by default [`VigcDataCollator`].
        compute_metrics: Computes metrics from the generated texts of each evaluation: it is called with a list of
            [`WrittenRow`], and returns numbers by name.
        kwargs: As in every Trainer.

    Raises:
        ValueError: The settings do not fit this model or its distribution over devices.
    """

    args: VigcTrainingArguments

    def __init__(
        self,
        model: VigcForConditionalGeneration,
        args: VigcTrainingArguments,
        train_dataset: torch.utils.data.Dataset | None = None,
        *,
        processor: VigcProcessor,
        eval_dataset: EvaluationPairs | None = None,
        data_collator: Callable[[list[Any]], dict[str, torch.Tensor]] | None = None,
        compute_metrics: Callable[[list[WrittenRow]], dict[str, float]] | None = None,
        **kwargs: Any,
    ) -> None:
        set_seed(args.seed)  # LoRA starts at random
        self.lora = None
        if args.lora_rank:
            self.lora = LoraSettings(args.lora_rank, args.lora_alpha, args.lora_dropout, tuple(args.lora_targets))
        # Names as in the state dict; those of a wrapped model's parameters may differ.
        self.trained = frozenset(choose_trained(model, args.freeze_policy, args.train_ln_vision, self.lora))
        self.trained_parameters = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
        if args.frozen_dtype is not None:
            hold_frozen_in(model, getattr(torch, args.frozen_dtype))
        if quantized(model):
            model._hf_peft_config_loaded = True  # the Trainer requires this for training on 4-bit weights
        source = str(model.config._name_or_path or UNNAMED)
        self.base, self.base_weights = model_name(source), weights_fingerprint(source)
        vars(model.config).pop(
            "trained_on", None
        )  # after training, the restriction to one kind of images no longer holds
        self.processor = processor
        self.collate = VigcDataCollator(processor) if data_collator is None else data_collator
        self.compute_written_metrics = compute_metrics
        self._micro_step = (-1, 0)  # optimizer step, and index of the backward pass in it
        super().__init__(
            model=model,
            args=args,
            data_collator=self.collate,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processor,
            **kwargs,
        )
        if self.is_fsdp_enabled and eval_dataset is not None and args.generation_samples:
            raise TrainingError(
                f"generation_samples={args.generation_samples}: texts cannot be generated with weights that are "
                "sharded over processes (FSDP). Set generation_samples=0."
            )
        self.finite = FiniteCheck(self)
        self.add_callback(self.finite)
        self.add_callback(RunRecord())
        self.add_callback(EpochCallback(self))

    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> TrainOutput:
        """As in every Trainer; `resume_from_checkpoint=True` resumes from the last complete checkpoint.

        Raises:
            DivergenceError: The loss, a gradient or a weight becomes NaN or infinite; the last good checkpoint stays.
            CheckpointError: The checkpoint is damaged.
            OSError: The disk is full: the same call resumes from the last checkpoint once there is room.
            TrainingError: There is no complete checkpoint (with True); the checkpoint is of a run with other data or
                settings; or metric_for_best_model is not a metric of the evaluation.
        """
        if resume_from_checkpoint is True:
            last = last_complete(str(self.args.output_dir))
            if last is None:
                raise TrainingError(
                    f"{self.args.output_dir} has no complete checkpoint to resume from: start without one."
                )
            resume_from_checkpoint = str(last)
        self._micro_step = (-1, 0)
        core = self.accelerator.unwrap_model(self.model)
        run = describe_run(
            self.args, self.train_dataset, self.base_weights or getattr(core.config, "_commit_hash", None)
        )
        if resume_from_checkpoint:
            check_intact(resume_from_checkpoint)
            check_same_run(resume_from_checkpoint, run)
        self.record.run = run
        if isinstance(self.eval_dataset, EvaluationPairs) and self.args.eval_strategy != "no":
            metric, writes = self.args.metric_for_best_model, self.args.generation_samples > 0
            check_metric(metric, self.eval_dataset, writes, self.compute_written_metrics)
        if self.args.image_features is not None:
            kept, quiet = (self.args.image_features, self.train_dataset), bool(self.args.disable_tqdm)
            compute_features(*kept, core, self.processor, self.accelerator, quiet)
        try:
            return super().train(resume_from_checkpoint, trial, ignore_keys_for_eval)
        except (ValueError, RuntimeError) as error:
            if not str(error).startswith("Caught ") or "in DataLoader worker" not in str(error):
                raise
            # torch uses the worker's traceback as message; the error is in its last line.
            raise TrainingError(str(error).rstrip().splitlines()[-1].partition(": ")[2]) from error

    # Data and steps

    def get_train_dataloader(self) -> torch.utils.data.DataLoader:
        """As in every Trainer; batches of a mixture also have the places of their rows."""
        plain, placed = self.data_collator, PlacedCollator(self.data_collator)
        self.data_collator = placed if isinstance(self.train_dataset, VigcMixture) else plain
        try:
            return super().get_train_dataloader()
        finally:
            self.data_collator = plain

    def _get_train_sampler(self, train_dataset: Any = None) -> torch.utils.data.Sampler | None:
        dataset = self.train_dataset if train_dataset is None else train_dataset
        if not isinstance(dataset, VigcMixture):
            return super()._get_train_sampler(train_dataset)
        self.epoch_sampler = epoch_sampler(dataset, self.args)
        return self.epoch_sampler

    def _get_eval_sampler(self, eval_dataset: Any) -> torch.utils.data.Sampler | None:
        # In order: the sampling strategy applies to training only.
        return None if isinstance(eval_dataset, EvaluationPairs) else super()._get_eval_sampler(eval_dataset)

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> LRScheduler:
        """The paper's schedule for "cosine"; other schedules are those of transformers."""
        if self.args.lr_scheduler_type != "cosine" or self.lr_scheduler is not None:
            return super().create_scheduler(num_training_steps, optimizer)
        factor = partial(
            learning_rate_factor,
            total=num_training_steps,
            warmup=self.args.get_warmup_steps(num_training_steps),
            start=self.args.warmup_learning_rate / self.args.learning_rate,
            end=self.args.min_learning_rate / self.args.learning_rate,
        )
        optimizer = self.optimizer if optimizer is None else optimizer
        assert optimizer is not None, "create_optimizer comes first"
        self.lr_scheduler = LambdaLR(optimizer, factor)
        self._created_lr_scheduler = True
        return self.lr_scheduler

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        # Otherwise a finished run whose steps end inside an epoch would make one more step.
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return
        super()._run_epoch(*args, **kwargs)

    def training_step(self, model: nn.Module, inputs: Batch, num_items_in_batch: Any = None) -> torch.Tensor:
        """As in every Trainer; dropout is seeded by seed, step and process, so that resuming is exact."""
        step, micro = self._micro_step
        micro = micro + 1 if step == self.state.global_step else 0
        self._micro_step = (self.state.global_step, micro)
        place = f"{self.args.seed}/{self.state.global_step}/{micro}/{self.args.process_index}"
        torch.manual_seed(int.from_bytes(hashlib.sha256(place.encode()).digest()[:4], "big"))
        places = inputs.pop(PLACES, None)
        loss = super().training_step(model, inputs, num_items_in_batch)
        self.finite.see(loss, places, first=micro == 0)
        return loss

    def compute_loss(
        self, model: nn.Module, inputs: Batch, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """As in every Trainer, but without dropout in frozen parts, and without unneeded logits."""
        core = self.accelerator.unwrap_model(self.model)
        for part in (core.vision_model, core.language_model):
            if part.training and not any(weight.requires_grad for weight in part.parameters()):
                part.eval()
        if not return_outputs and self.label_smoother is None:
            inputs = {**inputs, "skip_logits": True}
        return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

    def note_unreadable(self, share: bool = False) -> None:
        """Warns about rows whose images could not be opened, and adds them to the run's record.

        Args:
            share: Whether to share them between processes; then all processes must call this.
        """
        if not isinstance(self.train_dataset, VigcMixture):
            return
        record, rows = self.record, self.train_dataset.rows
        for part, row in self.train_dataset.unreadable():
            if [part, row] in record.unreadable:
                continue
            record.unreadable.append([part, row])
            try:
                open_row_image(rows[part][row])
                reason = "opens now, but did not when it was drawn"
            except ImageError as error:
                reason = str(error)
            logger.warning("Row %d of dataset %d: %s. Another row replaces it in training.", row, part, reason)
        if share:
            record.unreadable = sorted({tuple(place): place for place in gather_object(record.unreadable)}.values())

    # Evaluation

    def prediction_step(
        self,
        model: nn.Module,
        inputs: Batch,
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Loss of the batch, [`row_losses`] float (B, 2), and the rows' groups int64 (B,)."""
        inputs = self._prepare_inputs(inputs)
        groups = inputs.pop("groups", torch.zeros_like(inputs["labels"][:, 0]))
        sums = self._row_losses(model, inputs)
        return sums[:, 0].sum() / sums[:, 1].sum(), sums, groups

    def _row_losses(self, model: nn.Module, inputs: Batch) -> torch.Tensor:
        labels = inputs["labels"]
        with torch.no_grad(), self.compute_loss_context_manager():
            logits = model(**{name: value for name, value in inputs.items() if name != "labels"}).logits
        return row_losses(logits, labels)

    def evaluation_loop(
        self,
        dataloader: torch.utils.data.DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Adds losses by task and type, the share of well-formed pairs, and the caller's metrics of generated texts."""
        output = super().evaluation_loop(dataloader, description, False, ignore_keys, metric_key_prefix)
        pairs = dataloader.dataset
        if not isinstance(pairs, EvaluationPairs):
            return output
        figures = losses_by_group(np.asarray(output.predictions), np.asarray(output.label_ids), pairs.groups)
        if self.args.generation_samples:
            figures |= self._written_figures(self.write(pairs))
        added = {f"{metric_key_prefix}_{name}": float(value) for name, value in figures.items()}
        return output._replace(metrics={**(output.metrics or {}), **added})

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """As in every Trainer. The first evaluation in training also warns if the model does not use the images."""
        metrics = super().evaluate(*args, **kwargs)
        if self.is_in_train and self.image_use_after is None:
            self.note_image_use("after")
            if self.is_world_process_zero():
                say_image_use(self.image_use_before, self.image_use_after)
        return metrics

    def note_image_use(self, when: str) -> None:
        """Measures image use, and adds it to the run's record as "before" training or "after" the first evaluation."""
        if (measured := self.measure_image_use()) is not None:
            self.record.image_use[when] = asdict(measured)

    def write(self, pairs: EvaluationPairs) -> list[WrittenRow]:
        """Generates texts for the sampled rows, distributed over processes; every process returns all of them."""
        indices = sample_indices(len(pairs.rows), self.args.generation_samples, self.args.seed)
        model = self.accelerator.unwrap_model(self.model)
        training = model.training
        model.eval()
        with self.accelerator.autocast():  # generation does not use the wrapped `forward`, which has autocast
            written = write_rows(
                model,
                self.processor,
                pairs,
                indices[self.args.process_index :: self.args.world_size],
                batch_size=self.args.eval_batch_size,
                max_new_tokens=self.args.eval_max_new_tokens,
            )
        model.train(training)
        return sorted(gather_object(written), key=lambda row: row.index)

    def _written_figures(self, written: list[WrittenRow]) -> dict[str, float]:
        figures = {"well_formed": sum(row.question is not None for row in written) / len(written)}
        if self.compute_written_metrics is not None:
            figures |= self.compute_written_metrics(written)
        return figures

    def measure_image_use(self) -> ImageUse | None:
        """Loss with true and with swapped images on some evaluation rows; None if all rows have the same image."""
        pairs = self.eval_dataset
        if not self.args.image_use_rows or not isinstance(pairs, EvaluationPairs):
            return None
        places = rows_with_other_pictures(pairs, self.args.image_use_rows, self.args.seed)
        if len(places) < 2:
            logger.warning("All evaluation rows have the same image: image use cannot be measured.")
            return None
        samples = [pairs[place] for place in places]
        swapped = [
            replace(sample, image=samples[(index + 1) % len(samples)].image) for index, sample in enumerate(samples)
        ]
        return image_use(self._losses_of(samples), self._losses_of(swapped))

    def _losses_of(self, samples: list[Sample]) -> torch.Tensor:
        model = self.model_wrapped
        training = model.training
        model.eval()
        size, sums = self.args.per_device_eval_batch_size, []
        for start in range(0, len(samples), size):
            batch = self._prepare_inputs(self.collate(samples[start : start + size]))
            batch.pop("groups", None)
            sums.append(self._row_losses(model, batch).cpu())
        model.train(training)
        return torch.cat(sums)
