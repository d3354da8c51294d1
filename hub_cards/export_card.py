"""The card of an exported dataset."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import DatasetInfo, Features, SplitDict, SplitInfo
from huggingface_hub import DatasetCardData

from .cards import render, size_category
from .licences import licence_metadata, licence_of


@dataclass(frozen=True)
class ExportFacts:
    """What the card of an export says.

    Args:
        name: Its title.
        source: Name of the dataset it was made from.
        layout: What its layout is called.
        note: What is said of its records.
        features: The columns of its parquet files; None where it is JSON.
        rule: Of preference pairs the settings of the rule that chose them (`PreferenceRule`); None: it holds no pairs.
        rows: How many rows were read.
        records: How many records were written.
        left_out: How many rows the rule refused for each reason.
        unreadable: How many rows were rejected for each reason why an image cannot be read.
        licenses: How many rows there are of each licence.
        num_bytes: Size of the records in memory.
        download_bytes: Size of the files.
    """

    name: str
    source: str
    layout: str
    note: str = ""
    features: Features | None = None
    rule: Mapping[str, Any] | None = None
    rows: int = 0
    records: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    unreadable: Counter[str] = field(default_factory=Counter)
    licenses: Counter[str] = field(default_factory=Counter)
    num_bytes: int = 0
    download_bytes: int = 0


def write_export_card(folder: Path, facts: ExportFacts) -> Path:
    """Writes the card of an export, with the metadata that `load_dataset` reads, as `folder/README.md`."""
    data = DatasetCardData(
        **licence_metadata(licence_of("unknown", facts.licenses)),
        language=["en"],
        task_categories=["visual-question-answering", "image-text-to-text"],
        size_categories=[size_category(facts.records)],
        tags=["vigc", "synthetic", "visual-instruction-tuning"],
    )
    if facts.features is not None:
        splits = SplitDict()
        splits.add(SplitInfo("train", num_bytes=facts.num_bytes, num_examples=facts.records))
        info = DatasetInfo(
            features=facts.features,
            splits=splits,
            download_size=facts.download_bytes,
            dataset_size=facts.num_bytes,
        )
        files = [{"split": "train", "path": "data/train-*.parquet"}]
        data["configs"] = [{"config_name": "default", "data_files": files, "default": True}]
        data["dataset_info"] = [{"config_name": "default", **info._to_yaml_dict()}]
    path = folder / "README.md"
    path.write_text(render("export_card.md", metadata=data.to_yaml(), facts=facts), encoding="utf-8")
    return path
