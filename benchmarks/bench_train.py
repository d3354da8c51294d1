"""Training steps of VigcTrainer against the plain Trainer on transformers' InstructBLIP: tokens/s and peak memory.

Run as `python benchmarks/bench_train.py --size small --output build/bench_train.json`. Every setting trains the same
parts on the same batches in the same order, each in a process of its own, in turns; the losses must agree.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import datasets
import torch
from models import SIZES, Sentences, build, pictures
from torch import nn
from transformers import InstructBlipConfig, InstructBlipForConditionalGeneration, Trainer, TrainerCallback
from transformers import TrainingArguments as PlainArguments

from vigc.modeling_vigc import VigcForConditionalGeneration
from vigc.processing import TRAIN_FEATURES, VigcProcessor
from vigc.trainer import VigcDataCollator, VigcMixture, VigcTrainer, VigcTrainingArguments

# What each setting changes of VigcTrainer's; "plain" is the baseline.
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "vigc": {},
    "vigc, features kept": {"image_features": "features"},
    "vigc, features kept, checkpointed": {"image_features": "features", "activation_checkpointing": True},
}
# Types of rows: sentences in an answer, drawn from these. A whole picture is 640 x 480, as COCO's.
ANSWERS = {"detail": (3, 4, 5, 6, 7), "conversation": (1, 1, 2, 3), "okvqa": (0,)}
PICTURE = (640, 480)
LOSSES_AGREE = 1e-5


def make_rows(size: str, kind: str, count: int, seed: int = 0) -> datasets.Dataset:
    """Training rows of realistic lengths with JPEG pictures of realistic size; no answer is a single word ("okvqa")."""
    sentences, draw = Sentences(SIZES[size].words, seed), random.Random(seed)

    def sentence(group: int) -> str:
        word, words = draw.choice(sentences.groups[group]), []
        while word is not None:
            words.append(sentences.words[word])
            following = sentences.next.get(word)
            word = draw.choice(following) if following else None
        return " ".join(words)

    rows = []
    for index, picture in enumerate(pictures(count, size, seed)):
        buffer = io.BytesIO()
        picture.resize(PICTURE).save(buffer, "JPEG", quality=90)
        parts = draw.choice(ANSWERS[kind])
        answer = " ".join(sentence(1 + part) for part in range(parts)) or draw.choice(sentences.words)
        rows.append(
            {
                "image": {"bytes": buffer.getvalue(), "path": None},
                "image_id": str(index),
                "type": kind,
                "question": sentence(0),
                "answers": [answer],
                "weights": None,
                "source": "bench",
                "license": None,
                "conversation_id": str(index),
                "turn": 0,
                "extra": "{}",
            }
        )
    return datasets.Dataset.from_list(rows, features=TRAIN_FEATURES)


class Places(torch.utils.data.Dataset):
    """The mixture's samples of the first epoch by their number, as a plain Trainer asks for them."""

    def __init__(self, mixture: VigcMixture) -> None:
        self.mixture = mixture

    def __len__(self) -> int:
        return len(self.mixture)

    def __getitem__(self, index: int) -> Any:
        return self.mixture[0, index]


class Watch(TrainerCallback):
    """Times the steps behind the first, which pays for what every process pays once."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        """Notes when a step's work is done."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.ends.append(time.perf_counter())


def train_once(options: argparse.Namespace) -> dict[str, Any]:
    """One setting in this process."""
    model, processor = _fresh(options.size)
    rows = make_rows(options.size, options.kind, options.steps * options.batch)
    mixture = VigcMixture([rows], seed=0)
    watch = Watch()
    with tempfile.TemporaryDirectory() as folder:
        trainer = _trainer(options, model, processor, mixture, folder)
        trainer.add_callback(watch)
        _peak_memory(reset=True)
        trainer.train()
        peak = _peak_memory()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    tokens = _tokens(mixture, processor, options)
    return {"tokens/s": tokens / (watch.ends[-1] - watch.ends[0]), "peak": peak, "losses": losses}


def _peak_memory(reset: bool = False) -> int:
    """Most bytes held since the last reset: the GPU's where there is one, else this process's (Linux)."""
    if torch.cuda.is_available():
        peak = torch.cuda.max_memory_allocated()
        if reset:
            torch.cuda.reset_peak_memory_stats()
        return peak
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


def _fresh(size: str) -> tuple[VigcForConditionalGeneration, VigcProcessor]:
    """A model before any training, without dropout: the weights of `build` write texts, but nothing can be learnt."""
    taught, processor = build(size)
    config = taught.config
    del taught
    config.qformer_config.hidden_dropout_prob = config.qformer_config.attention_probs_dropout_prob = 0.0
    torch.manual_seed(0)
    model = VigcForConditionalGeneration(config)
    # transformers leaves the queries at zero, where all of them would stay the same, and the ViT almost there.
    nn.init.normal_(model.query_tokens, std=0.02)
    for weight in model.vision_model.parameters():
        if weight.dim() > 1:
            nn.init.normal_(weight, std=0.02)
    return model.to("cuda" if torch.cuda.is_available() else "cpu"), processor


