"""The main job: images become a dataset of instruction rows."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vigc.errors import GenerationError
from vigc.formats.coco import INSTANCES
from vigc.generation.correctors import default_corrector
from vigc.generation.filters import FILTERS, Selection
from vigc.generation.rollouts.generate import PairWorker
from vigc.generation.rollouts.short_answers import read_first_words, takes_short_answers
from vigc.generation.sources.base import Collection, Folder, Source
from vigc.generation.sources.json_file import Annotated, LlavaPictures
from vigc.jobs import ShardOutput
from vigc.jobs.protocols import Record
from vigc.processing import INSTRUCTION_TYPES

from .finalize import Summary
from .run import run_job
from .settings import JobSettings, at_least

DEFAULT_TYPES = ("conversation", "detail", "complex")
FORMATS = ("folder", "coco", "objects365", "dataset", "llava")


def generate_dataset(images: str | os.PathLike[str], output: str | os.PathLike[str], **fields: Any) -> Summary:
    """Writes questions and corrected answers about images, as a dataset folder that `load_dataset` reads.

    A job that was interrupted is resumed when it is called again; a finished one is left alone.

    ```python
    generate_dataset("photos/", "vigc-photos", model="vigc-7b", types=["detail"], settings={"iqf_steps": 2})
    ```

    Args:
        images: A folder of images, searched with its sub-folders, or one image; or what `format` says.
        output: The folder to write: new, empty, or with this job in it.
        fields: All that is set of [`GenerateJob`] and [`JobSettings`]; only `model` has no default.

    Returns:
        Counts over the whole folder, what was skipped and rejected and why, and sample rows.

    Raises:
        VigcError: Inputs, settings or a folder that cannot be worked with; its `exit_code` says of which kind.
    """
    return run_job(GenerateJob(images=images, **fields), output)


@dataclass(frozen=True, kw_only=True)
class GenerateJob(JobSettings):
    """Questions and answers are written about images. What is not listed here is said of [`JobSettings`].

    Args:
        images: What `format` says: a folder of images, searched with its sub-folders, or one image; an annotation
            file; a dataset.
        format: "folder", "coco" or "objects365" (annotations), "llava" (a conversation file), or "dataset" (parquet
            files, a dataset's folder or its Hub name).
        types: The types of instruction to write about every image.
        correct: Whether drafts are corrected; without it the answer is the draft, as with `corrector="none"`.
        questions: How many questions of each type to ask about an image, all different.
        answers: For types with short answers: how many, with weights; 0 writes one as for the other types.
        answer_threshold: The least weight of an answer, of 100.
        first_words: For types with short answers: a JSON file that says how often each word begins a question.
        exclude_ids: Files of ids or names (text, or JSON of any known form) of images to exclude.
        exclude_images: Folders of pictures; what looks like one of them is left out.
        dedup: Find exact copies in the whole job by a hash pass, not only within a shard.
    """

    kind = "generate"
    worker_class = PairWorker

    images: str | os.PathLike[str]
    format: str = "folder"
    types: Sequence[str] = DEFAULT_TYPES
    correct: bool = True
    questions: int = 1
    answers: int = 0
    answer_threshold: float = 0.0
    first_words: str | os.PathLike[str] | None = None
    exclude_ids: Sequence[str | os.PathLike[str]] = ()
    exclude_images: Sequence[str | os.PathLike[str]] = ()
    dedup: bool = False

    def __post_init__(self) -> None:
        _check_types(self.types)
        if not self.correct and self.corrector not in (None, "none"):
            raise GenerationError(f"correct=False contradicts the corrector {self.corrector!r}: give one of them.")
        super().__post_init__()
        at_least(1, questions=self.questions)
        at_least(0, answers=self.answers)
        if self.answers and not any(takes_short_answers(kind) for kind in self.types):
            given = ", ".join(self.types)
            raise GenerationError(f"None of {given} has short answers: several are for okvqa, aokvqa, vqav2.")
        if self.answers and not self.corrects:
            raise GenerationError("Several answers are VIC's: drop --answers, or let answers be corrected.")
        if not self.answers and (self.answer_threshold or self.first_words):
            raise GenerationError("A threshold and first words are for several answers: give --answers too.")

    @property
    def chosen_corrector(self) -> str:
        """The name of the corrector; "none" with `correct=False`."""
        return default_corrector(correct=self.correct) if self.corrector is None else self.corrector

    @property
    def in_tables(self) -> bool:
        """Whether images are in the rows of a dataset."""
        return self.format == "dataset"

    @property
    def hub_dataset(self) -> str | None:
        """The dataset of the images, if it is on the Hub."""
        return str(Path(self.images)) if self.in_tables and not os.path.exists(self.images) else None

    @property
    def places(self) -> list[str | os.PathLike[str]]:
        """The folder of the images, or what names or holds them."""
        return [self.images if self.image_root is None else self.image_root]

    def collection(self) -> Collection:
        """Opens the images."""
        return open_collection(
            Path(self.images),
            self.format,
            self.image_root,
            subset=self.subset,
            split=self.split,
            urls=self.allow_urls,
            revision=self.data_revision,
        )

    def selection(self) -> Selection:
        """The images, less those that filters exclude; each filter is given the setting of its name."""
        filters = {name: getattr(self, name) for name in FILTERS}
        return Selection(self.collection(), filters, self.limit, self.shard_size)

    def asked(self, sources: Sequence[Source], output: ShardOutput) -> int:
        """Each question of each type about each image."""
        return output.images * len(self.types) * self.questions

    def configuration(self) -> Record:
        """Types, and how many questions and answers."""
        return {"types": list(self.types), "questions": self.questions, "short_answers": self._short_answers()}

    def _short_answers(self) -> Record | None:
        if not self.answers:
            return None
        words = None if self.first_words is None else read_first_words(Path(self.first_words))
        return {"count": self.answers, "threshold": self.answer_threshold, "first_words": words}


def _check_types(types: Sequence[str]) -> None:
    if isinstance(types, str):
        raise GenerationError(f"types={types!r} is one string: give a list of types.")
    unknown = [kind for kind in types if kind not in INSTRUCTION_TYPES]
    if unknown or not types:
        given = ", ".join(map(repr, unknown)) or "no type"
        raise GenerationError(f"Types: {given} is not known: use one or more of {', '.join(INSTRUCTION_TYPES)}.")
    if len(set(types)) < len(types):
        raise GenerationError(f"Types: {', '.join(types)} names one twice: give each once.")


def open_collection(
    images: Path,
    format: str,
    image_root: str | os.PathLike[str] | None = None,
    *,
    subset: str | None = None,
    split: str = "train",
    urls: Sequence[str] = (),
    revision: str | None = None,
) -> Collection:
    """The inputs of a job, by their format.

    Raises:
        GenerationError: They cannot be read, or the format is not known.
    """
    root = Path(image_root) if image_root is not None else images.parent
    if format == "folder":
        return Folder(images)
    if format in INSTANCES:
        return Annotated(images, root, format, urls)
    if format == "llava":
        return LlavaPictures(images, root, urls)
    if format == "dataset":
        from vigc.generation.sources.dataset import DatasetRows

        return DatasetRows(str(images), subset=subset, split=split, revision=revision, urls=urls)
    raise GenerationError(f"Format {format!r} is not known: use one of {', '.join(FORMATS)}.")
