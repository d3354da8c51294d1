"""Conversations about pictures, to be corrected: LLaVA's files, and datasets in TRL's or FineVision's columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vigc.processing.export_layouts import rows_from_finevision, rows_from_trl
from vigc.processing.images import ImageError
from vigc.processing.json_rows import read_rows
from vigc.processing.json_stream import AnnotationError, is_text
from vigc.processing.llava import LayoutError, rows_from_llava

from .errors import GenerationError, naming_files
from .sources import Files, Source, printable
from .sources_dataset import DatasetRows

# What `rows_from_trl` and `rows_from_finevision` read, less the pictures.
_COLUMNS = (
    *("messages", "prompt", "completion", "chosen", "rejected", "texts"),
    *("id", "image_id", "source", "license", "type"),
    *(f"{name}_ratings" for name in ("relevance", "image_correspondence", "visual_dependency", "formatting")),
)


class LlavaConversations(Files):
    """The entries of a LLaVA file, each with its pairs.

    Args:
        path: The JSON or JSON Lines file.
        root: The folder that its `image`s are relative to.
        urls: As of [`Files`].
    """

    format = "llava"

    def __init__(self, path: Path, root: Path, urls: Sequence[str] = ()) -> None:
        if not root.is_dir():
            raise GenerationError(f"{str(root)!r} is no folder: give the folder of the pictures as --image-root.")
        super().__init__(root, urls)
        self.path = path

    @property
    def name(self) -> str:
        """The file's name without its suffix."""
        return printable(self.path.stem)

    def __iter__(self) -> Iterator[Source]:
        """The entries in the file's order; one that cannot be read is refused."""
        with naming_files():
            for index, (place, entry) in enumerate(read_rows(self.path)):
                label = f"{self.path.name}, {place}"
                if isinstance(entry, AnnotationError):
                    yield Source(label, label, f"is no entry: {entry}")
                    continue
                if not is_text(entry):
                    yield Source(label, label, "holds bytes that are not UTF-8, or half a character: write it anew")
                    continue
                try:
                    rows = rows_from_llava(entry, conversation_id=str(index), type="", source="")
                except (LayoutError, RecursionError) as error:
                    yield Source(label, label, f"is no conversation: {error}")
                    continue
                name = entry.get("image") or ""
                yield Source(name, rows[0]["image_id"] or str(entry.get("id", index)), pairs=_pairs(rows))


class DatasetConversations(DatasetRows):
    """The rows of a dataset in TRL's columns (`messages`, or `prompt` and `completion`) or FineVision's (`texts`)."""

    def __iter__(self) -> Iterator[Source]:
        """The rows in their order; one that cannot be read is refused."""
        columns = [name for name in _COLUMNS if name in self.features]
        if not {"messages", "prompt", "texts"} & set(columns):
            raise GenerationError(
                f"The dataset {self.path!r} has no column 'messages', 'prompt' or 'texts', which hold the texts to "
                f"correct: its columns are {', '.join(self.features)}."
            )
        for index, (place, row, damage) in enumerate(self.read(columns)):
            label = self.label(place)
            if damage is not None:
                yield Source(label, label, damage, where=place)
                continue
            try:
                if "texts" in row:
                    rows = rows_from_finevision(row, conversation_id=str(index), type="")
                else:
                    rows = rows_from_trl(row, conversation_id=str(index), type="")
            except (ValueError, LookupError, TypeError, AttributeError) as error:  # of columns of other kinds, too
                yield Source(label, label, f"is no conversation: {error}", where=place)
                continue
            id_ = row.get("image_id")
            yield Source(label, label if id_ in (None, "") else str(id_), where=place, pairs=_pairs(rows))

    def chosen(self, pictures: Sequence[Any], name: str) -> Any:
        """The one picture of a row, or none: what is said about several is not corrected from the first."""
        if len(pictures) > 1:
            raise ImageError(name, f"has {len(pictures)} pictures, but VIC sees one: leave the row out")
        return super().chosen(pictures, name)


def _pairs(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [_pair(row) for row in rows]


def _pair(row: Mapping[str, Any]) -> dict[str, Any]:
    pair = {
        name: row.get(name) for name in ("question", "conversation_id", "turn", "extra", "source", "license", "type")
    }
    return {"answer": row["answers"][0], **{name: value for name, value in pair.items() if value not in (None, "")}}
