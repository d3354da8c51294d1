"""Objects in pictures, from COCO's files of instances or others of that layout."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from vigc.errors import AnnotationError, reason_of
from vigc.evaluation.metrics.chair.chair import Vocabulary, coco_synonyms
from vigc.formats.coco import read_categories
from vigc.formats.json_rows import stream_entries

from .entries import checked

# A picture gets at most so many questions about what is there, and as many about what is not.
_QUESTIONS = 3


@dataclass
class Instances:
    """What a file of instances says.

    Args:
        path: The file.
        kinds: Names of its categories.
        images: File name of each picture, by id.
        objects: The kinds in each picture, by id.
    """

    path: Path
    kinds: list[str]
    images: dict[int, str]
    objects: dict[int, set[str]] = field(repr=False)

    @classmethod
    def read(cls, path: Path) -> Instances:
        """Reads `images`, `annotations` and `categories`, as a stream.

        Raises:
            AnnotationError: A damaged file, or an annotation of an unknown picture or category.
            GenerationError: It is not in COCO's form; the message names the entry.
        """
        file = read_categories(path)
        return cls(path, file.names, file.images, file.held)

    def vocabulary(self, synonyms: Path | None = None) -> Vocabulary:
        """The names of its kinds: those of the file of synonyms, else COCO's where a kind is one of COCO's.

        Names of kinds that the file lacks do not count, but shield the words in them.

        Args:
            synonyms: A kind and its synonyms on each line, with commas between.
        """
        known = coco_synonyms() if synonyms is None else read_synonyms(synonyms)
        groups = {group[0].lower(): group for group in known}
        own = [[part.strip() for part in kind.split("/") if part.strip()] for kind in self.kinds]
        # "Cabinet/shelf", as Objects365 has it, is one kind with two names.
        return Vocabulary([[*names, *groups.get(names[0].lower(), [])] for names in own if names], known)

    def add_captions(self, path: Path, vocabulary: Vocabulary) -> None:
        """Counts what people named in their captions as present too, as CHAIR does."""
        names = {vocabulary.kind(kind.split("/")[0]): kind for kind in self.kinds}
        for item in _entries(path, "annotations", "image_id", "caption"):
            if item["image_id"] in self.objects:
                self.objects[item["image_id"]] |= {names[kind] for kind in vocabulary.mentions(item["caption"])}


def _entries(path: Path, key: str, *fields: str) -> Any:
    return (checked(path, index, entry, fields) for index, entry in enumerate(stream_entries(path, key)))


def read_synonyms(path: Path) -> list[list[str]]:
    """The lines of a file of synonyms, each split at its commas.

    Raises:
        AnnotationError: The file cannot be read or is empty.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise AnnotationError(path, f"cannot be read ({reason_of(error, path=False)}).") from error
    groups = [[name.strip() for name in line.split(",") if name.strip()] for line in lines]
    found = [group for group in groups if group]
    if not found:
        raise AnnotationError(path, "is empty: a kind and its synonyms on each line are expected, with commas between.")
    return found


def polled_objects(
    objects: Mapping[int, set[str]], kinds: Sequence[str], seed: int
) -> dict[str, dict[int, list[tuple[str, str]]]]:
    """The objects that POPE asks for, as its paper draws them (https://arxiv.org/abs/2305.10355, section 5.1).

    For each picture up to three kinds that are there, and as many that are not: any ("random"), those that most
    pictures hold ("popular"), or those most often seen together with what is there ("adversarial").

    Args:
        objects: The kinds in each picture.
        kinds: All kinds.
        seed: Decides what is drawn.

    Returns:
        By setting and picture: kinds, each with the right answer, "yes" and "no" in turn.
    """
    frequent = Counter(kind for shown in objects.values() for kind in shown)
    together = {kind: Counter[str]() for kind in kinds}
    for shown in objects.values():
        for kind in shown:
            together[kind].update(shown - {kind})
    found: dict[str, dict[int, list[tuple[str, str]]]] = {"random": {}, "popular": {}, "adversarial": {}}
    for image, shown in objects.items():
        rng = Random(f"{seed}/{image}")
        absent = sorted(set(kinds) - shown)
        count = min(_QUESTIONS, len(shown), len(absent))
        there = rng.sample(sorted(shown), count)
        seen = Counter[str]()
        for kind in shown:
            seen.update(together[kind])
        drawn = rng.sample(absent, count)
        popular = _first(count, absent, frequent)
        # Of those that are seen together equally often, the more frequent ones.
        adversarial = _first(count, _first(len(absent), absent, frequent), seen)
        for setting, missing in (("random", drawn), ("popular", popular), ("adversarial", adversarial)):
            pairs = zip(there, missing, strict=True)
            found[setting][image] = [pair for yes, no in pairs for pair in ((yes, "yes"), (no, "no"))]
    return found


def _first(count: int, kinds: Sequence[str], numbers: Mapping[str, int]) -> list[str]:
    return sorted(kinds, key=lambda kind: -numbers[kind])[:count]
