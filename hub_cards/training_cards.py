"""The card of a model that was trained here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from vigc.processing import INSTRUCTION_TYPES

from .cards import render

# Times and counters of an evaluation, which say nothing about the model.
_NOT_QUALITY = ("runtime", "per_second", "preparation_time", "epoch", "step")


def write_trained_model_card(
    folder: Path,
    *,
    base: str,
    whole: bool,
    data: Sequence[tuple[str, int, int]],
    settings: Mapping[str, Any],
    trained_parameters: int,
    steps: int,
    epochs: float,
    figures: Mapping[str, Any],
    image_use: Mapping[str, float] | None,
    base_revision: str | None = None,
) -> Path:
    """Writes `folder/README.md` for a model at the end of its training.

    Args:
        folder: The model folder; its name is the card's title.
        base: Name of the model that training started from; of a folder only the last part is said.
        whole: Whether the folder holds the complete model, or only what was trained.
        data: Of each data set its name, its rows, and how many samples of it an epoch holds.
        settings: The training arguments that matter.
        trained_parameters: How many weights were trained.
        steps: Optimizer steps taken.
        epochs: The same in epochs.
        figures: Of the evaluation that the weights belong to, by name ("eval_loss", ...).
        image_use: If measured, the loss with the `true` and with `swapped` pictures, of how many `rows`.
        base_revision: The commit of `base`, where that came from the Hub.
    """
    base, name = Path(base).name or base, folder.resolve().name
    measured = _measured(figures)
    text = render(
        "trained_model_card.md",
        metadata=_metadata(name, base, measured),
        name=name,
        base=base,
        base_revision=base_revision,
        whole=whole,
        data=data,
        settings=settings,
        trained_parameters=trained_parameters,
        steps=steps,
        epochs=epochs,
        figures=measured,
        image_use=image_use,
        types=list(INSTRUCTION_TYPES),
    )
    path = folder / "README.md"
    path.write_text(text, encoding="utf-8")
    return path


def _measured(figures: Mapping[str, Any]) -> dict[str, float]:
    return {
        name.removeprefix("eval_"): float(value)
        for name, value in figures.items()
        if isinstance(value, (int, float)) and not any(part in name for part in _NOT_QUALITY)
    }


def _metadata(name: str, base: str, measured: Mapping[str, float]) -> str:
    results = [
        EvalResult("image-text-to-text", "held-out", "held-out rows", figure, value, metric_name=figure)
        for figure, value in measured.items()
    ]
    return ModelCardData(
        license="other",
        language=["en"],
        library_name="transformers",
        pipeline_tag="image-text-to-text",
        base_model=base,
        tags=["vigc", "instructblip", "visual-instruction-generation"],
        model_name=name,
        eval_results=results or None,
    ).to_yaml()
