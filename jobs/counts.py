"""The counters of a job. Each is declared once, here, and increased by a worker."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple, TypeVar

from vigc.hub_cards import TypeFigures

T = TypeVar("T", bound="Counts")

# A reason may name a file, so their number is bounded: above twice this limit, only the most frequent are kept.
_MOST_REASONS = 10_000


class Reason(NamedTuple):
    """Why an input was skipped or a sample rejected.

    Args:
        rule: The general reason, such as [`UNREADABLE`] or [`NO_PAIR`].
        detail: The cause for this input or sample.
    """

    rule: str
    detail: str


UNREADABLE, NO_PAIR = "a file that cannot be read", "a text that is no pair"


def counter(label: str | None = None, *, name: str | None = None, recorded: bool = False) -> Any:
    """Declares a counter.

    Args:
        label: The words that the summary prints after the number; None if the summary does not print the counter.
        name: The name in JSON, if it differs from the attribute.
        recorded: Whether records contain the counter when it is 0. True for the counters of the first version. New
            ones are omitted, so that records of jobs without them do not change.
    """
    return field(default=0, metadata={"counter": True, "label": label, "name": name, "recorded": recorded})


@dataclass(kw_only=True)
class Counts:
    """The counters of one shard, of a whole job or of a preview, in the order of the summary.

    Args:
        inputs: Inputs, exact copies included.
        images: Images with generated rows.
        duplicates: Exact copies of another input of the same shard; the rows of that input name them.
        repeated: Rows whose id occurs in another shard, because of exact copies; counted at the end of the job.
        bare: Inputs without image; their rows are copied unchanged.
        dropped: Questions removed because the image already had the same question.
        skipped_inputs: Unreadable inputs, exact copies included.
        halved: Batches halved because memory ran out.
    """

    inputs: int = counter(recorded=True)
    images: int = counter(recorded=True)
    duplicates: int = counter("exact copies of another image", recorded=True)
    repeated: int = counter("rows with the id of another row, because images are exact copies; --dedup finds them")
    bare: int = counter("entries without image, copied unchanged", recorded=True)
    dropped: int = counter("repeated questions dropped", recorded=True)
    skipped_inputs: int = counter(name="skipped", recorded=True)
    halved: int = counter(recorded=True)

    @classmethod
    def copied(cls: type[T], other: Counts, **more: Any) -> T:
        """Makes an object of this class with the counters of `other`; `more` are its other fields."""
        return cls(**{name: getattr(other, name) for name in _COUNTERS}, **more)

    def count(self, other: Counts) -> None:
        """Adds the counters of `other`."""
        for name in _COUNTERS:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def labelled(self) -> Iterator[tuple[str, int]]:
        """The labels and values that the summary prints."""
        for name, declared in _COUNTERS.items():
            if declared["label"] is not None:
                yield declared["label"], getattr(self, name)

    def counts_by_name(self) -> dict[str, int]:
        """All counters by JSON name."""
        return {declared["name"] or name: getattr(self, name) for name, declared in _COUNTERS.items()}

    def counts_to_json(self) -> dict[str, int]:
        """The counters for a record."""
        recorded = [declared["recorded"] for declared in _COUNTERS.values()]
        numbers = self.counts_by_name().items()
        return {name: number for (name, number), always in zip(numbers, recorded, strict=True) if number or always}

    @staticmethod
    def counts_from_json(values: Mapping[str, Any]) -> dict[str, int]:
        """The counters of a record, as keyword arguments; missing ones are 0.

        Raises:
            TypeError: A counter is not a number.
        """
        numbers = {name: values.get(declared["name"] or name, 0) for name, declared in _COUNTERS.items()}
        if wrong := [name for name, number in numbers.items() if not isinstance(number, int)]:
            raise TypeError(f"{', '.join(wrong)}: no number")
        return numbers


_COUNTERS: dict[str, Mapping[str, Any]] = {
    item.name: item.metadata for item in fields(Counts) if "counter" in item.metadata
}


def counter_names() -> list[str]:
    """The JSON names of the counters."""
    return [declared["name"] or name for name, declared in _COUNTERS.items()]


@dataclass(kw_only=True)
class Totals(Counts):
    """The counters, with counts by task type, licence and reason.

    Args:
        types: Counts by task type.
        licenses: Number of rows by licence.
        reasons: Number of skipped inputs and rejected samples by reason.
    """

    types: dict[str, TypeFigures] = field(default_factory=dict)
    licenses: Counter[str] = field(default_factory=Counter)
    reasons: Counter[Reason] = field(default_factory=Counter)

    @classmethod
    def of(cls, records: Iterable[Totals], types: Iterable[str]) -> Totals:
        """The sum of records, with the 10,000 most frequent reasons."""
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
        """Number of rows."""
        return sum(figures.rows for figures in self.types.values())

    @property
    def changed(self) -> int:
        """Number of rows in which correction changed a word."""
        return sum(figures.changed for figures in self.types.values())

    @property
    def rejected(self) -> int:
        """Number of rejected samples."""
        return sum(figures.malformed for figures in self.types.values())

    @property
    def set_aside(self) -> int:
        """Number of inputs and samples in the quarantine."""
        return self.skipped_inputs + self.rejected
