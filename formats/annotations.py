"""Reads published annotation files into rows to train on.

```python
rows, missing = read_annotations("conversation_58k.json", "coco/train2017", layout="llava")
rows = stream_annotations(["v2_questions.json", "v2_annotations.json"], "coco/train2014", layout="vqav2")
```
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

from datasets import Dataset, IterableDataset, concatenate_datasets

from vigc.errors import AnnotationError, ImagePathError, LayoutError, short
from vigc.processing.confined_paths import ListedFolder
from vigc.processing.image_names import spellings, unusable
from vigc.processing.instructions_vigc import instruction_type
from vigc.processing.rows import TRAIN_FEATURES, Record

from .base import Format, Pair, PairReader
from .file_forms import stem_of
from .json_rows import stream_entries
from .table import LAYOUTS

logger = logging.getLogger(__name__)

_LLAVA_TYPES = ("conversation", "detail", "complex")

_BATCH = 2_000


@dataclass(frozen=True, slots=True)
class MissingImage:
    """An entry whose image is missing: the annotation file, the entry's index, and the image name (None if absent)."""

    path: Path
    index: int
    image: str | None


class Annotations(NamedTuple):
    """Rows with the columns of `TRAIN_FEATURES`, and the entries that were skipped."""

    rows: Dataset
    missing: list[MissingImage]


def read_annotations(
    files: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    images: str | os.PathLike[str],
    *,
    layout: str,
    type: str | None = None,
    source: str | None = None,
    license: str | None = None,
) -> Annotations:
    """Reads published annotations. Images are not opened: a row's `image` is decoded when it is accessed.

    Args:
        files: One file or, for "okvqa" and "vqav2", the questions and the annotations.
        images: The image folder.
        layout: One of `LAYOUTS`: "llava" (LLaVA-150K), "vigc" (VIGC's flat files), "vigc-aokvqa" (its A-OKVQA files),
            "aokvqa", "okvqa", "vqav2" (as published), "stable-llava".
        type: Task type; by default that of the layout or, for "llava", the one in the file name.
        source: Name of the dataset for the column `source`; by default the stem of the (first) file.
        license: Licence of the dataset for the column `license`.

    Returns:
        The rows, one per question (in a conversation one per turn, with `conversation_id` and `turn`), and the entries
        that were skipped because their image is missing or they have none.

    Raises:
        AnnotationError: A file is damaged or has another layout (the message names file, entry and field), or all
            images are missing.
        ValueError: An unknown layout or type, or the wrong number of files.
    """
    reading = _Reading.of(files, images, layout, type, source, license)
    rows = reading.rows()
    parts = []
    # As Arrow tables, the rows take a tenth of the memory that Python objects would take.
    while batch := list(islice(rows, _BATCH)):
        parts.append(Dataset.from_list(batch, features=TRAIN_FEATURES))
    if not parts:
        raise AnnotationError(reading.files[0], "holds no entries: there is nothing to train on.")
    return Annotations(concatenate_datasets(parts), reading.missing)


def stream_annotations(
    files: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    images: str | os.PathLike[str],
    *,
    layout: str,
    type: str | None = None,
    source: str | None = None,
    license: str | None = None,
) -> IterableDataset:
    """Like [`read_annotations`], row by row, for files larger than memory; missing images are logged at the end.

    If there are two files, the annotations are held in memory.
    """
    reading = partial(_Reading.of, files, images, layout, type, source, license)
    reading()  # to raise errors in the arguments now, and not when the first row is read
    return IterableDataset.from_generator(_stream, features=TRAIN_FEATURES, gen_kwargs={"reading": reading})


def _stream(reading: Callable[[], _Reading]) -> Iterator[Record]:
    yield from reading().rows()


