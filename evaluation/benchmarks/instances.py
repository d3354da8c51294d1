"""Objects in images, from instance annotations in COCO's layout."""

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

# Maximum number of POPE's questions per image about present objects; the same number is about absent ones.
_QUESTIONS = 3


@dataclass
class Instances:
    """Instance annotations of a dataset.

    Args:
        path: The file.
        kinds: Names of the categories.
        images: File names of the images, by id.
        objects: The categories in each image, by id.
    """

    path: Path
    kinds: list[str]
    images: dict[int, str]
    objects: dict[int, set[str]] = field(repr=False)

    @classmethod
    def read(cls, path: Path) -> Instances:
        """Reads `images`, `annotations` and `categories` as a stream.

        Raises:
            AnnotationError: The file is damaged, or an annotation has an unknown image or category.
            GenerationError: The file is not in COCO's layout; the message names the entry.
        """
        file = read_categories(path)
        return cls(path, file.names, file.images, file.held)

    def vocabulary(self, synonyms: Path | None = None) -> Vocabulary:
        """The vocabulary of the categories, with synonyms from a file or, for categories of COCO, built-in ones.

        Names of other categories do not count, but prevent words in them from being counted.

        Args:
            synonyms: File with a category and its synonyms on each line, comma-separated.
        """
        known = coco_synonyms() if synonyms is None else read_synonyms(synonyms)
        groups = {group[0].lower(): group for group in known}
        own = [[part.strip() for part in kind.split("/") if part.strip()] for kind in self.kinds]
        # "Cabinet/shelf" in Objects365 is one category with two names.
        return Vocabulary([[*names, *groups.get(names[0].lower(), [])] for names in own if names], known)

    def add_captions(self, path: Path, vocabulary: Vocabulary) -> None:
        """Adds objects that are named in human captions, as in CHAIR."""
        names = {vocabulary.kind(kind.split("/")[0]): kind for kind in self.kinds}
        for item in _entries(path, "annotations", "image_id", "caption"):
            if item["image_id"] in self.objects:
                self.objects[item["image_id"]] |= {names[kind] for kind in vocabulary.mentions(item["caption"])}


def _entries(path: Path, key: str, *fields: str) -> Any:
    return (checked(path, index, entry, fields) for index, entry in enumerate(stream_entries(path, key)))


def read_synonyms(path: Path) -> list[list[str]]:
    """Reads a file of synonyms: a comma-separated list per line.

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
        raise AnnotationError(path, "is empty: give an object and its synonyms on each line, separated by commas.")
    return found


def polled_objects(
    objects: Mapping[int, set[str]], kinds: Sequence[str], seed: int
) -> dict[str, dict[int, list[tuple[str, str]]]]:
    """Samples the objects for POPE's questions, as in its paper (https://arxiv.org/abs/2305.10355, section 5.1).

    For each image, up to three present categories and as many absent ones: random ones ("random"), the most frequent
    ones ("popular"), or those that occur most often together with the present ones ("adversarial").

    Args:
        objects: The categories in each image.
        kinds: All categories.
        seed: Seed of the sampling.

    Returns:
        By setting and image: categories with their answers, alternating "yes" and "no".
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
        # Ties are broken by frequency.
        adversarial = _first(count, _first(len(absent), absent, frequent), seen)
        for setting, missing in (("random", drawn), ("popular", popular), ("adversarial", adversarial)):
            pairs = zip(there, missing, strict=True)
            found[setting][image] = [pair for yes, no in pairs for pair in ((yes, "yes"), (no, "no"))]
    return found


def _first(count: int, kinds: Sequence[str], numbers: Mapping[str, int]) -> list[str]:
    return sorted(kinds, key=lambda kind: -numbers[kind])[:count]
