"""`Format`, the description of a published layout: its name, its columns, and how to read and write its records."""

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
    """One question with its answers, before its image file is located.

    Args:
        pictures: Names that the image may have under the image folder, likeliest first; empty if there is no image.
        image_id: The image's id: that of COCO in 12 digits, else the file's stem.
        question: The question, without image marks.
        answers: All answers of the entry, duplicates included.
        turn: Index of the pair in its conversation.
        extra: Layout and source fields, for an exact export.
        weights: One number for each answer, if the file has weights.
    """

    pictures: tuple[str, ...]
    image_id: str
    question: str
    answers: list[str]
    turn: int
    extra: JsonObject
    weights: list[float] | None = None


class RowReader(Protocol):
    """Makes rows from one record, a conversation that holds its image."""

    def __call__(self, record: Any, *, conversation_id: str, type: str) -> list[Record]:
        """The rows, in the order of their turns.

        Args:
            record: The record, parsed from JSON or read from a dataset.
            conversation_id: A unique id of the record.
            type: The task type, if the record has none.

        Raises:
            LayoutError: The record has another layout.
        """


class PairReader(Protocol):
    """Makes pairs from one entry of an annotation file, which names its image."""

    def __call__(self, entry: Any, subset: str | None = None) -> Iterator[Pair]:
        """The pairs, in their order.

        Args:
            entry: The parsed entry; for a layout with two files `{"question": ..., "annotation": ...}`.
            subset: COCO's subset in the file name, such as "train2014".

        Raises:
            LayoutError: The entry has another layout; the message names the field.
        """


@dataclass(frozen=True, slots=True)
class Writing:
    """Options for writing records.

    Args:
        image: The image's file name, for layouts that refer to images by name.
        rule: Which corrections make a preference pair.
    """

    image: str | None = None
    rule: PreferenceRule = field(default_factory=PreferenceRule)


@dataclass(frozen=True, slots=True)
class Format:
    """One published layout of instruction data.

    Args:
        name: The name in `--format`, `--layout` and a row's `extra`.
        title: The name on cards.
        write: Makes records from the rows of one conversation, or yields the reason why there is no record. Rows that
            were read from this layout and are unchanged give the original record.
        pairs: Reads an entry of an annotation file; None if the layout has no such files.
        lists: For a layout with two files, the name of the list in each file.
        task: The task type of its entries; None if it comes from the file name or the caller.
        rows: Reads a record that holds its image; None if records refer to images by name.
        features: The columns of an exported file; None if that is JSON, or the layout is not exported.
        file: The name of an exported JSON file; None if that is parquet, or the layout is not exported.
        note: A sentence about its records for the card.
        prefers: Whether records are preference pairs, selected by the rule of [`Writing`].
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
        """Whether `vigc export` can write this layout."""
        return self.features is not None or self.file is not None
