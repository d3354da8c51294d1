"""What every benchmark is made of: questions about pictures, what their answers are held against, and figures."""

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

# A model's answers by question; None where a picture could not be opened, which counts as an empty answer.
Predictions = Mapping[str, str | None]
# Sums and figures by name: numbers, or arrays with a number for each resample.
Numbers = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Question:
    """One thing that is asked about one picture.

    Args:
        id: Its own in the benchmark.
        image_id: Questions of one picture are drawn together when chance is estimated.
        picture: The file, or its bytes; None if there is no such file.
        name: What the data call the picture.
        text: What VIC is asked.
        prompt: What a chat model is asked.
        task: The type of instruction that VIC knows the question as; None for a bare question.
        reference: What the answer is held against, and what a submission needs.
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
    """How a question is put, in the order of [`Question`]: `text`, `prompt`, `task`."""

    text: str
    prompt: str
    task: str | None


@dataclass(frozen=True, slots=True)
class Unit:
    """What one question adds to the sums that figures are made of.

    Args:
        id: The question's; of a question that is asked several times the first one's.
        image_id: Its picture.
        counts: By name; every unit of a run has the same names.
    """

    id: str
    image_id: str
    counts: dict[str, float]


@dataclass(frozen=True, slots=True)
class Option:
    """An option that a benchmark has for itself: declared in its class, it is an option of its command too.

    Args:
        name: As in `DataSettings.options`; on the command line with hyphens.
        help: What it is.
        kind: What its value is: `Path`, `str`, `int`, `float` or `bool`.
        default: What is taken without it, in words.
    """

    name: str
    help: str
    kind: type = str
    default: str | None = None


@dataclass
class Benchmark(ABC):
    """A benchmark, read from the files that its authors publish.

    A subclass says what its files are called (`read`), how answers are counted (`units`, `figures`) and what its
    authors' server or script takes (`submission`).

    Args:
        settings: Where its files lie.
    """

    settings: DataSettings
    folders: dict[Path, ListedFolder] = field(default_factory=dict, repr=False)
    # Whether a part of the images can be scored alone, as where the questions are made here; and how many are skipped.
    partial: bool = field(default=False, init=False)
    skipped: int = field(default=0, init=False)

    name: ClassVar[str]
    title: ClassVar[str]
    summary: ClassVar[str]  # what its command says of it
    source: ClassVar[str]  # where its files come from
    metric: ClassVar[str]  # the module under metrics/
    main: ClassVar[str]  # the figure that is quoted
    template: ClassVar[str] = "{question}"
    asks: ClassVar[tuple[str, ...]] = ("{question}",)  # of these a prompt names one or more; none: any prompt will do
    options: ClassVar[tuple[Option, ...]] = ()  # its own
    max_new_tokens: ClassVar[int] = 128
    image_folders: ClassVar[tuple[str, ...]] = ("images", "val2014", "")

    @abstractmethod
    def read(self) -> list[Question]:
        """All questions, in the order of the files."""

    @abstractmethod
    def units(self, questions: Sequence[Question], predictions: Predictions) -> list[Unit]:
        """What each question adds to the sums; none where the answers are not published."""

    @abstractmethod
    def figures(self, sums: Numbers) -> Numbers:
        """The figures of sums over units: numbers give numbers, arrays give arrays of their shape."""

    @abstractmethod
    def submission(self, questions: Sequence[Question], predictions: Predictions, model: str) -> dict[str, bytes]:
        """The answers in the form that the benchmark's authors take, by the ending of the file's name."""

    def questions(self, usable: Callable[[Question], bool] = lambda question: True) -> list[Question]:
        """The questions that are asked: all, or those of the drawn pictures, in the order of the files.

        Args:
            usable: Whether a question has what it needs, a picture or an answer. Images without any such question are
                skipped, and counted in `skipped`, if the benchmark is `partial` and others have some.
        """
        found = self.read()
        if not found:
            raise EvaluationError(f"{self.title}: the files in {self.settings.data} hold no questions.")
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
        """How a question is put.

        Args:
            text: The bare question.
            task: The type of instruction that it is for VIC.
            words: What else the template may name.

        Raises:
            EvaluationError: The template given names something else.
        """
        own = self.settings.prompt
        try:
            prompt = (own or self.template).format(question=text, **words)
        except (KeyError, IndexError, ValueError) as error:
            names = ", ".join(f"{{{name}}}" for name in ("question", *words))
            raise EvaluationError(f"The prompt {own!r} cannot be filled ({error!r}): it may name {names}.") from error
        # VIC has its own words for a type's questions; a prompt that was given is meant to be asked as it is.
        return Wording(text, prompt, task) if own is None else Wording(prompt, prompt, None)

    def file(self, *names: str, folders: Sequence[str] = ("", "annotations")) -> Path:
        """The first of these files that is there.

        Raises:
            EvaluationError: None is; it says which and where they come from.
        """
        found = self.file_if_any(*names, folders=folders)
        if found is None:
            listed = " or ".join(names)
            raise EvaluationError(f"{self.title} needs {listed} in {self.settings.data}: get it from {self.source}.")
        return found

    def file_if_any(self, *names: str, folders: Sequence[str] = ("", "annotations")) -> Path | None:
        """The first of these files that is there, or None.

        Raises:
            EvaluationError: There is no such folder at all.
        """
        if not self.settings.data.is_dir():
            raise EvaluationError(
                f"{self.settings.data} is no folder: give --data the folder with {self.title}'s files."
            )
        paths = [self.settings.data / folder / name for name in names for folder in folders]
        return next((path for path in paths if path.is_file()), None)

    def picture(self, *names: str) -> Path | None:
        """The first of these pictures that is there, or None.

        Raises:
            EvaluationError: A name that leads out of the folder.
        """
        roots = [self.settings.images] if self.settings.images else self._image_roots()
        for root in roots:
            for name in names:
                try:
                    found = self.folders.setdefault(root, ListedFolder(root)).find(name)
                except ImagePathError as error:
                    raise EvaluationError(
                        f"The picture {error.name!r} does not lie under {root}: it {error.reason}."
                    ) from error
                if found is not None:
                    return found
        return None

    def _image_roots(self) -> list[Path]:
        return [self.settings.data / folder for folder in self.image_folders]


def picture_names(name: str) -> tuple[str, ...]:
    """The name itself, and what COCO calls the picture if it is one of COCO's."""
    last = Path(name).stem.rsplit("_", 1)[-1]
    return (name, *(coco_names(int(last), "val2014") if last.isdigit() else ()))


def digest_of(questions: Sequence[Question]) -> str:
    """16 hexadecimal digits that change with what is asked."""
    asked = [(question.id, question.name, question.text, question.prompt, question.task) for question in questions]
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:16]
