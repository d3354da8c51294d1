"""What an evaluation measures: losses by task and type, texts that are written, and whether pictures matter."""

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

# With fewer, two standard errors are too rough a measure to warn anybody.
_FEWEST_ROWS = 5


@dataclass(frozen=True, slots=True)
class WrittenRow:
    """What the model wrote about one row of the evaluation set; `compute_metrics` gets a list of these.

    Args:
        index: The row's index in the evaluation set.
        type: Its type of instruction.
        reference_question: The row's question.
        references: All its answers; weighted ones as often as ten annotators would have given them.
        vig_text: What VIG wrote.
        question: VIG's question; None where its text is not a pair.
        draft: VIG's answer.
        answer: That answer corrected by VIC.
        given_answer: What VIC wrote to the row's own question.
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
    """Mean loss with each row's own picture and with another row's, over `rows` rows, in nats per token.

    Args:
        true: With the own picture.
        swapped: With another one.
        error: Standard error of the mean of the rows' differences.
        rows: How many rows; each shows another picture than the one whose picture it is given.
    """

    true: float
    swapped: float
    error: float
    rows: int

    @property
    def used(self) -> bool:
        """Whether the wrong picture costs more than chance explains (two standard errors)."""
        return self.swapped - self.true > 2 * self.error


def row_losses(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Negative log-likelihood and number of each row's labels: float32 (B, 2) from (B, T, V) and int64 (B, T)."""
    targets = labels[:, 1:].to(logits.device)
    losses = functional.cross_entropy(
        logits[:, :-1].float().transpose(1, 2), targets, ignore_index=-100, reduction="none"
    )
    return torch.stack([losses.sum(-1), (targets != -100).sum(-1).float()], dim=-1)


def losses_by_group(sums: np.ndarray, groups: np.ndarray, names: Sequence[str]) -> dict[str, float]:
    """Mean loss per token over all rows, by task, and by task and type.

    Args:
        sums: float (rows, 2) of [`row_losses`].
        groups: int (rows,), each row's place in `names`.
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
    """Looks for `metric_for_best_model` among an evaluation's figures, before a first epoch is spent on it.

    Args:
        name: With or without "eval_".
        pairs: What is evaluated on.
        generated: Whether texts are written in an evaluation.
        compute_metrics: The caller's; asked for its names, about rows as a perfect model would write them, where the
            name is none of ours.

    Raises:
        ValueError: It is none of them; all are listed.
    """
    wanted = (name or "loss").removeprefix("eval_")
    types = pairs.rows["type"]
    groups = [f"loss_{group}" for group in pairs.groups]
    tasks = [f"loss_{task}" for task in pairs.tasks] if len(groups) > len(pairs.tasks) else []
    known = ["loss", *tasks, *groups, *(["well_formed"] if generated else [])]
    if generated and compute_metrics is not None and wanted not in known:
        known += compute_metrics([_written_well(pairs.rows[index], index) for index in map(types.index, set(types))])
    if wanted not in known:
        near = difflib.get_close_matches(wanted, known, n=1)
        raise TrainingError(
            f"metric_for_best_model={name!r} is no figure of an evaluation: "
            + (f"did you mean {near[0]!r}? " if near else "")
            + f"There are {', '.join(known)}."
        )


def _written_well(row: Mapping[str, Any], index: int) -> WrittenRow:
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
    """Lets the model write about rows of the evaluation set: VIG with correction, and VIC on the rows' questions."""
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
        asked = _to(model, processor(images, text=questions, task=types, return_tensors="pt"))
        answered: Any = model.generate(**asked, **settings)
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
    """`wanted` rows of `count`, always the same, in order."""
    return sorted(Random(f"{seed}/generation").sample(range(count), min(wanted, count)))


def rows_with_other_pictures(pairs: EvaluationPairs, wanted: int, seed: int) -> list[int]:
    """Places in `pairs` of up to `wanted` samples, no two with the same picture."""
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
    """Compares two results of [`row_losses`] (float (rows, 2)) over the same rows."""
    first, second = (sums[:, 0] / sums[:, 1].clamp(min=1) for sums in (true.double(), swapped.double()))
    rows = len(first)
    error = ((second - first).std() / math.sqrt(rows)).item() if rows > 1 else math.inf
    return ImageUse(first.mean().item(), second.mean().item(), error, rows)


def say_image_use(before: ImageUse | None, after: ImageUse | None) -> None:
    """Warns if, after the first evaluation, the wrong picture costs nothing."""
    if after is None:
        return
    earlier = f"before training {before.true:.4f} and {before.swapped:.4f}; " if before else ""
    text = (
        f"loss with the true picture {after.true:.4f}, with another one {after.swapped:.4f} ({earlier}{after.rows} "
        "rows)"
    )
    if after.used:
        logger.info("Pictures are used: %s.", text)
    elif after.rows < _FEWEST_ROWS:
        logger.info("Too few pictures to say whether they are used: %s.", text)
    else:
        logger.warning(
            "Pictures make no difference yet: %s. Go on if training is young; else check that rows and pictures belong "
            "together, and that the ViT's weights are there.",
            text,
        )


def _mean_loss(sums: np.ndarray) -> float:
    # In float64: a mean over millions of tokens.
    losses, tokens = sums.astype(np.float64).sum(axis=0)
    return float(losses / tokens) if tokens else 0.0


def _to(model: VigcForConditionalGeneration, inputs: Mapping[str, Any]) -> Batch:
    return {
        name: value.to(model.device) if isinstance(value, torch.Tensor) else value for name, value in inputs.items()
    }
