"""Look-alikes: images similar to those in a folder, by a perceptual hash robust to resizing and compression."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from vigc.errors import GenerationError, ImageError
from vigc.generation.sources.base import Folder, Source
from vigc.jobs.plan import Uncompared
from vigc.processing.confined_paths import printable

from .base import Exclusion, Filter, Needs
from .hashing import hashed

# Of 64 bits. A resized or recompressed copy differs in a few bits, another image in about half.
MAX_DISTANCE = 4

_NAMED = 3


class LookAlikes(Filter):
    """Excludes images similar to those in the given folders.

    Args:
        folders: The folders.
        hashes: The cache folder for their hashes.

    Raises:
        GenerationError: A folder has no readable image.
    """

    needs = Needs.LOOK

    def __init__(self, folders: Sequence[str | os.PathLike[str]], hashes: Path) -> None:
        super().__init__(folders, hashes)
        self._folders = [ExcludedPictures(Path(folder), hashes) for folder in folders]
        self.compared = [Path(folder).name for folder in folders]
        self.uncompared = {given.name: given.uncompared for given in self._folders if given.unreadable}
        self.unlisted = {what: count for given in self._folders for what, count in given.unlisted.items()}

    def check(self, source: Source, digest: str | None, look: int | None) -> Exclusion | None:
        """The exclusion by the first similar image."""
        return next(filter(None, (given.exclusion(look) for given in self._folders)), None)


class ExcludedPictures:
    """The perceptual hashes of the images in a folder.

    Args:
        folder: The folder of images.
        hashes: The cache folder, with a sub-folder for each folder of images, so that a resumed job does not decode
            them again.

    Attributes:
        unreadable: Unreadable image files.
        unlisted: Number of files that are not images, by description.

    Raises:
        GenerationError: The folder has no readable image.
    """

    def __init__(self, folder: Path, hashes: Path) -> None:
        pictures, count = Folder(folder), 0
        self.name = printable(folder.resolve().name)
        self._bands: defaultdict[tuple[int, int], list[tuple[int, str]]] = defaultdict(list)
        self.unreadable: list[Source] = []
        place = hashes / hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:16]
        for source, (_, look) in hashed(place, pictures, iter(pictures), looks=True):
            if look is None:
                self.unreadable.append(source)
                continue
            count += 1
            for band in _bands(look):
                self._bands[band].append((look, printable(source.name)))
        self.unlisted = {f"in {self.name}, {what}": count for what, count in pictures.unlisted.items()}
        if not count:
            raise GenerationError(f"{str(folder)!r} has no readable image: {_fault(pictures, self.unreadable[0])}.")

    @property
    def uncompared(self) -> Uncompared:
        """The number and first names of unreadable files."""
        return {"count": len(self.unreadable), "first": [printable(source.name) for source in self.unreadable[:_NAMED]]}

    def exclusion(self, look: int | None) -> Exclusion | None:
        """The exclusion of an image with this perceptual hash, or None."""
        if look is None:
            return None
        for band in _bands(look):
            for other, name in self._bands.get(band, ()):
                if (look ^ other).bit_count() <= MAX_DISTANCE:
                    return Exclusion(f"looks like a picture in {self.name}", f"looks like {name} in {self.name}")
        return None


def _fault(pictures: Folder, source: Source) -> str:
    try:
        pictures.open(source)
    except ImageError as error:
        return str(error)
    return f"{printable(source.name)!r} could not be read before"


def _bands(look: int) -> Iterator[tuple[int, int]]:
    """Splits a hash into `MAX_DISTANCE + 1` pieces: hashes within that distance have an equal piece."""
    count = MAX_DISTANCE + 1
    for index in range(count):
        low, high = 64 * index // count, 64 * (index + 1) // count
        yield index, (look >> low) & ((1 << (high - low)) - 1)
