"""The interface of a filter: which inputs are excluded, before anything is generated, and why."""

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
        rule: What is excluded, without the single input: "looks like a picture in benchmark". Cards count by it.
        detail: The same of this input: "looks like a.png in benchmark". The list of excluded inputs has it.
        copy_of: The earlier input that it is an exact copy of. It is then counted as a copy, and not as excluded: that
            input stands for it.
    """

    rule: str
    detail: str
    copy_of: Source | None = None


class Needs(IntEnum):
    """What a filter needs to know of an input; each includes those before it."""

    NAME = 0
    DIGEST = 1  # the hash of its bytes, for which it is read
    LOOK = 2  # its perceptual hash, for which it is decoded


class Filter(ABC):
    """Excludes inputs. One is made whenever the inputs are listed, which is always in the same order.

    Args:
        given: What the setting of its name in `FILTERS` is given.
        hashes: A folder to keep hashes in: thousands of images need not be decoded whenever a job is resumed.

    Attributes:
        needs: What of an input it has to know.
        compared: Names of what inputs are compared with; the card lists them.
        uncompared: By folder that inputs are compared with: its files that cannot be read.
        unlisted: What lies beside what inputs are compared with and is no image, in words, with its count.
    """

    needs: ClassVar[Needs] = Needs.NAME

    def __init__(self, given: Any, hashes: Path) -> None:
        self.compared: Sequence[str] = ()
        self.uncompared: dict[str, Uncompared] = {}
        self.unlisted: dict[str, int] = {}

    @abstractmethod
    def check(self, source: Source, digest: str | None, look: int | None) -> Exclusion | None:
        """Why an input is excluded, or None.

        Args:
            source: The input.
            digest: SHA-256 of its bytes; None where it cannot be read, or no filter needs it.
            look: Its perceptual hash; None where it cannot be decoded, or no filter needs it.
        """
