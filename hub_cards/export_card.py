"""The card of an exported dataset."""

from __future__ import annotations

from pathlib import Path

from datasets import DatasetInfo, SplitDict, SplitInfo
from huggingface_hub import DatasetCardData

from vigc.exports.export import Exported
from vigc.formats.preferences import PreferenceRule

from .cards import render, size_category
from .licences import licence_metadata, licence_of


def write_export_card(folder: Path, done: Exported, *, source: str, rule: PreferenceRule) -> Path:
    """Writes the card of an export, with the metadata that `load_dataset` reads, as `folder/README.md`.

    Args:
        folder: Where the export lies.
        done: What was exported.
        source: Name of the dataset it was made from.
        rule: Which corrections were taken, for preference pairs.
    """
    data = DatasetCardData(
        **licence_metadata(licence_of("unknown", done.licenses)),
        language=["en"],
        task_categories=["visual-question-answering", "image-text-to-text"],
        size_categories=[size_category(done.records)],
        tags=["vigc", "synthetic", "visual-instruction-tuning"],
    )
    if done.format.features is not None:
        splits = SplitDict()
        splits.add(SplitInfo("train", num_bytes=done.num_bytes, num_examples=done.records))
        info = DatasetInfo(
            features=done.format.features,
            splits=splits,
            download_size=done.download_bytes,
            dataset_size=done.num_bytes,
        )
        files = [{"split": "train", "path": "data/train-*.parquet"}]
        data["configs"] = [{"config_name": "default", "data_files": files, "default": True}]
        data["dataset_info"] = [{"config_name": "default", **info._to_yaml_dict()}]
    text = render(
        "export_card.md",
        metadata=data.to_yaml(),
        done=done,
        name=done.output.resolve().name,
        source=source,
        rule=rule,
    )
    path = folder / "README.md"
    path.write_text(text, encoding="utf-8")
    return path
