"""Exact copies: inputs with the same bytes as an earlier one."""

from __future__ import annotations

from pathlib import Path

from vigc.generation.sources.base import Source

from .base import Exclusion, Filter, Needs


class Duplicates(Filter):
    """Finds exact copies in the whole job; without it, copies are only found within a shard.

    It must be the last filter, so that the first of several copies is not excluded later.
    """

    needs = Needs.DIGEST

    def __init__(self, given: bool, hashes: Path) -> None:
        super().__init__(given, hashes)
        self._first: dict[str, Source] = {}

    def check(self, source: Source, digest: str | None, look: int | None) -> Exclusion | None:
        """The exclusion of a copy of an earlier input; unreadable inputs are not copies."""
        if digest is None:
            return None
        first = self._first.setdefault(digest, source)
        if first is source:
            return None
        return Exclusion("is an exact copy", f"is an exact copy of {first.name}", first)
