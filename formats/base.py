"""What a published layout is here: one object with its name, its columns, and how its records are read and written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from datasets import Features

from vigc.processing.bounded_parsing import JsonObject
from vigc.processing.rows import Record, Row

from .preferences import PreferenceRule


@dataclass(frozen=True, slots=True)
class Pair:
    """One question with its answers, before its picture was found.

    Args:
        pictures: Names the picture may have under the image folder, likeliest first; none if the entry has no picture.
        image_id: The picture's id: that of COCO in 12 digits, else the file's stem.
        question: Without image marks.
        answers: All that were given, as often as they were.
        turn: Which pair of its conversation.
        extra: Layout and source fields, for an exact export.
        weights: One number for each answer, where the file gives them.
    """

    pictures: tuple[str, ...]
    image_id: str
    question: str
    answers: list[str]
    turn: int
    extra: JsonObject
    weights: list[float] | None = None


class RowReader(Protocol):
    """Makes rows of one record: a conversation whose image is in the record."""

    def __call__(self, record: Any, *, conversation_id: str, type: str) -> list[Record]:
        """The rows, in the order of their turns.

        Args:
            record: The record, as JSON or a dataset has it.
            conversation_id: Names the record among all.
            type: The task type, where the record does not name it.

        Raises:
            LayoutError: The record is of another layout.
        """


class PairReader(Protocol):
    """Makes pairs of one entry of an annotation file, which names its image."""

    def __call__(self, entry: Any, subset: str | None = None) -> Iterator[Pair]:
        """The pairs, in their order.

        Args:
            entry: The entry, as JSON was parsed; of a layout in two files `{"question": ..., "annotation": ...}`.
            subset: COCO's subset that the file's name says, such as "train2014".

        Raises:
            LayoutError: The entry is of another layout; the message names the field.
        """


@dataclass(frozen=True, slots=True)
class Writing:
    """How records are written, where rows leave that open.

    Args:
        image: The image's file name, for layouts that name images.
        rule: Which corrections make a preference pair.
    """

    image: str | None = None
    rule: PreferenceRule = field(default_factory=PreferenceRule)


@dataclass(frozen=True, slots=True)
class Format:
    """One published layout of instruction data.

    Args:
        name: What `--format`, `--layout` and a row's `extra` call it.
        title: What a card calls it.
        write: Makes records of the rows of one conversation; in place of a record that it refuses, the reason. Rows
            that were read from this layout and are unchanged give back what was read.
        pairs: Reads an entry of an annotation file; None: it has no such files.
        lists: Of a layout in two files the name of the list in each.
        task: The task type of its entries; None: the file's name or the caller says it.
        rows: Reads a record that holds its image; None: records only name it.
        features: The columns of an exported file; None: it is JSON, or not exported.
        file: The name of an exported JSON file; None: it is parquet, or not exported.
        note: What a card says of its records.
        prefers: Whether records are preference pairs, which the rule of [`Writing`] chooses.
    """

    name: str
    title: str
    write: Callable[[Sequence[Row], Writing], Iterable[Record | str]]
    pairs: PairReader | None = None
    lists: tuple[str, ...] = ()
    task: str | None = None
    rows: RowReader | None = None
    features: Features | None = None
    file: str | None = None
    note: str = ""
    prefers: bool = False

    @property
    def is_exported(self) -> bool:
        """Whether `vigc export` writes it."""
        return self.features is not None or self.file is not None
