"""Training arguments: those of transformers with the paper's values as defaults, and VIGC's own."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from transformers import TrainingArguments
from transformers.training_args import OptimizerNames

from vigc.errors import TrainingError
from vigc.processing.bounded_parsing import JsonObject

FREEZE_POLICIES = ("paper", "none", "all")
FINAL_WEIGHTS = ("whole", "trained")


@dataclass
class VigcTrainingArguments(TrainingArguments):
    """[`~transformers.TrainingArguments`] with the paper's values as defaults, and VIGC's own settings.

    The paper trains for 10 epochs with batches of 64 and AdamW. The learning rate rises from 1e-6 to 3e-5 in 1,000
    steps and falls to 1e-5 along a cosine; weight decay is 0.05, without norms and biases; the best epoch is kept. The
    default batch of 64 is for one device: with more, set `per_device_train_batch_size` so that its product with the
    number of devices and `gradient_accumulation_steps` is 64.

    Raises:
        ValueError: A value is out of range, or two values contradict each other; the message names them and the fix.
    """

    num_train_epochs: float = field(default=10, metadata={"help": "Number of epochs."})
    per_device_train_batch_size: int = field(default=64, metadata={"help": "Samples per device and backward pass."})
    per_device_eval_batch_size: int = field(default=16, metadata={"help": "Samples per device in evaluation."})
    learning_rate: float = field(default=3e-5, metadata={"help": "The highest learning rate."})
    lr_scheduler_type: str = field(
        default="cosine",
        metadata={
            "help": "'cosine': warmup_learning_rate, learning_rate, min_learning_rate; others as in transformers."
        },
    )
    warmup_steps: float = field(default=1000, metadata={"help": "Warm-up steps; below 1, their share of all steps."})
    weight_decay: float = field(default=0.05, metadata={"help": "Weight decay of all weights except norms and biases."})
    max_grad_norm: float = field(default=0.0, metadata={"help": "Gradients are clipped to this norm; 0: no clipping."})
    eval_strategy: str = field(default="epoch", metadata={"help": "When to evaluate: no, steps, epoch."})
    save_strategy: str = field(default="epoch", metadata={"help": "When to save: no, steps, epoch, best."})
    save_total_limit: int | None = field(default=2, metadata={"help": "How many checkpoints to keep."})
    load_best_model_at_end: bool = field(default=True, metadata={"help": "End with the best checkpoint."})
    metric_for_best_model: str | None = field(default="loss", metadata={"help": "Metric for the best checkpoint."})
    greater_is_better: bool | None = field(default=False, metadata={"help": "Whether higher is better."})
    remove_unused_columns: bool = field(
        default=False, metadata={"help": "Keep False: samples are not columns of model inputs."}
    )
    logging_steps: float = field(default=50, metadata={"help": "Log every N steps."})

    min_learning_rate: float = field(default=1e-5, metadata={"help": "Learning rate at the end of 'cosine'."})
    warmup_learning_rate: float = field(default=1e-6, metadata={"help": "Learning rate at the start of 'cosine'."})

    freeze_policy: str = field(
        default="paper",
        metadata={
            "help": "'paper' trains Q-Former, queries and projection; 'none' trains everything; 'all' only LoRA.",
            "choices": FREEZE_POLICIES,
        },
    )
    train_ln_vision: bool = field(default=False, metadata={"help": "Also train the LayerNorm after the ViT."})
    frozen_dtype: str | None = field(
        default=None,
        metadata={"help": "Dtype of frozen weights, 'bfloat16' or 'float16' (use with bf16 or fp16); None: as loaded."},
    )
    lora_rank: int = field(default=0, metadata={"help": "Rank of LoRA on the language model; 0: no LoRA."})
    lora_alpha: int = field(default=16, metadata={"help": "LoRA alpha: the scale of LoRA times its rank."})
    lora_dropout: float = field(default=0.1, metadata={"help": "LoRA's dropout."})
    lora_targets: list[str] = field(
        default_factory=lambda: ["q_proj", "k_proj", "v_proj", "o_proj"],
        metadata={"help": "Linear layers of the language model with LoRA."},
    )
    load_in_4bit: bool = field(
        default=False, metadata={"help": "QLoRA: load the language model in 4 bits (needs bitsandbytes)."}
    )

    tasks: list[str] = field(
        default_factory=lambda: ["vig", "vic"],
        metadata={"help": "The tasks that each row is trained as, equally often."},
    )
    samples_per_epoch: int | None = field(
        default=None, metadata={"help": "Samples per epoch; None: the number of rows."}
    )
    prefix_probability: float = field(
        default=0.0,
        metadata={"help": "How often VIC gets an answer's first sentences and learns the rest. Not in the paper."},
    )
    augment: bool = field(default=True, metadata={"help": "Random resized crop and flip of training images."})
    min_crop: float = field(default=0.5, metadata={"help": "The smallest area ratio of a random crop."})
    hub_strategy: str = field(
        default="end", metadata={"help": "With push_to_hub: 'end' publishes the finished model, and no checkpoint."}
    )
    image_features: str | None = field(
        default=None,
        metadata={"help": "Folder to cache the frozen ViT's outputs in, computed once per image; needs augment=False."},
    )

    save_only_trained: bool = field(
        default=True,
        metadata={"help": "Checkpoints have only trained weights, without the base model."},
    )
    final_weights: str = field(
        default="whole",
        metadata={"help": "At the end save the 'whole' model with LoRA merged, or only 'trained' weights.",
                  "choices": FINAL_WEIGHTS},
    )  # fmt: skip
    generation_samples: int = field(
        default=64, metadata={"help": "Rows that an evaluation generates texts for; 0: losses only."}
    )
    eval_max_new_tokens: int = field(
        default=249, metadata={"help": "Longest text generated in an evaluation, in tokens."}
    )
    image_use_rows: int = field(
        default=64,
        metadata={"help": "Rows to measure image use on (loss with true and swapped images); 0: not measured."},
    )

    def __post_init__(self) -> None:
        self._check()
        if self.ddp_find_unused_parameters is None:
            # With the paper's policy all trained weights get gradients in every step, so no search is needed.
            self.ddp_find_unused_parameters = self.freeze_policy == "none"
        if self.hub_private_repo is None:
            self.hub_private_repo = True  # publishing must be a decision, not a default
        super().__post_init__()
        if self.deepspeed is not None and self.hf_deepspeed_config.is_zero3():
            raise TrainingError(
                f"deepspeed={self.deepspeed!r} is stage 3, which shards weights before it is known which are trained: "
                "use stage 2 (recipes/deepspeed/zero2.json), or FSDP for models that one device cannot hold."
            )

    def _check(self) -> None:
        _refuse(
            self.freeze_policy not in FREEZE_POLICIES,
            f"freeze_policy={self.freeze_policy!r} is not known: use {', '.join(map(repr, FREEZE_POLICIES))}.",
        )
        _refuse(
            self.freeze_policy == "all" and not self.lora_rank,
            "freeze_policy='all' without LoRA trains nothing: set lora_rank, or use freeze_policy='paper'.",
        )
        _refuse(
            self.load_in_4bit and not self.lora_rank,
            "load_in_4bit=True is for QLoRA: weights of 4 bits cannot be trained, set lora_rank too.",
        )
        _refuse(
            self.lora_rank > 0 and self.freeze_policy == "none",
            "freeze_policy='none' trains every weight: LoRA on top is of no use, set lora_rank=0 or another policy.",
        )
        _refuse(
            self.frozen_dtype not in (None, "bfloat16", "float16"),
            f"frozen_dtype={self.frozen_dtype!r} is not known: use 'bfloat16', 'float16' or nothing.",
        )
        _refuse(
            self.frozen_dtype is not None and not (self.bf16 or self.fp16),
            f"frozen_dtype={self.frozen_dtype!r} without mixed precision: set bf16=True (or fp16=True) too.",
        )
        _refuse(
            self.image_features is not None and self.augment,
            f"image_features={self.image_features!r} with augment=True: the features of random crops cannot be cached. "
            "Set augment=False, or image_features=None.",
        )
        _refuse(
            self.image_features is not None and (self.freeze_policy == "none" or self.train_ln_vision),
            f"image_features={self.image_features!r}, but the ViT is trained: its outputs change with every step. Set "
            "freeze_policy='paper' and train_ln_vision=False, or image_features=None.",
        )
        _refuse(
            not self.tasks or not set(self.tasks) <= {"vig", "vic"} or len(set(self.tasks)) < len(self.tasks),
            f"tasks={self.tasks!r}: give 'vig', 'vic' or both.",
        )
        self._check_saving()
        self._check_numbers()

    def _check_saving(self) -> None:
        _refuse(
            self.lora_rank > 0 and not self.save_only_trained,
            "save_only_trained=False with LoRA: checkpoints have only trained weights, the final model is merged. "
            "Keep save_only_trained=True.",
        )
        _refuse(
            self.final_weights not in FINAL_WEIGHTS,
            f"final_weights={self.final_weights!r} is not known: use {', '.join(map(repr, FINAL_WEIGHTS))}.",
        )
        _refuse(
            self.load_in_4bit and self.final_weights == "whole",
            "final_weights='whole' with load_in_4bit=True would merge LoRA into rounded weights: use "
            "final_weights='trained', and merge_trained over the full base afterwards.",
        )
        _refuse(
            self.push_to_hub and self.hub_strategy != "end",
            f"hub_strategy={str(self.hub_strategy)!r}: checkpoints are not whole models and are not published; use "
            "'end', which publishes the finished model.",
        )

    def _check_numbers(self) -> None:
        for name in ("learning_rate", "num_train_epochs"):
            if not getattr(self, name) > 0:
                raise TrainingError(f"{name}={getattr(self, name)} should be above 0.")
        ranges: dict[str, tuple[Any, float, float]] = {
            "per_device_train_batch_size": (self.per_device_train_batch_size, 1, math.inf),
            "per_device_eval_batch_size": (self.per_device_eval_batch_size, 1, math.inf),
            "gradient_accumulation_steps": (self.gradient_accumulation_steps, 1, math.inf),
            "weight_decay": (self.weight_decay, 0, math.inf),
            "lora_alpha": (self.lora_alpha, 1, math.inf),
            "prefix_probability": (self.prefix_probability, 0, 1),
            "min_crop": (self.min_crop, 0.01, 1),
            "lora_rank": (self.lora_rank, 0, math.inf),
            "lora_dropout": (self.lora_dropout, 0, 1),
            "min_learning_rate": (self.min_learning_rate, 0, math.inf),
            "warmup_learning_rate": (self.warmup_learning_rate, 0, math.inf),
            "samples_per_epoch": (1 if self.samples_per_epoch is None else self.samples_per_epoch, 1, math.inf),
            "generation_samples": (self.generation_samples, 0, math.inf),
            "image_use_rows": (self.image_use_rows, 0, math.inf),
        }
        for name, (value, low, high) in ranges.items():
            if not low <= value <= high:
                limit = f"between {low} and {high}" if high < math.inf else f"at least {low}"
                raise TrainingError(f"{name}={value} should be {limit}.")


def _refuse(wrong: bool, message: str) -> None:
    if wrong:
        raise TrainingError(message)


def learning_rate_factor(step: int, *, total: int, warmup: int, start: float, end: float) -> float:
    """Learning rate at a step relative to its maximum: linear from `start` to 1, then half a cosine down to `end`."""
    if step < warmup:
        return start + (1 - start) * step / warmup
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    return end + (1 - end) * 0.5 * (1 + math.cos(math.pi * progress))


def settings_said(args: VigcTrainingArguments) -> JsonObject:
    """The settings for the model card."""
    names = (
        "num_train_epochs", "per_device_train_batch_size", "gradient_accumulation_steps", "learning_rate",
        "min_learning_rate", "warmup_steps", "weight_decay", "optim", "seed", "freeze_policy", "train_ln_vision",
        "lora_rank", "load_in_4bit", "tasks", "prefix_probability", "augment", "bf16", "fp16", "frozen_dtype",
    )  # fmt: skip
    return {name: getattr(args, name) for name in names} | {
        "optim": OptimizerNames(args.optim).value,
        "processes": args.world_size,
    }
