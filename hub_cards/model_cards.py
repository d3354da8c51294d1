"""The card of a converted or trained model."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from vigc.processing import INSTRUCTION_TYPES

from .cards import render

# Times and counters of an evaluation, which are not metrics of the model.
_NOT_QUALITY = ("runtime", "per_second", "preparation_time", "epoch", "step")


def write_model_card(
    folder: Path, *, name: str, checkpoints: list[str], language_model: str, parameters: dict[str, int]
) -> Path:
    """Writes the card of a converted model as `folder/README.md`.

    Args:
        folder: The model folder.
        name: The title.
        checkpoints: Names of the files that were converted, base files first.
        language_model: Name of the language model's folder.
        parameters: Number of parameters of each part.
    """
    conversion = {"checkpoints": checkpoints, "language_model": language_model, "parameters": parameters}
    return _write(folder, _metadata(name), name=name, whole=True, conversion=conversion, training=None)


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
    unreadable: int = 0,
) -> Path:
    """Writes `folder/README.md` for a trained model.

    Args:
        folder: The model folder; its name is the card's title.
        base: Name of the model that training started from; for a folder only the last part is shown.
        whole: Whether the folder has the complete model, or only the trained weights.
        data: (name, number of rows, number of samples per epoch) of each dataset.
        settings: The training arguments to show.
        trained_parameters: Number of trained weights.
        steps: Number of optimizer steps.
        epochs: The same in epochs.
        figures: Metrics of the evaluation at these weights, by name ("eval_loss", ...).
        image_use: The loss with the `true` and with `swapped` images, and the number of `rows`; None if not measured.
        base_revision: The commit of `base`, if that came from the Hub.
        unreadable: Number of rows that were skipped because their images could not be opened.
    """
    base, name, measured = _public_name(base), folder.resolve().name, _measured(figures)
    training = {
        "base": base,
        "base_revision": base_revision,
        "data": data,
        "settings": settings,
        "trained_parameters": trained_parameters,
        "steps": steps,
        "epochs": epochs,
        "figures": measured,
        "image_use": image_use,
        "unreadable": unreadable,
    }
    return _write(folder, _metadata(name, base, measured), name=name, whole=whole, conversion=None, training=training)


def _write(folder: Path, metadata: str, **values: Any) -> Path:
    text = render("model_card.md", metadata=metadata, types=list(INSTRUCTION_TYPES), **values)
    path = folder / "README.md"
    path.write_text(text, encoding="utf-8")
    return path


def _public_name(base: str) -> str:
    """A Hub name unchanged; for a folder the last part, because the path is private."""
    return base if re.fullmatch(r"[\w.-]+/[\w.-]+", base) and not Path(base).exists() else Path(base).name or base


def _measured(figures: Mapping[str, Any]) -> dict[str, float]:
    return {
        name.removeprefix("eval_"): float(value)
        for name, value in figures.items()
        if isinstance(value, (int, float)) and not any(part in name for part in _NOT_QUALITY)
    }


def _metadata(name: str, base: str | None = None, measured: Mapping[str, float] | None = None) -> str:
    results = [
        EvalResult("image-text-to-text", "held-out", "held-out rows", figure, value, metric_name=figure)
        for figure, value in (measured or {}).items()
    ]
    return ModelCardData(
        license="other",
        language=["en"],
        library_name="transformers",
        pipeline_tag="image-text-to-text",
        base_model=base,
        tags=["vigc", "instructblip", "visual-instruction-generation"],
        model_name=name if results else None,
        eval_results=results or None,
    ).to_yaml()
