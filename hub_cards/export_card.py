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
    """The facts on the card of an exported dataset.

    Args:
        name: The title.
        source: Name of the dataset that was exported.
        layout: Title of the layout.
        note: A sentence about the records.
        features: The columns of the parquet files; None for JSON.
        rule: For preference pairs, the settings of their `PreferenceRule`; None for other layouts.
        rows: Number of rows that were read.
        records: Number of records that were written.
        left_out: Number of rows that the rule refused, by reason.
        unreadable: Number of rows that were skipped because an image cannot be read, by reason.
        licenses: Number of rows by licence.
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
