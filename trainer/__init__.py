"""Training: samples from rows, the Trainer for VIGC models, and runs from recipes."""

from .checkpoints import load_trained, merge_trained
from .data_collator import VigcDataCollator
from .evaluation import WrittenRow
from .mixture import EvaluationPairs, VigcMixture
from .train import dry_run, train
from .vigc_config import VigcTrainingArguments
from .vigc_trainer import VigcTrainer

__all__ = [
    "EvaluationPairs",
    "VigcDataCollator",
    "VigcMixture",
    "VigcTrainer",
    "VigcTrainingArguments",
    "WrittenRow",
    "dry_run",
    "load_trained",
    "merge_trained",
    "train",
]
