"""The card of a generated dataset, and how the templates beside this file are filled."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import DatasetInfo, Features, SplitDict, SplitInfo
from huggingface_hub import DatasetCardData
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from vigc.errors import MAX_REASON, cut
from vigc.processing import INSTRUCTION_TYPES
from vigc.processing.bounded_parsing import JsonObject
from vigc.processing.rows import is_edited

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

# What Markdown gives a meaning to within a line; no line of a template begins with such a text.
_MARKS = re.compile(r"[\\`*_\[\]<>|&~$]")
# Where the Hub's Markdown would see an address, which no backslash prevents.
_LINKS = re.compile(r"(?<=:)(?=//)|(?<=www)(?=\.)|(?<=@)|(?<=mailto)(?=:)|(?<=xmpp)(?=:)", re.IGNORECASE)


@dataclass
class TypeFigures:
    """Counts of one type of instruction.

    Args:
        rows: How many rows there are.
        changed: In how many of them correction changed a word.
        malformed: How many texts were set aside.
        files: Number of parquet files.
        num_bytes: Size of the rows in memory.
        download_bytes: Size of the files.
        words_out: How many words of the drafts correction took out.
        words_in: How many it put in.
    """

    rows: int = 0
    changed: int = 0
    malformed: int = 0
    files: int = 0
    num_bytes: int = 0
    download_bytes: int = 0
    words_out: int = 0
    words_in: int = 0

    def add(self, rows: Sequence[Mapping[str, Any]], num_bytes: int, download_bytes: int) -> None:
        """Counts the rows of one more file."""
        self.rows += len(rows)
        self.changed += sum(is_edited(row["draft"], row["answer"]) for row in rows)
        self.files += 1
        self.num_bytes += num_bytes
        self.download_bytes += download_bytes

    def __add__(self, other: TypeFigures) -> TypeFigures:
        return TypeFigures(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))


@dataclass(frozen=True)
class DatasetFacts:
    """What the card of a generated dataset states.

    Args:
        name: Its title.
        features: The columns.
        types: Figures of each type.
        images: Number of pictures that were read.
        skipped: Number of files that could not be read.
        reasons: (kind, reason) of everything that was set aside, one by one or counted.
        configuration: All that decided what was written.
        config_hash: Its hash.
        command: Repeats the run.
        source: Where the pictures came from.
        license: Their licence; "unknown" is said in so many words.
        kind: "generate", or "correct" where questions and first answers were given.
        duplicates: Number of files that are exact copies of another one.
        dropped: Number of questions left out because the picture had the same one already.
        bare: Number of entries without picture, which were passed on as they were.
        repeated: Number of rows that have the id of another one.
        compared: Names of the lists and folders that pictures were compared with, to leave out what others use.
        excluded: Number of pictures left out, by reason.
        uncompared: By folder: how many files of it could not be read ("count"), so that nothing was compared with them,
            and the names of some ("first").
        licenses: Number of rows by licence, where pictures state their own.
        notice: What readers must know first, if there is such a thing.
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

    Scores and samples are read from the folder's rows; the samples' pictures are written under `samples/`.

    Args:
        folder: The dataset folder; each type's files lie under `<type>/`.
        facts: What it states.
        write: How files are written.
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
    """A configuration for all types together, the default, and one for each."""
    everything = [{"split": "train", "path": [f"{kind}/train-*.parquet" for kind in types]}]
    each = [
        {"config_name": kind, "data_files": [{"split": "train", "path": f"{kind}/train-*.parquet"}]} for kind in types
    ]
    return [{"config_name": "default", "data_files": everything, "default": True}, *each]


def _dataset_infos(features: Features, types: Mapping[str, TypeFigures]) -> list[JsonObject]:
    """Columns and sizes of each configuration; with them `load_dataset` notices that a cached copy is out of date."""
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
    """The Hub's name for that many rows."""
    return next((category for limit, category in _SIZE_CATEGORIES.items() if rows < limit), "n>1B")


def render(template: str, **values: Any) -> str:
    """A template of this folder, filled; `plain`, `brief` and `percent` are its filters."""
    # Markdown, which HTML's escapes do not make safe: what strangers wrote goes through `plain`.
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
    """Text of unknown origin on one line of Markdown, without effect on what surrounds it, and without live links."""
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
