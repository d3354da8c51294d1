"""VIC over a dataset of others: its questions are answered again, and both answers are kept."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

from vigc.errors import GenerationError
from vigc.options import Option, check_path, settings_of, unknown
from vigc.processing import INSTRUCTION_TYPES

from .row_schema import CORRECTED
from .settings import INPUT, JobSettings

if TYPE_CHECKING:
    from vigc.generation.filters import Selection
    from vigc.generation.rollouts.correct import CorrectionWorker
    from vigc.generation.sources.base import Collection, Source
    from vigc.jobs import ShardOutput
    from vigc.jobs.protocols import Record

    from .finalize import Summary

    WorkerClass: TypeAlias = type[CorrectionWorker]  # in the class, `type` is a setting

_SUFFIXES = (".json", ".jsonl", ".ndjson")  # of conversations
_TABLES = (".parquet", ".csv", ".tsv", ".tar", ".arrow")


def correct_dataset(dataset: str | os.PathLike[str], output: str | os.PathLike[str], **fields: Any) -> Summary:
    """Answers the questions of a dataset again with VIC: a copy with the old answer as `draft`, the new as `answer`.

    An export in the layout that was read gives back what `extra` keeps: of a LLaVA entry every field, turn and id; of
    TRL's columns `id`, `type` and the system message (and what was rejected, in `extra` alone); of FineVision's the
    ratings, where the text is unchanged. Entries without image are passed on as they are, those with several are
    skipped. All else is as in `generate_dataset`: the same folder, the same resuming.

    Args:
        dataset: A file of conversations in LLaVA's, TRL's or FineVision's form (a JSON list or JSON Lines, also
            compressed by gzip), or a dataset in columns of these forms: a file of rows, a folder or a name on the Hub.
        output: The folder to write.
        fields: All that is set of [`CorrectJob`] and [`JobSettings`]; only `model` has no default.

    Returns:
        Counts over the whole folder, what was skipped and rejected and why, and sample rows.

    Raises:
        VigcError: Inputs, settings or a folder that cannot be worked with; its `exit_code` says of which kind.
    """
    from .run import run_job

    return run_job(CorrectJob(dataset=dataset, **fields), output)


@dataclass(frozen=True, kw_only=True)
class CorrectJob(JobSettings):
    """Answers to given questions are written again. What is not listed here is said of [`JobSettings`]."""

    kind = "correct"

    dataset: Annotated[
        str | os.PathLike[str],
        Option(
            "Conversations in the layout of LLaVA, TRL or FineVision: JSON, or a dataset (parquet, folder, Hub name).",
            INPUT,
            common=True,
            argument=True,
        ),
    ]
    type: Annotated[
        str | None,
        Option(
            "The task type of the questions, if they have one; it selects VIC's prompt.",
            INPUT,
            common=True,
        ),
    ] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if "iqf_draft" in self.given:
            raise GenerationError("iqf_draft has no effect on given questions, for which VIG writes nothing: drop it.")
        if self.type is not None and self.type not in INSTRUCTION_TYPES:
            raise GenerationError(unknown("type", self.type, list(INSTRUCTION_TYPES)))

    @property
    def worker(self) -> WorkerClass:
        """Writes answers to given questions."""
        from vigc.generation.rollouts.correct import CorrectionWorker

        return CorrectionWorker

    def check_paths(self) -> None:
        """As of [`JobSettings`]; what is not here may be a dataset on the Hub."""
        path = Path(self.dataset)
        if path.is_absolute() or path.suffix in (*_SUFFIXES, *_TABLES):
            check_path(settings_of(CorrectJob)["dataset"], path, GenerationError, "any")
        super().check_paths()

    @property
    def in_tables(self) -> bool:
        """Whether what is corrected is a dataset, and no file of conversations; of a file its content tells."""
        from vigc.formats.file_forms import Form, suffix_of
        from vigc.formats.json_rows import json_form
        from vigc.generation.sources.errors import naming_files

        path = Path(self.dataset)
        if not path.is_file():
            return path.is_dir() or suffix_of(path) not in _SUFFIXES
        with naming_files():
            form = json_form(path)
        return form in (Form.PARQUET, Form.ARROW) or (form is Form.OTHER and suffix_of(path) in _TABLES)

    @property
    def hub_dataset(self) -> str | None:
        """What is corrected, if it is on the Hub."""
        path = Path(self.dataset)
        return str(path) if self.in_tables and not path.exists() else None

    @property
    def places(self) -> list[str | os.PathLike[str]]:
        """The folder of the images, or the dataset."""
        return [self.dataset if self.image_root is None else self.image_root]

    def collection(self) -> Collection:
        """Opens the dataset."""
        from vigc.generation.sources.conversations import DatasetConversations, LlavaConversations

        path = Path(self.dataset)
        if not self.in_tables:
            root = path.parent if self.image_root is None else Path(self.image_root)
            return LlavaConversations(path, root, self.allow_urls)
        return DatasetConversations(
            str(path), subset=self.subset, split=self.split, revision=self.data_revision, urls=self.allow_urls
        )

    def selection(self) -> Selection:
        """All entries."""
        from vigc.generation.filters import Selection

        return Selection(self.collection(), limit=self.limit, shard_size=self.shard_size)

    def asked(self, sources: Sequence[Source], output: ShardOutput) -> int:
        """Each question of each entry, but for those that were skipped."""
        asked = sum(len(source.pairs or ()) for source in sources)
        return asked - sum(skipped.get("pairs", 0) for skipped in output.skipped)

    def configuration(self) -> Record:
        """The one type."""
        return {"types": [self.type or CORRECTED]}
