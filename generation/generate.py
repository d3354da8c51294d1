"""The main job: generates a dataset of instruction rows from images."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from vigc.errors import GenerationError
from vigc.generation.correctors import default_corrector
from vigc.options import Option, check_path, meant, settings_of, unknown
from vigc.processing import INSTRUCTION_TYPES

from .settings import INPUT, JOB, JobSettings

if TYPE_CHECKING:
    from vigc.generation.filters import Selection
    from vigc.generation.rollouts.generate import PairWorker
    from vigc.generation.sources.base import Collection, Source
    from vigc.jobs import ShardOutput
    from vigc.jobs.protocols import Record

    from .finalize import Summary

DEFAULT_TYPES = ("conversation", "detail", "complex")
Format = Literal["folder", "coco", "objects365", "dataset", "llava"]
FORMATS: tuple[str, ...] = get_args(Format)

_SHORT = "Short answers (okvqa, aokvqa, vqav2)"


def generate_dataset(images: str | os.PathLike[str], output: str | os.PathLike[str], **fields: Any) -> Summary:
    """Generates questions and corrected answers about images, in a dataset folder that `load_dataset` reads.

    The same call resumes an interrupted job; a finished job is not changed.

    ```python
    generate_dataset("photos/", "vigc-photos", model="vigc-7b", types=["detail"], settings={"iqf_steps": 2})
    ```

    Args:
        images: A folder of images (searched recursively), one image, or an input of another `format`.
        output: The output folder: new, empty, or of the same job.
        fields: Fields of [`GenerateJob`] and [`JobSettings`]; only `model` is required.

    Returns:
        Counts of the whole folder, skipped inputs and rejected samples with reasons, and sample rows.

    Raises:
        VigcError: Invalid inputs, settings or folder; `exit_code` gives the class of the error.
    """
    from .run import run_job

    return run_job(GenerateJob(images=images, **fields), output)


@dataclass(frozen=True, kw_only=True)
class GenerateJob(JobSettings):
    """Settings of a job that generates questions and answers about images; see [`JobSettings`] for the others."""

    kind = "generate"

    images: Annotated[
        str | os.PathLike[str],
        Option(
            "A folder of images, searched with its sub-folders, or one image; with --format an annotation file, a "
            "conversation file or a dataset.",
            INPUT,
            common=True,
            argument=True,
        ),
    ]
    format: Annotated[
        Format,
        Option(
            "Format of IMAGES: a folder, annotations (coco, objects365), a conversation file (llava), or a dataset "
            "(parquet files, a dataset folder or a Hub name).",
            INPUT,
            common=True,
        ),
    ] = "folder"
    types: Annotated[
        Sequence[str], Option("Task types to generate, comma-separated.", JOB, common=True, commas=True)
    ] = DEFAULT_TYPES
    correct: Annotated[
        bool,
        Option(
            "Whether to correct drafts; otherwise the answer is the draft, as with --corrector none.",
            JOB,
            common=True,
            flags=("--correct/--no-correct",),
        ),
    ] = True
    questions: Annotated[int, Option("Number of different questions per image and task type.", JOB, min=1)] = 1
    answers: Annotated[
        int, Option("Number of weighted answers; 0: one answer, as for other task types.", _SHORT, min=0)
    ] = 0
    answer_threshold: Annotated[float, Option("Minimum weight of an answer, out of 100.", _SHORT)] = 0.0
    first_words: Annotated[
        str | os.PathLike[str] | None,
        Option("JSON file with the frequency of each first word of questions.", _SHORT, path="file"),
    ] = None
    exclude_ids: Annotated[
        Sequence[str | os.PathLike[str]],
        Option(
            "Exclude the images that this file lists (ids or names; text or JSON); repeatable.",
            INPUT,
            path="file",
        ),
    ] = ()
    exclude_images: Annotated[
        Sequence[str | os.PathLike[str]],
        Option("Exclude images that look like one in this folder; repeatable.", INPUT, path="any"),
    ] = ()
    dedup: Annotated[
        bool, Option("Find exact duplicates in the whole job by a hash pass, not only within a shard.", INPUT)
    ] = False

    def __post_init__(self) -> None:
        _check_types(self.types)
        if not self.correct and self.corrector not in (None, "none"):
            raise GenerationError(f"correct=False contradicts the corrector {self.corrector!r}: give one of them.")
        super().__post_init__()
        if self.answers:
            self._check_answers()
        elif self.answer_threshold or self.first_words:
            raise GenerationError("A threshold and first words are for several answers: give --answers too.")

    def _check_answers(self) -> None:
        from vigc.generation.rollouts.short_answers import takes_short_answers

        if not any(takes_short_answers(kind) for kind in self.types):
            given = ", ".join(self.types)
            raise GenerationError(f"None of {given} has short answers: several are for okvqa, aokvqa, vqav2.")
        if not self.corrects:
            raise GenerationError("--answers needs a correction: remove --answers, or choose another --corrector.")

    def check_paths(self) -> None:
        """See [`JobSettings.check_paths`]; a missing dataset may be on the Hub."""
        if not self.in_tables:
            what = "any" if self.format == "folder" else "file"
            check_path(settings_of(GenerateJob)["images"], self.images, GenerationError, what)
        super().check_paths()

    @property
    def chosen_corrector(self) -> str:
        """The name of the corrector; "none" with `correct=False`."""
        return default_corrector(correct=self.correct) if self.corrector is None else self.corrector

    @property
    def worker(self) -> type[PairWorker]:
        """The worker that generates pairs of a question and an answer."""
        from vigc.generation.rollouts.generate import PairWorker

        return PairWorker

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
        """The folder of the images, or the file or dataset that names or contains them."""
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
        """The images without those that filters exclude; each filter gets the setting of its name."""
        from vigc.generation.filters import FILTERS, Selection

        filters = {name: getattr(self, name) for name in FILTERS}
        return Selection(self.collection(), filters, self.limit, self.shard_size)

    def asked(self, sources: Sequence[Source], output: ShardOutput) -> int:
        """The number of images times questions times task types."""
        return output.images * len(self.types) * self.questions

    def configuration(self) -> Record:
        """Task types and numbers of questions and answers."""
        return {"types": list(self.types), "questions": self.questions, "short_answers": self._short_answers()}

    def _short_answers(self) -> Record | None:
        from vigc.generation.rollouts.short_answers import read_first_words

        if not self.answers:
            return None
        words = None if self.first_words is None else read_first_words(Path(self.first_words))
        return {"count": self.answers, "threshold": self.answer_threshold, "first_words": words}


def _check_types(types: Sequence[str]) -> None:
    if isinstance(types, str):
        raise GenerationError(f"types={types!r} is one string: give a list of types.")
    strange = [kind for kind in types if kind not in INSTRUCTION_TYPES]
    if strange or not types:
        given = ", ".join(map(repr, strange)) or "no type"
        raise GenerationError(
            f"Types: {given} is not known: use one or more of {', '.join(INSTRUCTION_TYPES)}."
            f"{meant(strange[0], list(INSTRUCTION_TYPES)) if strange else ''}"
        )
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
    """Opens the inputs of a job in the given format.

    Raises:
        GenerationError: The inputs cannot be read, or the format is unknown.
    """
    from vigc.formats.coco import INSTANCES
    from vigc.generation.sources.base import Folder
    from vigc.generation.sources.json_file import Annotated as AnnotatedImages
    from vigc.generation.sources.json_file import LlavaPictures

    root = Path(image_root) if image_root is not None else images.parent
    if format == "folder":
        return Folder(images)
    if format in INSTANCES:
        return AnnotatedImages(images, root, format, urls)
    if format == "llava":
        return LlavaPictures(images, root, urls)
    if format == "dataset":
        from vigc.generation.sources.dataset import DatasetRows

        return DatasetRows(str(images), subset=subset, split=split, revision=revision, urls=urls)
    raise GenerationError(unknown("format", format, FORMATS))
