"""Exact copies: inputs with the bytes of an earlier one."""

from __future__ import annotations

from pathlib import Path

from vigc.generation.sources.base import Source

from .base import Exclusion, Filter, Needs


class Duplicates(Filter):
    """Finds exact copies in the whole job; without it they are found among the inputs of a shard.

    It is the last filter: the first of several copies must be one that is kept.
    """

    needs = Needs.DIGEST

    def __init__(self, given: bool, hashes: Path) -> None:
        super().__init__(given, hashes)
        self._first: dict[str, Source] = {}

    def check(self, source: Source, digest: str | None, look: int | None) -> Exclusion | None:
        """A copy of an earlier input; what cannot be read is no copy."""
        if digest is None:
            return None
        first = self._first.setdefault(digest, source)
        if first is source:
            return None
        return Exclusion("is an exact copy", f"is an exact copy of {first.name}", first)
