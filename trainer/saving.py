"""Saving in the Trainer for VIGC models: checkpoints of trained weights, and the final model with its card."""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import Trainer
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from vigc.errors import TrainingError
from vigc.hub import push_folder
from vigc.hub_cards import write_trained_model_card
from vigc.modeling_vigc import VigcForConditionalGeneration
from vigc.processing import VigcProcessor
from vigc.processing.bounded_parsing import JsonObject

from .adapters import LoraSettings, merge_lora
from .checkpoints import discard_trained, is_trained_only, lay_over, load_trained, save_trained
from .disk import disk_errors
from .divergence import FiniteCheck
from .evaluation import ImageUse
from .intact import FILES, STATE, STATE_HASH, loading
from .mixture import VigcMixture
from .rows import source_of
from .run_fingerprint import RunRecord, check_intact, recorded
from .vigc_config import VigcTrainingArguments, settings_said

logger = logging.getLogger(__name__)

UNNAMED = "(unnamed)"


class SavingTrainer(Trainer):
    """The part of [`VigcTrainer`] that saves and loads folders; the subclass sets the attributes.

    Attributes:
        base: Name or folder of the base model; `UNNAMED` if it was never saved.
        base_weights: For a folder, the fingerprint of its weights.
        trained: Names of the trained weights in the model's state dict.
        trained_parameters: Number of trained parameters.
        lora: Settings of the LoRA layers, if any.
        processor: The model's processor.
        finite: Checks that losses, gradients and weights are finite.
    """

    args: VigcTrainingArguments
    base: str
    base_weights: str | None
    trained: frozenset[str]
    trained_parameters: int
    lora: LoraSettings | None
    processor: VigcProcessor
    finite: FiniteCheck
    # Whether to save the whole model; None: determined by `save_only_trained`.
    _writes_whole: bool | None = None

    @property
    def record(self) -> RunRecord:
        """The record of the run."""
        return next(one for one in self.callback_handler.callbacks if isinstance(one, RunRecord))

    @property
    def image_use_before(self) -> ImageUse | None:
        """Image use before training; None if not measured."""
        return self._image_use("before")

    @property
    def image_use_after(self) -> ImageUse | None:
        """Image use after the first evaluation; None if not measured."""
        return self._image_use("after")

    def _image_use(self, when: str) -> ImageUse | None:
        measured = self.record.image_use.get(when)
        return ImageUse(**measured) if measured else None

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        # The arguments are saved in a folder that may be published: the token must not be among them.
        token, self.args.hub_token = self.args.hub_token, None
        try:
            self._save_weights(output_dir, state_dict)
        finally:
            self.args.hub_token = token

    def _save_weights(self, output_dir: str | None, state_dict: dict | None) -> None:
        if not self.args.save_only_trained if self._writes_whole is None else self._writes_whole:
            super()._save(output_dir, state_dict)
            return
        if not self.args.should_save:
            return
        folder = Path(output_dir or str(self.args.output_dir))
        model = self.accelerator.unwrap_model(self.model)
        state = model.state_dict() if state_dict is None else state_dict
        trained = {name: weight for name, weight in state.items() if name in self.trained}
        save_trained(folder, model, trained, base=self.base, base_weights=self.base_weights, lora=self.lora)
        self.processor.save_pretrained(folder)
        torch.save(self.args, folder / "training_args.bin")

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        self.finite.check_weights()
        folder = Path(self._get_output_dir(trial=trial)) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        if self.args.should_save:
            (folder / STATE).unlink(missing_ok=True)  # written last: marks the checkpoint as complete
        with self.record.of_checkpoint(folder, self.state), disk_errors(folder):
            super()._save_checkpoint(model, trial)

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        self.accelerator.wait_for_everyone()  # the files of all processes are hashed next

    def save_state(self) -> None:
        """As in every Trainer, but without the hashes of the last checkpoint, which do not apply to this folder."""
        record = recorded(cast("JsonObject", self.state.stateful_callbacks))
        for name in (FILES, STATE_HASH):
            (record or {}).pop(name, None)
        super().save_state()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if self.is_fsdp_enabled or not is_trained_only(resume_from_checkpoint):
            with loading(resume_from_checkpoint):
                super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            lay_over(self.accelerator.unwrap_model(self.model), resume_from_checkpoint)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with loading(checkpoint):
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with loading(checkpoint):
            super()._load_rng_state(checkpoint)

    def _load_best_model(self) -> None:
        best = str(self.state.best_model_checkpoint)
        check_intact(best, "*.safetensors")
        if self.is_fsdp_enabled or self.is_deepspeed_enabled or not is_trained_only(best):
            super()._load_best_model()
        else:
            lay_over(self.accelerator.unwrap_model(self.model), best)

    def save_final(self, output_dir: str | Path | None = None) -> Path:
        """Saves the trained model with its processor and card: the whole model with LoRA merged, by default.

        With `final_weights="trained"` only the trained weights are saved. If `frozen_dtype` rounded the frozen weights,
        they are read from the base model again, in its own precision. Otherwise LoRA is merged into the model in memory
        and cannot be trained further.

        Raises:
            DivergenceError: A trained weight is NaN or infinite; nothing is saved.
            OSError: The disk is full or unavailable.
            ValueError: The base model is missing or has changed. The trained weights are then in `output_dir`, and
                `merge_trained(output_dir, ..., base=...)` makes the whole model.
        """
        folder = Path(output_dir or str(self.args.output_dir))
        self.finite.check_weights()
        with disk_errors(folder):
            self._save_final(folder)
        return folder

    def _save_final(self, folder: Path) -> None:
        rounded = self.args.frozen_dtype is not None
        if self.args.final_weights == "trained" or rounded:
            self._write(folder, whole=False)
        if self.args.final_weights == "whole" and rounded:
            if self.args.should_save:
                self._complete(folder)
            self.accelerator.wait_for_everyone()
        elif self.args.final_weights == "whole":
            if self.lora is not None:
                if self.is_fsdp_enabled:
                    raise TrainingError("LoRA cannot be merged while weights are sharded: set final_weights='trained'.")
                merge_lora(self.accelerator.unwrap_model(self.model))
            self._write(folder, whole=True)
        if self.args.should_save:
            self.write_card(folder)

    def _write(self, folder: Path, *, whole: bool) -> None:
        self._writes_whole = whole
        try:
            # Internal: with push_to_hub, other calls would publish, which calls this method again.
            self.save_model(str(folder), _internal_call=True)
        finally:
            self._writes_whole = None

    def _complete(self, folder: Path) -> None:
        """Replaces the trained weights in `folder` by the whole model: base model and trained weights."""
        here = self.accelerator.unwrap_model(self.model)
        whole = None if self.base == UNNAMED else load_trained(folder)[0]
        if whole is None or not (self.is_fsdp_enabled or _same_frozen(here, whole)):
            logger.warning(
                "The trained model is not based on %s: frozen weights are saved as rounded to %s.",
                self.base,
                self.args.frozen_dtype,
            )
            whole = here.float()
            merge_lora(whole)
        whole.save_pretrained(folder)
        discard_trained(folder)

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """Saves the trained model with its card and publishes the folder like `vigc push`, private by default.

        Raises:
            ValueError: A revision, or an argument for the card, is given.
            PushError: The model cannot be published; it is in `output_dir`.
        """
        if revision is not None or kwargs:
            raise TrainingError(
                f"push_to_hub publishes to main, with our card: drop {', '.join(['revision', *kwargs])}."
            )
        folder, args = self.save_final(), self.args
        if not self.is_world_process_zero():
            return None
        repo = self.hub_model_id or args.hub_model_id or folder.resolve().name
        public = not (args.hub_private_repo if private is None else private)
        return push_folder(folder, repo, public=public, token=token or args.hub_token, message=commit_message)

    def write_card(self, folder: Path) -> Path:
        """Writes the model's card: training data, settings, and the metrics of these weights if they were evaluated."""
        dataset, measured = self.train_dataset, self.image_use_after or self.image_use_before
        parts = zip(dataset.rows, dataset.counts, strict=True) if isinstance(dataset, VigcMixture) else ()
        return write_trained_model_card(
            folder,
            base=self.base,
            base_revision=getattr(self.accelerator.unwrap_model(self.model).config, "_commit_hash", None),
            whole=self.args.final_weights == "whole",
            data=[(source_of(rows), len(rows), count) for rows, count in parts],
            settings=settings_said(self.args),
            trained_parameters=self.trained_parameters,
            steps=self.state.global_step,
            epochs=self.state.epoch or 0,
            figures=self._figures(),
            unreadable=len(self.record.unreadable),
            image_use=asdict(measured) if measured else None,
        )

    def _figures(self) -> JsonObject:
        """Metrics of the evaluation at the step of these weights: that of the best checkpoint if loaded, else the last.

        Empty for a step without evaluation, because earlier metrics belong to other weights.
        """
        best = self.state.best_model_checkpoint if self.args.load_best_model_at_end else None
        step = self.state.global_step if best is None else int(Path(best).name.rsplit("-", 1)[1])
        evaluations = [entry for entry in self.state.log_history if "eval_loss" in entry and entry["step"] == step]
        return evaluations[-1] if evaluations else {}


def _same_frozen(held: VigcForConditionalGeneration, exact: VigcForConditionalGeneration) -> bool:
    """Whether the frozen weights are equal to those of `exact`, rounded."""
    weights = dict(exact.named_parameters())
    return all(
        torch.equal(weight.cpu(), weights[name].to(weight.dtype))
        for name, weight in held.named_parameters()
        if not weight.requires_grad and name in weights  # inside LoRA layers they have other names
    )
