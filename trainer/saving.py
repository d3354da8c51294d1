"""What a Trainer of VIGC models writes: checkpoints of what is trained, and in the end a model with its card."""

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
    """The half of [`VigcTrainer`] that writes and reads folders; the other one sets what it needs to know.

    Attributes:
        base: Name or folder of the model that training started from; `UNNAMED` if it was never in one.
        base_weights: Of a folder: what tells its weights from others.
        trained: Names of the trained weights, as the model's state dict has them.
        trained_parameters: How many numbers they hold.
        lora: Settings of LoRA's layers, if the model has any.
        processor: The model's.
        finite: Looks for losses, gradients and weights that are no numbers.
    """

    args: VigcTrainingArguments
    base: str
    base_weights: str | None
    trained: frozenset[str]
    trained_parameters: int
    lora: LoraSettings | None
    processor: VigcProcessor
    finite: FiniteCheck
    # Whether folders get the whole model; None: as `save_only_trained` says.
    _writes_whole: bool | None = None

    @property
    def record(self) -> RunRecord:
        """What the run noted of itself."""
        return next(one for one in self.callback_handler.callbacks if isinstance(one, RunRecord))

    @property
    def image_use_before(self) -> ImageUse | None:
        """The check of pictures before training, if it was made."""
        return self._image_use("before")

    @property
    def image_use_after(self) -> ImageUse | None:
        """The same after the first evaluation."""
        return self._image_use("after")

    def _image_use(self, when: str) -> ImageUse | None:
        measured = self.record.image_use.get(when)
        return ImageUse(**measured) if measured else None

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        # The arguments are saved too, in a folder that may be published.
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
            (folder / STATE).unlink(missing_ok=True)  # what is written over is complete again when this is there
        with self.record.of_checkpoint(folder, self.state), disk_errors(folder):
            super()._save_checkpoint(model, trial)

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        self.accelerator.wait_for_everyone()  # hashes are taken next, of what all processes wrote

    def save_state(self) -> None:
        """As every Trainer's; the hashes of the last checkpoint, which are not of this folder's files, stay there."""
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
        """Writes the trained model with its processor and card: whole, LoRA merged, unless `final_weights="trained"`.

        What was held in half precision is taken from the model that training started from, as that has it, so that
        only what was trained differs. Otherwise LoRA's layers are merged here, which ends their training.

        Raises:
            DivergenceError: A trained weight is NaN or infinite; nothing is written.
            OSError: The disk is full, or gone.
            ValueError: The model that training started from is gone or another one; what was trained is then in
                `output_dir`, and `merge_trained(output_dir, ..., base=...)` makes the whole of it.
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
            # Internal: with push_to_hub, a user's call publishes, which comes back here.
            self.save_model(str(folder), _internal_call=True)
        finally:
            self._writes_whole = None

    def _complete(self, folder: Path) -> None:
        """Lays the trained weights of `folder` over the model they started from, and leaves the whole one there."""
        here = self.accelerator.unwrap_model(self.model)
        whole = None if self.base == UNNAMED else load_trained(folder)[0]
        if whole is None or not (self.is_fsdp_enabled or _same_frozen(here, whole)):
            logger.warning(
                "The model that was trained is not that of %s: what is frozen is written as %s rounded it.",
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
        """Writes the trained model with its card and publishes the folder as `vigc push` does, private by default.

        Raises:
            ValueError: A revision, or what would change the card, is given.
            PushError: Something keeps it from the Hub; the model is in `output_dir`.
        """
        if revision is not None or kwargs:
            raise TrainingError(f"push_to_hub publishes main, with our card: drop {', '.join(['revision', *kwargs])}.")
        folder, args = self.save_final(), self.args
        if not self.is_world_process_zero():
            return None
        repo = self.hub_model_id or args.hub_model_id or folder.resolve().name
        public = not (args.hub_private_repo if private is None else private)
        return push_folder(folder, repo, public=public, token=token or args.hub_token, message=commit_message)

    def write_card(self, folder: Path) -> Path:
        """The model's card: what it was trained on, how, and the figures of these weights where they were evaluated."""
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
        """Of the evaluation at the step that the weights are of: the best checkpoint's, if it was loaded, or the last.

        Steps between two evaluations have none, and those of the evaluation before would be another model's.
        """
        best = self.state.best_model_checkpoint if self.args.load_best_model_at_end else None
        step = self.state.global_step if best is None else int(Path(best).name.rsplit("-", 1)[1])
        evaluations = [entry for entry in self.state.log_history if "eval_loss" in entry and entry["step"] == step]
        return evaluations[-1] if evaluations else {}


def _same_frozen(held: VigcForConditionalGeneration, exact: VigcForConditionalGeneration) -> bool:
    """Whether frozen weights, as they are held, are those of `exact` but for rounding."""
    weights = dict(exact.named_parameters())
    return all(
        torch.equal(weight.cpu(), weights[name].to(weight.dtype))
        for name, weight in held.named_parameters()
        if not weight.requires_grad and name in weights  # below LoRA they have other names
    )
