"""What a job counts. A counter is declared here, once; a new one also needs the line that counts it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple, TypeVar

from vigc.hub_cards import TypeFigures

T = TypeVar("T", bound="Counts")

# Reasons may name every file: beyond twice as many different ones, only the most frequent are kept.
_MOST_REASONS = 10_000


class Reason(NamedTuple):
    """Why something was skipped or rejected.

    Args:
        rule: What it is, in words: [`UNREADABLE`] or [`NO_PAIR`].
        detail: What is wrong with this one.
    """

    rule: str
    detail: str


UNREADABLE, NO_PAIR = "a file that cannot be read", "a text that is no pair"


def counter(label: str | None = None, *, name: str | None = None, recorded: bool = False) -> Any:
    """Declares a counter.

    Args:
        label: What the summary prints behind its number; None: it is printed elsewhere, or not at all.
        name: Its name in JSON, if that is another one.
        recorded: Whether records have it where it is 0. Those of the first version do; a new one is omitted then, so
            that nothing changes for jobs that do not count it.
    """
    return field(default=0, metadata={"counter": True, "label": label, "name": name, "recorded": recorded})


@dataclass(kw_only=True)
class Counts:
    """The counters of a shard, of all shards together, or of a few inputs that were tried. In the summary's order.

    Args:
        inputs: Inputs that were taken, with the exact copies that they stand for.
        images: Images that rows were generated for.
        duplicates: Exact copies of another input of the shard; the rows of that one name them.
        repeated: Rows with the id of another one, where exact copies lie in different shards; known at the end.
        bare: Inputs without image, whose rows were passed on as they were.
        dropped: Questions dropped because the image had the same one already.
        skipped_inputs: Inputs that could not be read, with their exact copies.
        halved: Times that memory was short and a batch was cut in two.
    """

    inputs: int = counter(recorded=True)
    images: int = counter(recorded=True)
    duplicates: int = counter("exact copies of another picture", recorded=True)
    repeated: int = counter("rows with the id of another one: pictures are exact copies, which --dedup finds")
    bare: int = counter("entries without picture, passed on as they were", recorded=True)
    dropped: int = counter("repeated questions left out", recorded=True)
    skipped_inputs: int = counter(name="skipped", recorded=True)
    halved: int = counter(recorded=True)

    @classmethod
    def copied(cls: type[T], other: Counts, **more: Any) -> T:
        """An object with the counters of another one, and what else it has."""
        return cls(**{name: getattr(other, name) for name in _COUNTERS}, **more)

    def count(self, other: Counts) -> None:
        """Adds the counters of another one."""
        for name in _COUNTERS:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def labelled(self) -> Iterator[tuple[str, int]]:
        """What the summary prints: the labels of counters with their numbers."""
        for name, declared in _COUNTERS.items():
            if declared["label"] is not None:
                yield declared["label"], getattr(self, name)

    def counts_by_name(self) -> dict[str, int]:
        """All counters by their names in JSON."""
        return {declared["name"] or name: getattr(self, name) for name, declared in _COUNTERS.items()}

    def counts_to_json(self) -> dict[str, int]:
        """The counters as records hold them."""
        recorded = [declared["recorded"] for declared in _COUNTERS.values()]
        numbers = self.counts_by_name().items()
        return {name: number for (name, number), always in zip(numbers, recorded, strict=True) if number or always}

    @staticmethod
    def counts_from_json(values: Mapping[str, Any]) -> dict[str, int]:
        """The counters in a record, as arguments; those that it does not have are 0.

        Raises:
            TypeError: One is no number.
        """
        numbers = {name: values.get(declared["name"] or name, 0) for name, declared in _COUNTERS.items()}
        if wrong := [name for name, number in numbers.items() if not isinstance(number, int)]:
            raise TypeError(f"{', '.join(wrong)}: no number")
        return numbers


_COUNTERS: dict[str, Mapping[str, Any]] = {
    item.name: item.metadata for item in fields(Counts) if "counter" in item.metadata
}


def counter_names() -> list[str]:
    """The names of the counters in JSON."""
    return [declared["name"] or name for name, declared in _COUNTERS.items()]


@dataclass(kw_only=True)
class Totals(Counts):
    """The counters, with what is counted by task type, by licence and by reason.

    Args:
        types: Counts of each task type.
        licenses: Rows by licence.
        reasons: What was skipped or rejected, by reason.
    """

    types: dict[str, TypeFigures] = field(default_factory=dict)
    licenses: Counter[str] = field(default_factory=Counter)
    reasons: Counter[Reason] = field(default_factory=Counter)

    @classmethod
    def of(cls, records: Iterable[Totals], types: Iterable[str]) -> Totals:
        """The sums of records; of reasons, the most frequent ten thousand."""
        totals = Totals(types={kind: TypeFigures() for kind in types})
        for record in records:
            totals.count(record)
            for kind, figures in record.types.items():
                totals.types[kind] = totals.types[kind] + figures
            totals.licenses.update(record.licenses)
            totals.reasons.update(record.reasons)
            if len(totals.reasons) > 2 * _MOST_REASONS:
                totals.reasons = Counter(dict(totals.reasons.most_common(_MOST_REASONS)))
        return totals

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return sum(figures.rows for figures in self.types.values())

    @property
    def changed(self) -> int:
        """In how many of them correction changed a word."""
        return sum(figures.changed for figures in self.types.values())

    @property
    def rejected(self) -> int:
        """How many samples were rejected."""
        return sum(figures.malformed for figures in self.types.values())

    @property
    def set_aside(self) -> int:
        """How many inputs and samples are in the quarantine."""
        return self.skipped_inputs + self.rejected
