"""Selects the inputs of a job: the listed inputs without excluded ones, up to the limit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from vigc.errors import GenerationError, ImageError, NoImageError, TransientError, is_transient
from vigc.generation.sources.base import Collection, Source
from vigc.generation.sources.empty_folders import EmptyFolders
from vigc.jobs import ledger
from vigc.jobs.plan import PlannedInputs, Uncompared
from vigc.jobs.protocols import Record

from .base import Exclusion, Filter, Needs
from .hashing import hashed
from .table import FILTERS, open_filters

# The number of inputs to try, or up to twice as many, to check that the inputs are images. Each broken input is skipped
# later.
_TRIED = 200


@dataclass(frozen=True, slots=True)
class Compared:
    """The comparisons of all filters of a job; for the fields see [`Filter`]."""

    names: set[str]
    uncompared: dict[str, Uncompared]
    unlisted: dict[str, int]


def merged(filters: list[Filter]) -> Compared:
    """Merges the comparisons of several filters."""
    return Compared(
        {name for each in filters for name in each.compared},
        {name: files for each in filters for name, files in each.uncompared.items()},
        {what: count for each in filters for what, count in each.unlisted.items()},
    )


@dataclass
class Selection:
    """The inputs of a job: lists them, restores them from the list, and checks that they can be read.

    Args:
        collection: The source of the inputs.
        filters: The value of each setting in `FILTERS`.
        limit: Maximum number of inputs, after filters.
        shard_size: Number of inputs per shard.

    Attributes:
        listed: Number of inputs in the last listing, exact copies included.
        taken: Number of inputs after filters and the limit.
        copies: Number of exact copies of other inputs.
        exclusions: The excluded inputs, with their reasons.
        tried: Evenly spaced inputs of the last listing, which [`check_readable`] opens.
        empty_folders: Sub-folders of the inputs that were empty at the start of the job.
    """

    collection: Collection
    filters: Mapping[str, Any] = field(default_factory=dict)
    limit: int | None = None
    shard_size: int = 256
    listed: int = field(default=0, init=False)
    taken: int = field(default=0, init=False)
    copies: int = field(default=0, init=False)
    exclusions: list[tuple[str, str, Exclusion]] = field(default_factory=list, init=False)
    tried: list[Source] = field(default_factory=list, init=False)
    empty_folders: list[str] = field(default_factory=list, init=False)
    _compared: Compared = field(default_factory=lambda: merged([]), init=False)

    def sources(self, folder: Path) -> Iterator[Source]:
        """Yields the selected inputs; hashes are cached in `folder`."""
        self.listed = self.taken = self.copies = 0
        self.exclusions, self.tried, step = [], [], 1
        empty = EmptyFolders(folder, self.collection)
        filters = open_filters(self.filters, folder / ledger.HASHES)
        self._compared = merged(filters)
        by_name = [each for each in filters if each.needs is Needs.NAME]
        by_content = [each for each in filters if each.needs is not Needs.NAME]
        # 1. List the inputs and exclude some by name.
        sources: Iterator[Source] = map(empty.mark, self._listed())
        if by_name:
            sources = self._by_name(sources, by_name)
        # 2. Exclude some of the rest by content.
        if by_content:
            sources = self._by_content(sources, by_content, folder / ledger.HASHES)
        # 3. Apply the limit; keep evenly spaced inputs for `check_readable`.
        for source in islice(sources, self.limit):
            if self.taken % step == 0:
                if len(self.tried) == 2 * _TRIED:
                    del self.tried[1::2]
                    step *= 2
                self.tried.append(replace(source, boxes=None))
            self.taken += 1
            yield source
        self.empty_folders = empty.names

    @property
    def unlisted(self) -> dict[str, int]:
        """Number of other files beside the inputs and in the folders of filters, by description."""
        return self.collection.unlisted | self._compared.unlisted

    @property
    def reads_content(self) -> bool:
        """Whether a filter reads the content of every input before the job starts."""
        return any(FILTERS[name].needs is not Needs.NAME for name, given in self.filters.items() if given)

    def without_content(self) -> Selection:
        """The selection without filters that read content."""
        filters = {name: given for name, given in self.filters.items() if FILTERS[name].needs is Needs.NAME}
        return replace(self, filters=filters)

    def _listed(self) -> Iterator[Source]:
        for source in self.collection:
            again = len(source.same or ())
            self.listed += 1 + again
            self.copies += again
            yield source

    def _by_name(self, sources: Iterator[Source], filters: list[Filter]) -> Iterator[Source]:
        for source in sources:
            exclusion = first_exclusion(filters, source)
            if exclusion is None:
                yield source
            else:
                self.exclusions.append((source.name, source.image_id, exclusion))

    def _by_content(self, sources: Iterator[Source], filters: list[Filter], hashes: Path) -> Iterator[Source]:
        kept: list[Source] = []
        same: dict[int, list[str]] = {}
        for source, exclusion in self.checked(sources, filters, hashes):
            if exclusion is None:
                kept.append(source)
            elif exclusion.copy_of is not None:
                same.setdefault(id(exclusion.copy_of), []).extend([source.name, *(source.same or ())])
                self.copies += 1
            else:
                self.exclusions.append((source.name, source.image_id, exclusion))
        # The first of several copies represents the others, which are known only after the whole pass.
        for source in kept:
            copies = same.get(id(source))
            yield source if copies is None else replace(source, same=[*(source.same or ()), *copies])

    def checked(
        self, sources: Iterator[Source], filters: list[Filter], hashes: Path
    ) -> Iterator[tuple[Source, Exclusion | None]]:
        """Yields each input with its exclusion by content, or None.

        Args:
            sources: The inputs.
            filters: The filters.
            hashes: The cache folder for hashes.
        """
        looks = any(each.needs is Needs.LOOK for each in filters)
        for source, (digest, look) in hashed(hashes, self.collection, sources, looks=looks):
            yield source, first_exclusion(filters, source, digest, look)

    def excluded(self) -> Iterator[Record]:
        """The records of the list of exclusions."""
        for name, image_id, exclusion in self.exclusions:
            yield {"path": name, "image_id": image_id, "reason": exclusion.detail}

    def facts(self) -> PlannedInputs:
        """The plan's entry: counts, and the lists and folders that inputs were compared with."""
        by_rule = Counter(exclusion.rule for _, _, exclusion in self.exclusions)
        return PlannedInputs(
            listed=self.listed,
            taken=self.taken,
            copies=self.copies,
            compared=sorted(self._compared.names),
            excluded=dict(sorted(by_rule.items())),
            uncompared=self._compared.uncompared,
        )

    def restorer(self, folder: Path) -> Callable[[Record], Source]:
        """Returns a function that makes an input from a record of the folder's list."""
        empty = EmptyFolders(folder, self.collection)
        return lambda record: empty.mark(Source(**record))

    def check_readable(self) -> None:
        """Checks that an image can be read, before a model is loaded or a dataset is replaced.

        Opens some inputs of the last listing. If there are texts without image, which are copied unchanged, entries
        that are refused without opening them are ignored.

        Raises:
            TransientError: Disk, memory or network is unavailable.
            GenerationError: None of them can be read.
        """
        reasons: list[str] = []
        refused: list[str] = []
        texts = False
        for source in self.tried:
            if source.pairs is not None and not source.name:
                texts = True
                continue
            try:
                self.collection.open(source)
                return
            except ImageError as error:
                if is_transient(error.__cause__):
                    raise TransientError(f"{error}: run the same command again later.") from error
                if source.pairs is not None and isinstance(error, NoImageError):
                    texts = True
                else:
                    (reasons if source.refused is None else refused).append(str(error))
        if not texts:
            reasons += refused
        if not reasons:
            return
        more = f" (and {len(reasons) - 3} more)" if len(reasons) > 3 else ""
        raise GenerationError(f"None of {len(reasons)} images can be read: {'; '.join(reasons[:3])}{more}.")


def first_exclusion(
    filters: list[Filter], source: Source, digest: str | None = None, look: int | None = None
) -> Exclusion | None:
    """The exclusion by the first filter that excludes an input, or None."""
    return next(filter(None, (each.check(source, digest, look) for each in filters)), None)