@dataclass
class _Reading:
    """One pass over the annotations of one dataset."""

    files: list[Path]
    images: Path
    layout: Format
    type: str
    source: str
    license: str | None
    missing: list[MissingImage] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.folder = ListedFolder(self.images)

    @classmethod
    def of(
        cls,
        files: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        images: str | os.PathLike[str],
        layout: str,
        type: str | None,
        source: str | None,
        license: str | None,
    ) -> _Reading:
        if layout not in LAYOUTS:
            raise ValueError(f"layout {layout!r} is not known: use one of {', '.join(LAYOUTS)}.")
        paths = [Path(file) for file in ([files] if isinstance(files, (str, os.PathLike)) else files)]
        format = LAYOUTS[layout]
        wanted = len(format.lists) or 1
        if len(paths) != wanted:
            which = "its questions and its annotations" if wanted == 2 else "one file"
            raise ValueError(f"layout {layout!r} is read from {which}, but {len(paths)} files are given.")
        if not Path(images).is_dir():
            raise ValueError(f"{str(images)!r} is not a folder: give the folder of the images that {paths[0]} names.")
        kind = type or format.task or _type_of(paths[0])
        return cls(paths, Path(images), format, instruction_type(kind).name, source or stem_of(paths[0]), license)

    def rows(self) -> Iterator[Record]:
        """Training rows, with images as paths."""
        path, found = self.files[0], 0
        for index, pairs in self._pairs():
            try:
                for pair in pairs:
                    image = self._find(pair.pictures)
                    if image is None:
                        self.missing.append(MissingImage(path, index, pair.pictures[0] if pair.pictures else None))
                        break
                    found += 1
                    yield self._row(index, pair, image)
            except LayoutError as error:
                raise AnnotationError(path, str(error), index) from error
        self._report_missing(found)

    def _pairs(self) -> Iterator[tuple[int, Iterator[Pair]]]:
        """Index and pairs of each entry."""
        read = self.layout.pairs
        if read is None:
            raise AssertionError("every layout in LAYOUTS has a reader of pairs")
        if self.layout.lists:
            yield from self._pairs_of_two(read)
            return
        for index, entry in enumerate(stream_entries(self.files[0])):
            yield index, read(entry)

    def _pairs_of_two(self, read: PairReader) -> Iterator[tuple[int, Iterator[Pair]]]:
        """Index and pairs of each question, with its annotation from the other file."""
        (questions, annotated), (question_list, annotation_list) = self.files, self.layout.lists
        annotations = self._annotations(annotated, annotation_list)
        match = re.search(r"(train|val|test)(2014|2015|2017)", stem_of(questions))
        subset = match[0] if match else None
        for index, entry in enumerate(stream_entries(questions, question_list)):
            question_id = entry.get("question_id") if isinstance(entry, dict) else None
            annotation = annotations.pop(question_id, None) if _is_id(question_id) else None
            if annotation is None:
                reason = f"'question_id' {question_id!r} has no annotation in {annotated}, or occurs twice."
                raise AnnotationError(questions, reason, index)
            yield index, read({"question": entry, "annotation": annotation}, subset)
        if annotations:
            first = next(iter(annotations))
            raise AnnotationError(
                annotated,
                f"{len(annotations)} annotations answer no question of {questions}, the first {first!r}: these files "
                "do not belong together.",
            )

    def _annotations(self, path: Path, key: str) -> dict[int | str, Any]:
        annotations: dict[int | str, Any] = {}
        for index, entry in enumerate(stream_entries(path, key)):
            question_id = entry.get("question_id") if isinstance(entry, dict) else None
            if not _is_id(question_id) or question_id in annotations:
                raise AnnotationError(path, f"'question_id' is {question_id!r}: each annotation needs its own.", index)
            annotations[question_id] = entry
        return annotations

    def _find(self, names: tuple[str, ...]) -> Path | None:
        """The first of these images that exists, with its name as given or decoded."""
        if reason := next(filter(None, map(unusable, names)), None):
            raise LayoutError(f"the image {short(names[0])} {reason}.")
        for name in (spelling for given in names for spelling in spellings(given)):
            try:
                found = self.folder.find(name)
            except ImagePathError as error:
                reason = f"the image {error.name!r} is not under {self.images}: it {error.reason}."
                raise LayoutError(reason) from error
            if found is not None:
                return found
        return None

    def _row(self, index: int, pair: Pair, image: Path) -> Record:
        return {
            "image": {"bytes": None, "path": str(image)},
            "image_id": pair.image_id,
            "type": self.type,
            "question": pair.question,
            "answers": pair.answers,
            "weights": pair.weights,
            "source": self.source,
            "license": self.license,
            # Ids in the published files repeat; the index in the file does not.
            "conversation_id": f"{self.source}/{index}",
            "turn": pair.turn,
            "extra": json.dumps(pair.extra, ensure_ascii=False),
        }

    def _report_missing(self, found: int) -> None:
        if not self.missing:
            return
        names = ", ".join(short(entry.image) for entry in self.missing[:5])
        if not found:
            raise AnnotationError(
                self.files[0],
                f"none of the images of its {len(self.missing)} entries is under {self.images} (looked for {names}): "
                "give the folder that these names are relative to.",
            )
        logger.warning(
            "%s: skipped %d entries whose images are not under %s: %s%s",
            self.files[0],
            len(self.missing),
            self.images,
            names,
            ", ..." if len(self.missing) > 5 else "",
        )


def _is_id(value: Any) -> TypeGuard[int | str]:
    """Whether a value can be the id of a question; True would be equal to 1."""
    return isinstance(value, (int, str)) and not isinstance(value, bool)


def _type_of(path: Path) -> str:
    """The task type in the name of a LLaVA file."""
    types = [name for name in _LLAVA_TYPES if name in stem_of(path).lower()]
    if len(types) != 1:
        raise ValueError(f"the name of {path} has no task type: give type=, such as {', '.join(_LLAVA_TYPES)}.")
    return types[0]
