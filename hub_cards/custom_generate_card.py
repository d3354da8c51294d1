"""The card of a `custom_generate` folder."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import ModelCardData

from vigc.processing import INSTRUCTION_TYPES

from .cards import render


def write_custom_generate_card(folder: Path) -> Path:
    """Writes `folder/README.md` for a `custom_generate` folder, which adds IQF to stock InstructBLIP checkpoints."""
    data = ModelCardData(
        license="apache-2.0",
        library_name="transformers",
        pipeline_tag="image-text-to-text",
        tags=["custom_generate", "vigc", "instructblip", "visual-instruction-generation"],
    )
    text = render(
        "custom_generate_card.md",
        metadata=data.to_yaml(),
        name=folder.resolve().name,
        types=list(INSTRUCTION_TYPES),
    )
    path = folder / "README.md"
    path.write_text(text, encoding="utf-8")
    return path
