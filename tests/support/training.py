"""Short training runs for the tests; as a script, one run in a process of its own (torchrun starts several)."""

import hashlib
import json
import os
import signal
import sys
from pathlib import Path

import torch
from datasets import Dataset
from transformers import TrainerCallback

from vigc.modeling_vigc import VigcConfig, VigcForConditionalGeneration
from vigc.processing import TRAIN_FEATURES, VigcProcessor
from vigc.trainer import EvaluationPairs, VigcMixture, VigcTrainer, VigcTrainingArguments

# Training arguments of a recipe that ends after two steps.
QUICK = {
    "max_steps": 2, "warmup_steps": 0, "use_cpu": True, "bf16": False, "frozen_dtype": None, "report_to": "none",
    "dataloader_num_workers": 0, "generation_samples": 0, "image_use_rows": 0, "per_device_train_batch_size": 2,
}  # fmt: skip
QUESTIONS = ("What is on the left?", "What does the image show?", "Is there a circle?", "Which color is it?")
LONG = ("The image shows two shapes. There is a blue circle on the left. It is about 2.5 units wide.",)
SHORT = ("a black square", "circle", "circle", "a red triangle")


def rows_of(images, kind, count, first=0) -> Dataset:
    """Rows about the golden pictures: of long-answer types one answer, of the others four."""
    paths = sorted(Path(images).glob("*.png"))
    rows = [
        {
            "image": {"path": str(paths[index % len(paths)]), "bytes": None},
            "image_id": paths[index % len(paths)].stem,
            "type": kind,
            "question": QUESTIONS[index % len(QUESTIONS)],
            "answers": list(SHORT if kind == "okvqa" else LONG),
            "weights": None,
            "source": f"small-{kind}",
            "license": None,
            "conversation_id": f"{kind}/{index}",
            "turn": 0,
            "extra": "{}",
        }
        for index in range(first, first + count)
    ]
    return Dataset.from_list(rows, features=TRAIN_FEATURES)


def load_model(folder, dropout: bool = True) -> VigcForConditionalGeneration:
    config = VigcConfig.from_pretrained(folder)
    if not dropout:
        config.qformer_config.hidden_dropout_prob = config.qformer_config.attention_probs_dropout_prob = 0.0
    return VigcForConditionalGeneration.from_pretrained(folder, config=config, dtype=torch.float32)


def make_trainer(
    folder, images, output, *, dropout=True, evaluated=True, mixture=None, callbacks=None, **settings
) -> VigcTrainer:
    """A run of two epochs of 12 samples from two data sets."""
    defaults = {
        "per_device_train_batch_size": 4, "num_train_epochs": 2, "warmup_steps": 2, "learning_rate": 1e-3,
        "logging_steps": 1, "report_to": "none", "use_cpu": True, "generation_samples": 0, "image_use_rows": 0,
        "disable_tqdm": True,
    }  # fmt: skip
    if not evaluated:
        defaults |= {"eval_strategy": "no", "load_best_model_at_end": False}
    args = VigcTrainingArguments(output_dir=str(output), **{**defaults, **settings})
    rows = [rows_of(images, "detail", 8), rows_of(images, "okvqa", 4, first=3)]
    samples = {"seed": args.seed, "samples_per_epoch": 12, "image_size": (56, 56), "prefix_probability": 0.5}
    return VigcTrainer(
        load_model(folder, dropout),
        args,
        VigcMixture(rows, **{**samples, **(mixture or {})}),
        processor=VigcProcessor.from_pretrained(folder),
        eval_dataset=EvaluationPairs([rows_of(images, "detail", 3), rows_of(images, "okvqa", 2)])
        if evaluated
        else None,
        callbacks=callbacks,
    )


def digest(state) -> str:
    """sha256 over names, shapes and bits of weights."""
    total = hashlib.sha256()
    for name, weight in sorted(state):
        total.update(f"{name}{tuple(weight.shape)}{weight.dtype}".encode())
        total.update(weight.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def file_digest(path) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


class Kill(TrainerCallback):
    """Ends the process as a power cut would, right after a step and its checkpoint."""

    def __init__(self, step):
        self.step = step

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    options = json.loads(sys.argv[1])
    resume, kill = options.pop("resume", None), options.pop("kill", None)
    trainer = make_trainer(**options)
    if kill is not None:
        trainer.add_callback(Kill(kill))
    trainer.train(resume_from_checkpoint=resume)
    metrics = trainer.evaluate() if options.get("evaluated", True) else {}
    if trainer.is_world_process_zero():
        result = {
            "losses": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
            "eval": {name: value for name, value in metrics.items() if "loss" in name or "well" in name},
            "weights": digest(trainer.model.named_parameters()),
            "processes": trainer.args.world_size,
        }
        Path(options["output"], "result.json").write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main()
