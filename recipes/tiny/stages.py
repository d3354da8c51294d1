"""The stages of training vigc-tiny: warm-ups of one part each by `transformers.Trainer`, and VIGC by `VigcTrainer`."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from data import (
    IGNORED,
    NO_KIND,
    OBJECT_HEADS,
    TRUTHS,
    Encoder,
    Pictures,
    Rows,
    TextRow,
    dense_labels,
    query_labels,
)
from torch import nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments, get_cosine_schedule_with_warmup

from vigc.modeling_vigc import VigcForConditionalGeneration
from vigc.modeling_vigc.decoding_vigc import image_features
from vigc.scenes.language import TOPICS
from vigc.scenes.world import MAX_OF_A_KIND
from vigc.trainer import VigcTrainer, VigcTrainingArguments


@dataclass(frozen=True)
class Stage:
    """Length and peak learning rate of a stage."""

    steps: int
    batch: int
    rate: float


def fit(
    module: nn.Module,
    rows: Dataset,
    collate: Callable[[list[Any]], dict[str, Any]],
    stage: Stage,
    seed: int,
    rates: dict[str, float] | None = None,
) -> None:
    """Trains `module`, whose forward returns `{"loss": ...}`, with transformers' Trainer.

    Args:
        module: The parts to train.
        rows: The training rows.
        collate: Converts rows to the arguments of the module's forward.
        stage: The number of steps, the batch size and the peak learning rate.
        seed: Seed of random numbers in the module.
        rates: Other peak learning rates, by prefix of the parameter name.
    """
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            module,
            TrainingArguments(folder, **_settings(stage, seed)),
            data_collator=collate,
            train_dataset=rows,
            optimizers=_optimizer_and_schedule(module, stage, rates),
        )
        trainer.train()


def _settings(stage: Stage, seed: int) -> dict[str, Any]:
    """The training arguments of all stages."""
    return {
        "max_steps": stage.steps,
        "per_device_train_batch_size": stage.batch,
        "seed": seed,
        "max_grad_norm": 1.0,
        "logging_steps": 100,
        "save_strategy": "no",
        "report_to": [],
        # Rows are drawn at random as they are made, and a batch of rows of one length is cheap.
        "train_sampling_strategy": "sequential",
        "remove_unused_columns": False,
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }


def _optimizer_and_schedule(
    module: nn.Module, stage: Stage, rates: dict[str, float] | None = None
) -> tuple[torch.optim.Optimizer, LambdaLR]:
    """AdamW on trainable parameters, with learning rates by name prefix; a short warm-up, then cosine decay."""
    rates = {"": stage.rate, **(rates or {})}
    groups: dict[str, list[nn.Parameter]] = {prefix: [] for prefix in rates}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            groups[max((prefix for prefix in rates if name.startswith(prefix)), key=len)].append(parameter)
    settings = [{"params": group, "lr": rates[prefix]} for prefix, group in groups.items() if group]
    optimizer = torch.optim.AdamW(settings, betas=(0.9, 0.98), weight_decay=0.01)
    return optimizer, get_cosine_schedule_with_warmup(optimizer, max(1, stage.steps // 20), stage.steps)


class VisionWarmUp(nn.Module):
    """Stage A: the ViT predicts the object in each patch's cell, and the count of each kind in the image."""

    def __init__(self, model: VigcForConditionalGeneration) -> None:
        super().__init__()
        self.vision_model = model.vision_model
        width = model.config.vision_config.hidden_size
        self.heads = nn.ModuleDict({name: nn.Linear(width, classes) for name, classes in OBJECT_HEADS.items()})
        self.counts = nn.Linear(width, NO_KIND * (MAX_OF_A_KIND + 1))

    def forward(self, pixel_values: torch.Tensor, **labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Takes float (B, 3, H, W) and int64 labels (B, 36) by head, "counts" (B, kinds)."""
        seen = self.vision_model(pixel_values).last_hidden_state
        # The kind is by far the hardest to predict.
        losses = [
            F.cross_entropy(head(seen[:, 1:]).flatten(0, 1), labels[name].flatten(), ignore_index=IGNORED)
            * (2 if name == "kind" else 1)
            for name, head in self.heads.items()
        ]
        counts = self.counts(seen[:, 0]).view(-1, MAX_OF_A_KIND + 1)
        losses.append(3 * F.cross_entropy(counts, labels["counts"].flatten()))
        with torch.no_grad():
            kinds = self.heads["kind"](seen[:, 1:]).argmax(-1)
            there = labels["kind"] != NO_KIND
            right = {"kind": (kinds == labels["kind"])[there].float().mean()}
            for name in ("color", "size", "alike"):
                right[name] = (self.heads[name](seen[:, 1:]).argmax(-1) == labels[name])[there].float().mean()
            right["counts"] = (counts.argmax(-1) == labels["counts"].flatten()).float().mean()
        self.right = {name: round(float(value), 3) for name, value in right.items()}
        return {"loss": torch.stack(losses).sum()}


def warm_up_vision(model: VigcForConditionalGeneration, pictures: Pictures, stage: Stage, seed: int) -> None:
    """Stage A."""
    labels = [dense_labels(scene) for scene in pictures.scenes]

    def collate(rows: list[int]) -> dict[str, torch.Tensor]:
        columns = {name: torch.tensor([labels[row][name] for row in rows]) for name in labels[0]}
        return {"pixel_values": pictures.values(rows), **columns}

    module = VisionWarmUp(model)
    fit(module, Rows(len(pictures.scenes), lambda index: index), collate, stage, seed)
    print(f"right in the last batch: {module.right}", flush=True)


class QFormerWarmUp(nn.Module):
    """Stage C1, without the language model: discarded heads predict labels from each query."""

    def __init__(self, model: VigcForConditionalGeneration) -> None:
        super().__init__()
        self.query_tokens, self.qformer = model.query_tokens, model.qformer
        self.language_projection = nn.Identity()
        width = model.config.qformer_config.hidden_size
        classes = {**OBJECT_HEADS, "answer": len(TRUTHS)}
        self.heads = nn.ModuleDict({name: nn.Linear(width, count) for name, count in classes.items()})
        self.right: dict[str, list[float]] = {}

    def forward(
        self,
        image_embeds: torch.Tensor,
        qformer_input_ids: torch.Tensor,
        qformer_attention_mask: torch.Tensor,
        topics: list[str],
        **labels: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        """Takes float (B, patches + 1, width), the question's ids, and int64 labels (B, queries) by head."""
        found, _ = image_features(self, image_embeds, qformer_input_ids, qformer_attention_mask)
        loss = found.new_zeros(())
        for name, head in self.heads.items():
            scores = head(found)
            value = F.cross_entropy(scores.flatten(0, 1), labels[name].flatten(), ignore_index=IGNORED, reduction="sum")
            loss = loss + value / labels[name].numel() * (2 if name == "answer" else 1)
            self._note(name, scores.detach(), labels[name], topics)
        return {"loss": loss}

    def _note(self, name: str, scores: torch.Tensor, labels: torch.Tensor, topics: list[str]) -> None:
        if name == "answer":
            hits = scores.mean(1).argmax(-1) == labels[:, 0]
            for topic, hit in zip(topics, hits.tolist(), strict=True):
                if topic in TOPICS:
                    self.right.setdefault(topic, []).append(hit)
        elif name in ("kind", "color"):
            free = torch.tensor([topic == "detail" for topic in topics], device=labels.device)
            there = (labels[free] != IGNORED) & (labels[free] != NO_KIND if name == "kind" else True)
            hits = (scores.argmax(-1)[free] == labels[free])[there]
            self.right.setdefault(f"detail_{name}", []).extend(hits.tolist())

    def right_lately(self) -> dict[str, float]:
        """Accuracy on the last rows of each topic, and of kinds and colors by cell."""
        return {name: round(sum(hits[-500:]) / len(hits[-500:]), 3) for name, hits in sorted(self.right.items())}


def qformer_collate(encoder: Encoder) -> Callable[[list[TextRow]], dict[str, Any]]:
    """Collates rows to the arguments of `QFormerWarmUp`."""

    def collate(rows: list[TextRow]) -> dict[str, Any]:
        labels = [query_labels(encoder.pictures.scenes[row.scene], row, len(encoder.places)) for row in rows]
        columns = {name: torch.tensor([label[name] for label in labels]) for name in labels[0]}
        topics = [row.pair.topic if row.focused else "detail" for row in rows]
        return {"image_embeds": encoder.embeds(rows), **encoder.qformer(rows), **columns, "topics": topics}

    return collate


def warm_up_qformer(
    model: VigcForConditionalGeneration, encoder: Encoder, make: Callable[[int], TextRow], stage: Stage, seed: int
) -> None:
    """Stage C1, on the questions of the rows that `make` makes."""
    module = QFormerWarmUp(model)
    fit(module, Rows(stage.steps * stage.batch, make), qformer_collate(encoder), stage, seed)
    print(f"right in the last rows: {module.right_lately()}", flush=True)


class LanguageWarmUp(nn.Module):
    """Stage B: the language model learns the texts without images."""

    def __init__(self, model: VigcForConditionalGeneration) -> None:
        super().__init__()
        self.language_model = model.language_model

    def forward(self, **inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        """Takes `input_ids`, `attention_mask`, `labels`."""
        return {"loss": self.language_model(**inputs, use_cache=False).loss}


def warm_up_language(
    model: VigcForConditionalGeneration, encoder: Encoder, make: Callable[[int], TextRow], stage: Stage, seed: int
) -> None:
    """Stage B, on the texts of the rows that `make` makes."""

    def collate(rows: list[TextRow]) -> dict[str, torch.Tensor]:
        return encoder.language(rows, with_image=False)

    fit(LanguageWarmUp(model), Rows(stage.steps * stage.batch, make), collate, stage, seed)


def text_collate(encoder: Encoder) -> Callable[[list[TextRow]], dict[str, torch.Tensor]]:
    """Collates rows to the arguments of the model's forward, with `image_embeds` instead of images."""

    def collate(rows: list[TextRow]) -> dict[str, torch.Tensor]:
        texts = encoder.language(rows, with_image=True)
        return {"image_embeds": encoder.embeds(rows), **encoder.qformer(rows), **texts}

    return collate


def train_together(
    model: VigcForConditionalGeneration,
    encoder: Encoder,
    make: Callable[[int], TextRow],
    stage: Stage,
    seed: int,
    language_rate: float,
) -> None:
    """Stage C2: trains Q-Former and language model on the rows of `make`, with the model's loss."""
    rows = Rows(stage.steps * stage.batch, make)
    fit(model, rows, text_collate(encoder), stage, seed, {"language_model.": language_rate})


def train_vigc(
    model: VigcForConditionalGeneration, encoder: Encoder, make: Callable[[int], TextRow], stage: Stage, seed: int
) -> None:
    """Stages D and E: trains on the rows of `make` with [`VigcTrainer`], frozen as in the paper."""
    model.freeze("paper")  # before the optimizer is created, which takes the trainable parameters
    with tempfile.TemporaryDirectory() as folder:
        settings = {**_settings(stage, seed), "eval_strategy": "no", "load_best_model_at_end": False}
        trainer = VigcTrainer(
            model,
            VigcTrainingArguments(folder, freeze_policy="paper", **settings),
            Rows(stage.steps * stage.batch, make),
            processor=encoder.processor,
            data_collator=text_collate(encoder),
            optimizers=_optimizer_and_schedule(model, stage),
        )
        trainer.train()
    model.freeze("none")
