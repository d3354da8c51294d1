"""Evaluation during training: losses by task and type, generated texts, and whether the model uses the images."""

from __future__ import annotations

import difflib
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from vigc.errors import TrainingError
from vigc.modeling_vigc import VigcForConditionalGeneration
from vigc.processing import VigcProcessor, pair_text

from .data_collator import Batch
from .mixture import EvaluationPairs
from .rows import likeliest_answer, open_row_image, references_of

logger = logging.getLogger(__name__)

# With fewer rows, two standard errors are too unreliable for a warning.
_FEWEST_ROWS = 5


@dataclass(frozen=True, slots=True)
class WrittenRow:
    """The generated texts for one evaluation row; `compute_metrics` gets a list of these.

    Args:
        index: The row's index in the evaluation set.
        type: The row's task type.
        reference_question: The row's question.
        references: All its answers; weighted ones are repeated as if by ten annotators.
        vig_text: VIG's output.
        question: VIG's question; None if its output is not a pair.
        draft: VIG's answer.
        answer: VIG's answer, corrected by VIC.
        given_answer: VIC's answer to the row's own question.
    """

    index: int
    type: str
    reference_question: str
    references: list[str]
    vig_text: str
    question: str | None
    draft: str | None
    answer: str | None
    given_answer: str | None


@dataclass(frozen=True, slots=True)
class ImageUse:
    """Mean losses with each row's own image and with the image of another row, in nats per token.

    Args:
        true: Mean loss with the own image.
        swapped: Mean loss with another image.
        error: Standard error of the mean difference.
        rows: Number of rows, all with different images.
    """

    true: float
    swapped: float
    error: float
    rows: int

    @property
    def used(self) -> bool:
        """Whether the loss is significantly higher with the wrong image (by more than two standard errors)."""
        return self.swapped - self.true > 2 * self.error


