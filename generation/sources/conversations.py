"""Conversations about pictures, to be corrected: files and datasets in LLaVA's, TRL's or FineVision's form."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

from vigc.errors import MAX_REASON, AnnotationError, GenerationError, ImageError, LayoutError, cut, reason_of, short
from vigc.formats.chats import CHAT_COLUMNS, TEXT_COLUMNS, names_of_pictures, rows_of_chat
from vigc.formats.file_forms import stem_of
from vigc.formats.json_rows import read_rows
from vigc.formats.json_stream import is_text
from vigc.formats.llava import image_id_of
from vigc.generation.sources.errors import naming_files
from vigc.processing.confined_paths import printable
from vigc.processing.image_names import unusable
from vigc.processing.rows import Record, Row

from .base import DraftPair, Files, Source
from .dataset import DatasetRows


class LlavaConversations(Files):
    """The entries of a file of conversations, each with its pairs: in LLaVA's form, or in TRL's or FineVision's.

    Args:
        path: The JSON or JSON Lines file.
        root: The folder that its `image`s (or `images`) are relative to.
        urls: As of [`Files`].
    """

    format = "llava"

    def __init__(self, path: Path, root: Path, urls: Sequence[str] = ()) -> None:
        if not root.is_dir():
            raise GenerationError(f"{str(root)!r} is not a folder: give the folder of the images as --image-root.")
        super().__init__(root, urls)
        self.path = path

    @property
    def name(self) -> str:
        """The file's name without its suffix."""
        return printable(stem_of(self.path))

    def __iter__(self) -> Iterator[Source]:
        """The entries in the file's order; one that cannot be read is refused."""
        with naming_files():
            for index, (place, entry) in enumerate(read_rows(self.path)):
                label = f"{self.path.name}, {place}"
                if isinstance(entry, AnnotationError):
                    yield Source(label, label, f"is no entry: {entry}")
                    continue
                try:
                    yield _conversation(entry, index)
                except (LayoutError, LookupError, TypeError, AttributeError, RecursionError) as error:
                    yield Source(label, label, f"is no conversation: {reason_of(error)}")


def _conversation(entry: Any, index: int) -> Source:
    """The source that an entry of a file is; raises a `LayoutError` where it is none."""
    if not is_text(entry):
        raise LayoutError("it holds bytes that are not UTF-8, or half a character: write it anew")
    rows = rows_of_chat(entry, conversation_id=str(index))
    names = list(names_of_pictures(entry))
    if len(names) > 1:
        raise LayoutError(f"it has {len(names)} images, but VIC supports one: remove it")
    name = names[0] if names else ""
    if not isinstance(name, str):
        raise LayoutError(f"its image name {short(name)} is not text: correct it")
    if reason := unusable(name):
        raise LayoutError(f"its image name {short(name)} {reason}")
    return Source(name, image_id_of(name) if name else cut(str(entry.get("id", index))), pairs=_pairs(rows))


class DatasetConversations(DatasetRows):
    """The rows of a dataset in LLaVA's columns (`conversations`), TRL's (`messages`, `prompt`) or FineVision's."""

    def __iter__(self) -> Iterator[Source]:
        """The rows in their order; one that cannot be read is refused."""
        columns = [name for name in CHAT_COLUMNS if name in self.features]
        if not set(TEXT_COLUMNS) & set(columns):
            raise GenerationError(
                f"The dataset {self.path!r} has no column {', '.join(map(repr, TEXT_COLUMNS))}, which hold the texts "
                f"to correct: its columns are {cut(', '.join(self.features), MAX_REASON)}."
            )
        for index, (place, row, damage) in enumerate(self.read(columns)):
            label = self.label(place)
            if damage is not None:
                yield Source(label, label, damage, where=place)
                continue
            try:
                rows = rows_of_chat(row, conversation_id=str(index))
            except (ValueError, LookupError, TypeError, AttributeError) as error:  # of columns of other kinds, too
                yield Source(label, label, f"is no conversation: {reason_of(error)}", where=place)
                continue
            id_ = row.get("image_id")
            yield Source(label, label if id_ in (None, "") else cut(str(id_)), where=place, pairs=_pairs(rows))

    def chosen(self, pictures: Sequence[Any], name: str) -> Any:
        """The one picture of a row, or none: what is said about several is not corrected from the first."""
        if len(pictures) > 1:
            raise ImageError(name, f"has {len(pictures)} images, but VIC supports one: remove the row")
        return super().chosen(pictures, name)


def _pairs(rows: list[Record]) -> list[DraftPair]:
    return [_pair(row) for row in rows]


def _pair(row: Row) -> DraftPair:
    pair = {
        name: row.get(name) for name in ("question", "conversation_id", "turn", "extra", "source", "license", "type")
    }
    for name in ("source", "license", "type"):
        pair[name] = pair[name] and cut(str(pair[name]), MAX_REASON)
    known = {name: value for name, value in pair.items() if value not in (None, "")}
    return cast(DraftPair, {"answer": row["answers"][0], **known})
