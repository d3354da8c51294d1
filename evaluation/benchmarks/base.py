"""The base of all benchmarks: questions about images with references, counts, and metrics."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, ClassVar, NamedTuple

from vigc.errors import EvaluationError, ImagePathError
from vigc.formats.coco import coco_names
from vigc.processing.confined_paths import ListedFolder

from .settings import DataSettings as DataSettings

# A model's answers by question; None if the image could not be opened, which counts as an empty answer.
Predictions = Mapping[str, str | None]
# Sums and metrics by name: numbers, or arrays with a number per resample.
Numbers = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Question:
    """A question about an image.

    Args:
        id: Unique id in the benchmark.
        image_id: Id of the image; the bootstrap resamples all questions of an image together.
        picture: The image file, or its bytes; None if the file does not exist.
        name: Name of the image in the data.
        text: The question for VIC.
        prompt: The prompt for a chat model.
        task: The task type for VIC; None for a bare question.
        reference: The reference answers and other fields for metrics and submissions.
    """

    id: str
    image_id: str
    picture: Path | bytes | None
    name: str
    text: str
    prompt: str
    task: str | None
    reference: Mapping[str, Any]


class Wording(NamedTuple):
    """The prompts of a question: `text`, `prompt` and `task` of [`Question`]."""

    text: str
    prompt: str
    task: str | None


@dataclass(frozen=True, slots=True)
class Unit:
    """The counts of one question, from whose sums metrics are computed.

    Args:
        id: Id of the question; of the first one if it is asked several times.
        image_id: Id of the image.
        counts: Counts by name; all units of a run have the same names.
    """

    id: str
    image_id: str
    counts: dict[str, float]


@dataclass(frozen=True, slots=True)
class Option:
    """An option of a single benchmark; its command has the option too.

    Args:
        name: The name in `DataSettings.options`; with hyphens on the command line.
        help: The help text.
        kind: Type of the value: `Path`, `str`, `int`, `float` or `bool`.
        default: Description of the default.
    """

    name: str
    help: str
    kind: type = str
    default: str | None = None


@dataclass
class Benchmark(ABC):
    """A benchmark, read from the files that its authors publish.

    A subclass reads the files (`read`), scores answers (`units`, `figures`), and writes the file for its authors'
    server or script (`submission`).

    Args:
        settings: The benchmark's files and the selection of questions.
    """

    settings: DataSettings
    folders: dict[Path, ListedFolder] = field(default_factory=dict, repr=False)
    # Whether a subset of the images can be scored, as when questions are made here; and the number of skipped images.
    partial: bool = field(default=False, init=False)
    skipped: int = field(default=0, init=False)

    name: ClassVar[str]
    title: ClassVar[str]
    summary: ClassVar[str]  # help text of the command
    source: ClassVar[str]  # where to get its files
    metric: ClassVar[str]  # the module in metrics/
    main: ClassVar[str]  # the main metric
    template: ClassVar[str] = "{question}"
    asks: ClassVar[tuple[str, ...]] = ("{question}",)  # a prompt must have one of these; empty: any prompt is valid
    options: ClassVar[tuple[Option, ...]] = ()
    max_new_tokens: ClassVar[int] = 128
    image_folders: ClassVar[tuple[str, ...]] = ("images", "val2014", "")

    @abstractmethod
    def read(self) -> list[Question]:
        """All questions, in the order of the files."""

    @abstractmethod
    def units(self, questions: Sequence[Question], predictions: Predictions) -> list[Unit]:
        """The counts of all questions; empty if the reference answers are not published."""

    @abstractmethod
    def figures(self, sums: Numbers) -> Numbers:
        """The metrics from sums over units: numbers give numbers, arrays give arrays of their shape."""

    @abstractmethod
    def submission(self, questions: Sequence[Question], predictions: Predictions, model: str) -> dict[str, bytes]:
        """The answers in the layout of the benchmark's authors, by extension of the file."""

    def questions(self, usable: Callable[[Question], bool] = lambda question: True) -> list[Question]:
        """The selected questions: all, or those of a sample of the images, in the order of the files.

        Args:
            usable: Whether a question has an image or an answer. If the benchmark is `partial`, images without any
                usable question are skipped and counted in `skipped`, unless there is no usable question.
        """
        found = self.read()
        if not found:
            raise EvaluationError(f"{self.title}: the files in {self.settings.data} have no questions.")
        listed = {question.image_id for question in found}
        kept = {question.image_id for question in found if usable(question)} if self.partial else listed
        images = sorted(kept or listed)
        self.skipped = len(listed) - len(images)
        limit = self.settings.limit
        if limit is not None and limit < len(images):
            images = Random(f"{self.name}/{self.settings.seed}").sample(images, limit)
        drawn = set(images)
        return [question for question in found if question.image_id in drawn]

    def asked(self, text: str, task: str | None = None, **words: str) -> Wording:
        """The prompts of a question.

        Args:
            text: The bare question.
            task: The task type for VIC.
            words: Other fields that the template may use.

        Raises:
            EvaluationError: The given template has an unknown field.
        """
        own = self.settings.prompt
        try:
            prompt = (own or self.template).format(question=text, **words)
        except (KeyError, IndexError, ValueError) as error:
            names = ", ".join(f"{{{name}}}" for name in ("question", *words))
            raise EvaluationError(f"The prompt {own!r} cannot be filled ({error!r}): it may use {names}.") from error
        # VIC has its own prompts by task type; a given prompt is used unchanged.
        return Wording(text, prompt, task) if own is None else Wording(prompt, prompt, None)

    def file(self, *names: str, folders: Sequence[str] = ("", "annotations")) -> Path:
        """The first of these files that exists.

        Raises:
            EvaluationError: None exists; the message names them and their source.
        """
        found = self.file_if_any(*names, folders=folders)
        if found is None:
            listed = " or ".join(names)
            raise EvaluationError(f"{self.title} needs {listed} in {self.settings.data}: get it from {self.source}.")
        return found

    def file_if_any(self, *names: str, folders: Sequence[str] = ("", "annotations")) -> Path | None:
        """The first of these files that exists, or None.

        Raises:
            EvaluationError: The folder does not exist.
        """
        if not self.settings.data.is_dir():
            raise EvaluationError(
                f"{self.settings.data} is not a folder: give --data the folder with {self.title}'s files."
            )
        paths = [self.settings.data / folder / name for name in names for folder in folders]
        return next((path for path in paths if path.is_file()), None)

    def picture(self, *names: str) -> Path | None:
        """The first of these images that exists, or None.

        Raises:
            EvaluationError: A name is outside the folder.
        """
        roots = [self.settings.images] if self.settings.images else self._image_roots()
        for root in roots:
            for name in names:
                try:
                    found = self.folders.setdefault(root, ListedFolder(root)).find(name)
                except ImagePathError as error:
                    raise EvaluationError(f"The image {error.name!r} is not in {root}: it {error.reason}.") from error
                if found is not None:
                    return found
        return None

    def _image_roots(self) -> list[Path]:
        return [self.settings.data / folder for folder in self.image_folders]


def picture_names(name: str) -> tuple[str, ...]:
    """Possible file names of an image: the name itself, and COCO's name if it is an image of COCO."""
    last = Path(name).stem.rsplit("_", 1)[-1]
    return (name, *(coco_names(int(last), "val2014") if last.isdigit() else ()))


def digest_of(questions: Sequence[Question]) -> str:
    """A digest of the questions, 16 hexadecimal digits."""
    asked = [(question.id, question.name, question.text, question.prompt, question.task) for question in questions]
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:16]
