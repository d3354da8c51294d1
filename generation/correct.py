"""Corrects an existing dataset with VIC: answers its questions again and keeps both answers."""

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

    `extra` keeps fields of the source for an export in the same layout: all fields, turns and ids of LLaVA; `id`,
    `type`, the system message and (in `extra` only) the rejected text of TRL; the ratings of FineVision where the text
    is unchanged. Entries without image are copied unchanged, entries with several images are skipped. Output folder and
    resuming are the same as in `generate_dataset`.

    Args:
        dataset: A file of conversations in the layout of LLaVA, TRL or FineVision (a JSON list or JSON Lines, also
            gzipped), or a dataset with columns of these layouts: a file of rows, a folder or a Hub name.
        output: The output folder.
        fields: Fields of [`CorrectJob`] and [`JobSettings`]; only `model` is required.

    Returns:
        Counts of the whole folder, skipped inputs and rejected samples with reasons, and sample rows.

    Raises:
        VigcError: Invalid inputs, settings or folder; `exit_code` gives the class of the error.
    """
    from .run import run_job

    return run_job(CorrectJob(dataset=dataset, **fields), output)


@dataclass(frozen=True, kw_only=True)
class CorrectJob(JobSettings):
    """Settings of a job that answers given questions again; see [`JobSettings`] for the others."""

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
            raise GenerationError("iqf_draft has no effect on given questions: remove it.")
        if self.type is not None and self.type not in INSTRUCTION_TYPES:
            raise GenerationError(unknown("type", self.type, list(INSTRUCTION_TYPES)))

    @property
    def worker(self) -> WorkerClass:
        """The worker that answers given questions."""
        from vigc.generation.rollouts.correct import CorrectionWorker

        return CorrectionWorker

    def check_paths(self) -> None:
        """See [`JobSettings.check_paths`]; a missing dataset may be on the Hub."""
        path = Path(self.dataset)
        if path.is_absolute() or path.suffix in (*_SUFFIXES, *_TABLES):
            check_path(settings_of(CorrectJob)["dataset"], path, GenerationError, "any")
        super().check_paths()

    @property
    def in_tables(self) -> bool:
        """Whether the input is a dataset and not a file of conversations; may read the file to decide."""
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
        """The name of the input dataset, if it is on the Hub."""
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
        """The number of questions of all entries that were not skipped."""
        asked = sum(len(source.pairs or ()) for source in sources)
        return asked - sum(skipped.get("pairs", 0) for skipped in output.skipped)

    def configuration(self) -> Record:
        """The task type."""
        return {"types": [self.type or CORRECTED]}
