"""The interface of filters, which exclude inputs before generation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any, ClassVar

from vigc.generation.sources.base import Source
from vigc.jobs.plan import Uncompared


@dataclass(frozen=True, slots=True)
class Exclusion:
    """Why an input is excluded.

    Args:
        rule: The general reason, by which cards count: "looks like a picture in benchmark".
        detail: The reason for this input, for the list of exclusions: "looks like a.png in benchmark".
        copy_of: The earlier input of which this one is an exact copy. It then counts as a copy, not as excluded.
    """

    rule: str
    detail: str
    copy_of: Source | None = None


class Needs(IntEnum):
    """The properties of an input that a filter needs; each level includes the earlier ones."""

    NAME = 0
    DIGEST = 1  # the hash of its bytes; reads the file
    LOOK = 2  # its perceptual hash; decodes the image


class Filter(ABC):
    """Excludes inputs. A new object is made for each listing of the inputs, whose order is stable.

    Args:
        given: The value of its setting in `FILTERS`.
        hashes: A folder to cache hashes in, so that a resumed job does not decode images again.

    Attributes:
        needs: The properties of an input that it needs.
        compared: Names of the lists and folders that inputs are compared with; the card lists them.
        uncompared: Unreadable files, by folder that inputs are compared with.
        unlisted: Number of files that are not images in those folders, by description.
    """

    needs: ClassVar[Needs] = Needs.NAME

    def __init__(self, given: Any, hashes: Path) -> None:
        self.compared: Sequence[str] = ()
        self.uncompared: dict[str, Uncompared] = {}
        self.unlisted: dict[str, int] = {}

    @abstractmethod
    def check(self, source: Source, digest: str | None, look: int | None) -> Exclusion | None:
        """The exclusion of an input, or None.

        Args:
            source: The input.
            digest: SHA-256 of its bytes; None if it cannot be read or no filter needs it.
            look: Its perceptual hash; None if it cannot be decoded or no filter needs it.
        """