def _trainer(
    options: argparse.Namespace,
    model: VigcForConditionalGeneration,
    processor: VigcProcessor,
    mixture: VigcMixture,
    folder: str,
) -> Trainer:
    common: dict[str, Any] = {
        "output_dir": folder,
        "per_device_train_batch_size": options.batch,
        "num_train_epochs": 1,
        "learning_rate": 1e-5,
        "lr_scheduler_type": "constant",
        "warmup_steps": 0,
        "weight_decay": 0.05,
        "max_grad_norm": 0.0,
        "logging_steps": 1,
        "save_strategy": "no",
        "eval_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "dataloader_pin_memory": False,
    }
    if options.setting == "plain":
        arguments = PlainArguments(**common, train_sampling_strategy="sequential")
        collate = VigcDataCollator(processor)
        return Trainer(_stock(model), arguments, data_collator=collate, train_dataset=Places(mixture))
    settings = dict(SETTINGS[options.setting])
    if "image_features" in settings:
        settings["image_features"] = f"{folder}/features"
    arguments = VigcTrainingArguments(**common, augment=False, load_best_model_at_end=False, **settings)
    return VigcTrainer(model, arguments, mixture, processor=processor)


def _stock(model: VigcForConditionalGeneration) -> InstructBlipForConditionalGeneration:
    """The class of transformers with the same weights and the same parts frozen."""
    config = model.config.to_dict()
    for name in ("model_type", "auto_map", "architectures", "vision_output_layer_norm_eps"):
        config.pop(name, None)
    stock = InstructBlipForConditionalGeneration(InstructBlipConfig(**config)).to(model.device)
    stock.load_state_dict(model.state_dict(), assign=True)  # the very same tensors: one model's memory
    stock.vision_model.post_layernorm.eps = model.vision_model.post_layernorm.eps
    trained = ("qformer.", "query_tokens", "language_projection.")
    for name, parameter in stock.named_parameters():
        parameter.requires_grad = name.startswith(trained)

    def no_image(module: nn.Module, inputs: Any, logits: torch.Tensor) -> None:
        # The released vocabulary has no <image>, so ours gives it no chance; stock's softmax counts it.
        logits[..., model.config.image_token_index] = torch.finfo(logits.dtype).min

    stock.language_model.lm_head.register_forward_hook(no_image)
    return stock


def _tokens(mixture: VigcMixture, processor: VigcProcessor, options: argparse.Namespace) -> int:
    """Tokens of the language model in the timed steps, visual ones included, padding not."""
    collate = VigcDataCollator(processor)
    count = 0
    for start in range(options.batch, len(mixture), options.batch):
        samples = [mixture[0, index] for index in range(start, min(start + options.batch, len(mixture)))]
        count += int(collate(samples)["attention_mask"].sum())
    return count


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """All settings on all kinds of rows, `options.rounds` times in turns: medians, and ratios to the baseline."""
    results = []
    for kind in options.kinds:
        runs: dict[str, list[dict[str, Any]]] = {setting: [] for setting in SETTINGS}
        for turn in range(options.rounds):
            for setting in list(SETTINGS)[:: -1 if turn % 2 else 1]:
                command = [sys.executable, __file__, "--size", options.size, "--steps", str(options.steps)]
                command += ["--batch", str(options.batch), "--one", kind, setting]
                output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                runs[setting].append(json.loads(output.splitlines()[-1]))
        for setting, found in runs.items():
            row = {"rows": kind, "setting": setting}
            row |= {name: statistics.median(run[name] for run in found) for name in ("tokens/s", "peak")}
            base = runs["plain"][0]["losses"]
            row["loss difference"] = max(abs(a - b) for a, b in zip(found[0]["losses"], base, strict=True))
            results.append(row)
        plain = results[-len(SETTINGS)]
        for row in results[-len(SETTINGS) :]:
            row["speed ratio"] = row["tokens/s"] / plain["tokens/s"]
            row["memory ratio"] = row["peak"] / plain["peak"]
    return results


def table(results: list[dict[str, Any]]) -> str:
    """The figures as a table in Markdown."""
    lines = [
        "| Rows | Setting | tokens/s | ratio | peak GB | ratio | loss differs by |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in results:
        lines.append(
            f"| {row['rows']} | {row['setting']} | {row['tokens/s']:,.0f} | {row['speed ratio']:.2f} "
            f"| {row['peak'] / 1e9:.2f} | {row['memory ratio']:.2f} | {row['loss difference']:.1e} |"
        )
    return "\n".join(lines)


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=sorted(SIZES), default="small", help="of the model")
    parser.add_argument("--steps", type=int, default=6, help="of a run; the first is not timed")
    parser.add_argument("--batch", type=int, default=8, help="samples of a step")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each setting")
    parser.add_argument("--kinds", nargs="+", choices=sorted(ANSWERS), default=list(ANSWERS), help="types of rows")
    parser.add_argument("--output", type=Path, help="also write the figures to this JSON file")
    parser.add_argument("--one", nargs=2, metavar=("KIND", "SETTING"), help=argparse.SUPPRESS)
    return parser


def main() -> None:
    """Prints the table; fails if the losses do not agree."""
    options = make_parser().parse_args()
    if options.one:
        options.kind, options.setting = options.one
        print(json.dumps(train_once(options)))
        return
    results = measure(options)
    print(table(results))
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    if any(row["loss difference"] > LOSSES_AGREE for row in results):
        raise SystemExit(f"The losses differ by more than {LOSSES_AGREE}.")


if __name__ == "__main__":
    main()
