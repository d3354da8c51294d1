"""Writes the card of a generated dataset, and renders the card templates of this package."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import DatasetInfo, Features, SplitDict, SplitInfo
from huggingface_hub import DatasetCardData
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from vigc.errors import MAX_REASON, cut
from vigc.processing import INSTRUCTION_TYPES
from vigc.processing.bounded_parsing import JsonObject

from .licences import licence_metadata, licence_of
from .samples import read_scores, write_samples

_SIZE_CATEGORIES = {
    10**3: "n<1K",
    10**4: "1K<n<10K",
    10**5: "10K<n<100K",
    10**6: "100K<n<1M",
    10**7: "1M<n<10M",
    10**8: "10M<n<100M",
    10**9: "100M<n<1B",
}

# Characters with a meaning inside a line of Markdown. No line of a template starts with untrusted text.
_MARKS = re.compile(r"[\\`*_\[\]<>|&~$]")
# Positions where the Hub's Markdown would detect a URL, which backslashes do not prevent.
_LINKS = re.compile(r"(?<=:)(?=//)|(?<=www)(?=\.)|(?<=@)|(?<=mailto)(?=:)|(?<=xmpp)(?=:)", re.IGNORECASE)


@dataclass
class TypeFigures:
    """Statistics of one task type.

    Args:
        rows: Number of rows.
        changed: Number of rows in which correction changed a word.
        malformed: Number of rejected texts.
        files: Number of parquet files.
        num_bytes: Size of the rows in memory.
        download_bytes: Size of the files.
        words_out: Number of words that correction removed from the drafts.
        words_in: Number of words that correction inserted.
    """

    rows: int = 0
    changed: int = 0
    malformed: int = 0
    files: int = 0
    num_bytes: int = 0
    download_bytes: int = 0
    words_out: int = 0
    words_in: int = 0

    def add(self, edits: Iterable[tuple[bool, int, int]], num_bytes: int, download_bytes: int) -> None:
        """Adds the rows of another file.

        Args:
            edits: Of each row whether it changed, and its `words_out` and `words_in`.
            num_bytes: See the class.
            download_bytes: See the class.
        """
        for changed, words_out, words_in in edits:
            self.rows += 1
            self.changed += changed
            self.words_out += words_out
            self.words_in += words_in
        self.files += 1
        self.num_bytes += num_bytes
        self.download_bytes += download_bytes

    def __add__(self, other: TypeFigures) -> TypeFigures:
        return TypeFigures(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))


@dataclass(frozen=True)
class DatasetFacts:
    """The facts on the card of a generated dataset.

    Args:
        name: The title.
        features: The columns.
        types: Statistics of each task type.
        images: Number of images that were read.
        skipped: Number of files that could not be read.
        reasons: (kind, reason) of each rejected text and skipped file, as a list or counted.
        configuration: All settings that determine the output.
        config_hash: Hash of the configuration.
        command: The command that repeats the run.
        source: Origin of the images.
        license: Licence of the images, or "unknown", which the card states.
        kind: "generate", or "correct" if questions and draft answers were given.
        duplicates: Number of files that are exact copies of another one.
        dropped: Number of questions rejected because the image already had the same one.
        bare: Number of entries without image, which were copied unchanged.
        repeated: Number of rows with the same id as another row.
        compared: Names of the lists and folders that images were compared with, to exclude those that others use.
        excluded: Number of excluded images, by reason.
        uncompared: By folder: the number of files that could not be read ("count"), so that no image was compared with
            them, and the names of some ("first").
        licenses: Number of rows by licence, if images have their own.
        notice: A notice at the top of the card, if any.
    """

    name: str
    features: Features
    types: Mapping[str, TypeFigures]
    images: int
    skipped: int
    reasons: Sequence[tuple[str, str]] | Mapping[tuple[str, str], int]
    configuration: Mapping[str, Any]
    config_hash: str
    command: str
    source: str
    license: str
    kind: str = "generate"
    duplicates: int = 0
    dropped: int = 0
    bare: int = 0
    repeated: int = 0
    compared: Sequence[str] = ()
    excluded: Mapping[str, int] = field(default_factory=dict)
    uncompared: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    licenses: Mapping[str, int] = field(default_factory=dict)
    notice: str | None = None


def compares_drafts(configuration: Mapping[str, Any]) -> bool:
    """Whether the answers of a job are corrections of drafts, so that edits can be counted."""
    return bool(configuration["correct"] and configuration.get("iqf", {}).get("iqf_draft", True))


def write_dataset_card(
    folder: Path, facts: DatasetFacts, *, write: Callable[[Path, bytes], Any] = Path.write_bytes
) -> Path:
    """Writes the card of a generated dataset, with the metadata that `load_dataset` reads, as `folder/README.md`.

    Scores and samples are read from the rows in the folder; images of the samples are written to `samples/`.

    Args:
        folder: The dataset folder, with the files of each type in `<type>/`.
        facts: The facts on the card.
        write: Function that writes a file.
    """
    filled = {kind: figures for kind, figures in facts.types.items() if figures.rows}
    total = sum(facts.types.values(), TypeFigures())
    licence = licence_of(facts.license, facts.licenses)
    data = DatasetCardData(
        **licence_metadata(licence),
        language=["en"],
        pretty_name=" ".join(facts.name.split()),
        task_categories=["visual-question-answering", "image-text-to-text"],
        size_categories=[size_category(total.rows)],
        tags=["vigc", "synthetic", "visual-instruction-tuning"],
    )
    if filled:
        data["configs"] = _configs(list(filled))
        data["dataset_info"] = _dataset_infos(facts.features, filled)
    text = render(
        "dataset_card.md",
        metadata=data.to_yaml(),
        facts=facts,
        compared=compares_drafts(facts.configuration),
        filled=list(filled),
        purposes={kind: INSTRUCTION_TYPES[kind].prompt if kind in INSTRUCTION_TYPES else "-" for kind in facts.types},
        total=total,
        set_aside=Counter(facts.reasons).most_common(),
        licence=licence,
        scores=read_scores(folder, list(filled)),
        samples=write_samples(folder, list(filled), write),
    )
    path = folder / "README.md"
    write(path, text.encode())
    return path


def _configs(types: list[str]) -> list[JsonObject]:
    """The default configuration, with all types, and a configuration for each type."""
    everything = [{"split": "train", "path": [f"{kind}/train-*.parquet" for kind in types]}]
    each = [
        {"config_name": kind, "data_files": [{"split": "train", "path": f"{kind}/train-*.parquet"}]} for kind in types
    ]
    return [{"config_name": "default", "data_files": everything, "default": True}, *each]


def _dataset_infos(features: Features, types: Mapping[str, TypeFigures]) -> list[JsonObject]:
    """Columns and sizes of each configuration, from which `load_dataset` detects an outdated cache."""
    figures = {"default": sum(types.values(), TypeFigures()), **types}
    infos = []
    for config, counted in figures.items():
        splits = SplitDict()
        splits.add(SplitInfo("train", num_bytes=counted.num_bytes, num_examples=counted.rows))
        info = DatasetInfo(
            features=features,
            splits=splits,
            download_size=counted.download_bytes,
            dataset_size=counted.num_bytes,
        )
        infos.append({"config_name": config, **info._to_yaml_dict()})
    return infos


def size_category(rows: int) -> str:
    """The Hub's size category for a number of rows."""
    return next((category for limit, category in _SIZE_CATEGORIES.items() if rows < limit), "n>1B")


def render(template: str, **values: Any) -> str:
    """Renders a template of this folder, with the filters `plain`, `brief` and `percent`."""
    # HTML escapes do not make Markdown safe, so untrusted text goes through `plain`.
    environment = Environment(  # nosec B701
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    environment.filters.update(plain=_plain, percent=_percent, brief=_brief)
    return environment.get_template(template).render(**values)


def _plain(value: Any) -> str:
    """Escapes untrusted text for one line of Markdown: no markup, no live links."""
    if isinstance(value, (int, float)):
        return str(value)
    text = cut(" ".join(str(value).split()), MAX_REASON)
    text = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
    return _LINKS.sub("<!-- -->", _MARKS.sub(r"\\\g<0>", text))


def _brief(value: Any) -> str:
    text = " ".join(str(value).split())
    return _plain(text if len(text) <= 400 else f"{text[:400]} ...")


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "-"