def row_losses(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """For each row the summed negative log-likelihood and the number of labels, float32 (B, 2).

    Args:
        logits: float (B, T, V).
        labels: int64 (B, T).
    """
    targets = labels[:, 1:].to(logits.device)
    losses = functional.cross_entropy(
        logits[:, :-1].float().transpose(1, 2), targets, ignore_index=-100, reduction="none"
    )
    return torch.stack([losses.sum(-1), (targets != -100).sum(-1).float()], dim=-1)


def losses_by_group(sums: np.ndarray, groups: np.ndarray, names: Sequence[str]) -> dict[str, float]:
    """Mean loss per token over all rows, by task, and by task and type.

    Args:
        sums: float (rows, 2) of [`row_losses`].
        groups: int (rows,), each row's index in `names`.
        names: "vig_detail", "vic_detail", ...
    """
    figures = {"loss": _mean_loss(sums)}
    for task in dict.fromkeys(name.split("_", 1)[0] for name in names):
        members = [index for index, name in enumerate(names) if name.startswith(f"{task}_")]
        if len(members) > 1 and np.isin(groups, members).any():
            figures[f"loss_{task}"] = _mean_loss(sums[np.isin(groups, members)])
    for index, name in enumerate(names):
        if (groups == index).any():
            figures[f"loss_{name}"] = _mean_loss(sums[groups == index])
    return figures


def check_metric(
    name: str | None,
    pairs: EvaluationPairs,
    generated: bool,
    compute_metrics: Callable[[list[WrittenRow]], dict[str, float]] | None = None,
) -> None:
    """Checks that `metric_for_best_model` is a metric of the evaluation, before the first epoch is trained.

    Args:
        name: The metric, with or without "eval_".
        pairs: The evaluation set.
        generated: Whether texts are generated in an evaluation.
        compute_metrics: The caller's function. It is called with perfect outputs to get the names of its metrics, if
            `name` is not a built-in metric.

    Raises:
        ValueError: There is no such metric; the message lists all metrics.
    """
    wanted = (name or "loss").removeprefix("eval_")
    types = pairs.rows["type"]
    groups = [f"loss_{group}" for group in pairs.groups]
    tasks = [f"loss_{task}" for task in pairs.tasks] if len(groups) > len(pairs.tasks) else []
    known = ["loss", *tasks, *groups, *(["well_formed"] if generated else [])]
    if generated and compute_metrics is not None and wanted not in known:
        known += compute_metrics([_perfect_row(pairs.rows[index], index) for index in map(types.index, set(types))])
    if wanted not in known:
        near = difflib.get_close_matches(wanted, known, n=1)
        raise TrainingError(
            f"metric_for_best_model={name!r} is not a metric of the evaluation: "
            + (f"did you mean {near[0]!r}? " if near else "")
            + f"The metrics are {', '.join(known)}."
        )


def _perfect_row(row: Mapping[str, Any], index: int) -> WrittenRow:
    question, answer = row["question"], likeliest_answer(row)
    text = pair_text(question, answer)
    return WrittenRow(index, row["type"], question, references_of(row), text, question, answer, answer, answer)


@torch.no_grad()
def write_rows(
    model: VigcForConditionalGeneration,
    processor: VigcProcessor,
    pairs: EvaluationPairs,
    indices: Sequence[int],
    *,
    batch_size: int,
    max_new_tokens: int,
) -> list[WrittenRow]:
    """Generates texts for rows of the evaluation set: VIG with correction, and VIC on the rows' questions."""
    written: list[WrittenRow] = []
    settings: dict[str, Any] = {
        "processor": processor,
        "return_dict_in_generate": True,
        "max_new_tokens": max_new_tokens,
    }
    for start in range(0, len(indices), batch_size):
        chosen = list(indices[start : start + batch_size])
        rows = [pairs.rows[index] for index in chosen]
        types = [row["type"] for row in rows]
        images = [open_row_image(row) for row in rows]
        questions = [row["question"].strip() for row in rows]
        drafted: Any = model.generate(**_to(model, processor(images, task=types, return_tensors="pt")), **settings)
        inputs = _to(model, processor(images, text=questions, task=types, return_tensors="pt"))
        answered: Any = model.generate(**inputs, **settings)
        written += [
            WrittenRow(
                index,
                row["type"],
                questions[place],
                references_of(row),
                drafted.vig_texts[place],
                drafted.questions[place],
                drafted.drafts[place],
                drafted.answers[place],
                answered.answers[place],
            )
            for place, (index, row) in enumerate(zip(chosen, rows, strict=True))
        ]
    return written


def sample_indices(count: int, wanted: int, seed: int) -> list[int]:
    """Indices of `wanted` of `count` rows, in order; a function of `seed`."""
    return sorted(Random(f"{seed}/generation").sample(range(count), min(wanted, count)))


def rows_with_other_pictures(pairs: EvaluationPairs, wanted: int, seed: int) -> list[int]:
    """Indices in `pairs` of up to `wanted` samples, all with different images."""
    order = list(range(len(pairs.rows)))
    Random(f"{seed}/pictures").shuffle(order)
    images, chosen = set(), []
    for index in order:
        image = pairs.rows[index]["image"]
        if (key := image["bytes"] or image["path"]) not in images:
            images.add(key)
            chosen.append(index * len(pairs.tasks) + len(pairs.tasks) - 1)
        if len(chosen) == wanted:
            break
    return chosen


def image_use(true: torch.Tensor, swapped: torch.Tensor) -> ImageUse:
    """The image use of a model, from two results of [`row_losses`], float (rows, 2), for the same rows."""
    first, second = (sums[:, 0] / sums[:, 1].clamp(min=1) for sums in (true.double(), swapped.double()))
    rows = len(first)
    error = ((second - first).std() / math.sqrt(rows)).item() if rows > 1 else math.inf
    return ImageUse(first.mean().item(), second.mean().item(), error, rows)


def say_image_use(before: ImageUse | None, after: ImageUse | None) -> None:
    """Warns if, after the first evaluation, the wrong image does not increase the loss."""
    if after is None:
        return
    earlier = f"before training {before.true:.4f} and {before.swapped:.4f}; " if before else ""
    text = (
        f"loss with the true image {after.true:.4f}, with another one {after.swapped:.4f} ({earlier}{after.rows} rows)"
    )
    if after.used:
        logger.info("The model uses the images: %s.", text)
    elif after.rows < _FEWEST_ROWS:
        logger.info("Too few images to tell whether the model uses them: %s.", text)
    else:
        logger.warning(
            "The model does not use the images yet: %s. This is normal early in training; later, check that rows and "
            "images belong together, and that the ViT's weights are loaded.",
            text,
        )


def _mean_loss(sums: np.ndarray) -> float:
    # In float64, because it is a mean over millions of tokens.
    losses, tokens = sums.astype(np.float64).sum(axis=0)
    return float(losses / tokens) if tokens else 0.0


def _to(model: VigcForConditionalGeneration, inputs: Mapping[str, Any]) -> Batch:
    return {
        name: value.to(model.device) if isinstance(value, torch.Tensor) else value for name, value in inputs.items()
    }
