"""The card of a mixture of datasets."""

from __future__ import annotations

from pathlib import Path

from datasets import DatasetInfo, SplitDict, SplitInfo
from huggingface_hub import DatasetCardData

from vigc.processing.bounded_parsing import JsonObject
from vigc.processing.rows import TRAIN_FEATURES

from .cards import render, size_category


def write_mix_card(folder: Path, manifest: JsonObject, *, name: str, num_bytes: int, download_bytes: int) -> Path:
    """Writes the card of a mixture, with the metadata that `load_dataset` reads, as `folder/README.md`.

    Args:
        folder: The folder of the mixture.
        manifest: The origin of all rows.
        name: The title.
        num_bytes: Size of the rows in memory.
        download_bytes: Size of the files.
    """
    result = manifest["result"]
    (license,) = result["licenses"] if len(result["licenses"]) == 1 else ("other",)
    splits = SplitDict()
    splits.add(SplitInfo("train", num_bytes=num_bytes, num_examples=result["rows"]))
    info = DatasetInfo(
        features=TRAIN_FEATURES,
        splits=splits,
        download_size=download_bytes,
        dataset_size=num_bytes,
    )
    data = DatasetCardData(
        license=license,
        language=["en"],
        task_categories=["visual-question-answering", "image-text-to-text"],
        size_categories=[size_category(result["rows"])],
        tags=["vigc", "visual-instruction-tuning"],
        configs=[
            {
                "config_name": "default",
                "data_files": [{"split": "train", "path": "data/train-*.parquet"}],
                "default": True,
            }
        ],
        dataset_info=[{"config_name": "default", **info._to_yaml_dict()}],
    )
    text = render("mix_card.md", metadata=data.to_yaml(), name=name, manifest=manifest)
    path = folder / "README.md"
    path.write_text(text, encoding="utf-8")
    return path
