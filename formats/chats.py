"""Reads conversations in any of the published layouts: LLaVA's, TRL's and FineVision's."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, Image, List

from vigc.errors import LayoutError, short
from vigc.processing.bounded_parsing import parse_json
from vigc.processing.image_names import spellings
from vigc.processing.instructions_vigc import instruction_type
from vigc.processing.rows import TRAIN_FEATURES, ImageCell, Record, Row

from .finevision import RATINGS, rows_from_finevision
from .llava import rows_from_llava
from .trl import rows_from_trl

logger = logging.getLogger(__name__)

# The columns with the texts; a dataset needs one of them.
TEXT_COLUMNS = ("conversations", "messages", "prompt", "texts")
# All columns that are read, except those of images.
CHAT_COLUMNS = (
    *(*TEXT_COLUMNS, "completion", "chosen", "rejected"),
    *("id", "image_id", "source", "data_source", "license", "type"),
    *(f"{name}_ratings" for name in RATINGS),
)
_IMAGES = ("image", "images")
_FEATURES = Features({**TRAIN_FEATURES, "image": Image(decode=False)})
_BATCH = 16  # small, because each turn holds a copy of the image


def is_chat(columns: Collection[str]) -> bool:
    """Whether the columns of a dataset are those of conversations, and not of training rows."""
    return bool(set(TEXT_COLUMNS) & set(columns)) and "question" not in columns


def rows_of_chat(record: Any, *, conversation_id: str, type: str | None = None) -> list[Record]:
    """The rows of a conversation in the layout of LLaVA (`conversations`), FineVision (`texts`) or TRL (`messages`...).

    Args:
        record: The record, parsed from JSON or read from a dataset.
        conversation_id: A unique id of the record.
        type: The task type, if the record has none.

    Raises:
        LayoutError: The record has another layout, several images, or no question with an answer.
    """
    if not isinstance(record, Mapping):
        raise LayoutError(f"it is {short(record)}, but an object with named fields is expected")
    source = record.get("source") or record.get("data_source")
    if record.get("texts") is not None:
        return rows_from_finevision(record, conversation_id=conversation_id, type=type or "")
    turns = record.get("conversations")
    if turns is None and any(record.get(name) is not None for name in TEXT_COLUMNS):
        return rows_from_trl({**record, "source": source}, conversation_id=conversation_id, type=type)
    turns = _turns(turns)
    if turns and all(isinstance(turn, dict) and "role" in turn and "from" not in turn for turn in turns):
        rest = {name: value for name, value in record.items() if name != "conversations"}
        return rows_from_trl({**rest, "messages": turns, "source": source}, conversation_id=conversation_id, type=type)
    return rows_from_llava(
        {**record, "conversations": turns},
        conversation_id=conversation_id,
        type=type or "",
        source=str(source or ""),
        license=record.get("license"),
    )


def _turns(turns: Any) -> Any:
    """The turns as a list of objects: tables may store them as an object of lists, or as JSON text."""
    if isinstance(turns, str):
        try:
            turns = parse_json(turns)
        except ValueError:
            return turns
    if isinstance(turns, dict) and turns and all(isinstance(values, list) for values in turns.values()):
        return [dict(zip(turns, values, strict=True)) for values in zip(*turns.values(), strict=False)]
    return turns


def training_chats(rows: Dataset, *, type: str | None = None, name: str = "", root: Path | None = None) -> Dataset:
    """Converts conversations into training rows, with the columns of `TRAIN_FEATURES` and undecoded images.

    Records without an image or with several images are skipped, and a warning gives their number.

    Args:
        rows: A dataset of conversations ([`is_chat`]).
        type: The task type, if the records have none.
        name: The dataset's name in messages and, if the records have no source, in the column `source`.
        root: The folder that image names are relative to and must stay under; None keeps the names as they are.

    Raises:
        ValueError: A record is not a conversation, has no known task type, or no record has exactly one image.
    """
    column = next((one for one in _IMAGES if one in rows.column_names), None)
    if column is None:
        raise ValueError(f"{name!r} has no column image or images, only {short(rows.column_names)}.")
    several = isinstance(rows.features[column], List) or hasattr(rows.features[column], "feature")
    rows = rows.cast_column(column, List(Image(decode=False)) if several else Image(decode=False))
    read = partial(_training_rows, column=column, type=type, name=name, root=root)
    wanted = [one for one in rows.column_names if one in CHAT_COLUMNS or one == column]
    made = rows.select_columns(wanted).map(
        read,
        batched=True,
        batch_size=_BATCH,
        with_indices=True,
        remove_columns=wanted,
        features=_FEATURES,
    )
    if not len(made):
        raise ValueError(f"{name!r} has no conversation with exactly one image: there is nothing to train on.")
    if skipped := len(rows) - len(set(made["conversation_id"][:])):
        logger.warning("%s: skipped %d conversations with no image or several.", name, skipped)
    return made


def _training_rows(
    batch: dict[str, list[Any]], places: list[int], *, column: str, type: str | None, name: str, root: Path | None
) -> dict[str, list[Any]]:
    made: list[Record] = []
    for index, place in enumerate(places):
        record = {key: values[index] for key, values in batch.items()}
        image = _single_image(record.pop(column), root)
        if image is None:
            continue
        try:
            found = rows_of_chat(record, conversation_id=f"{name}/{place}", type=type)
            for row in found:
                task = row.get("type") or type
                if not task:
                    raise LayoutError("it has no task type: give one")
                about = {"type": instruction_type(task).name, "image": image, "source": row.get("source") or name}
                made.append({**row, **about, "image_id": str(record.get("image_id") or record.get("id") or place)})
        except ValueError as error:
            raise ValueError(f"{name!r}: row {place} is not a conversation to train on: {error}.") from error
    return {key: [row.get(key) for row in made] for key in _FEATURES}


def _single_image(value: Any, root: Path | None) -> ImageCell | None:
    """The only image of a record; None if it has none, or several."""
    if isinstance(value, list):
        value = value[0] if len(value) == 1 else None
    if value is None or (value.get("bytes") is None and not value.get("path")):
        return None
    if value.get("bytes") is not None or root is None:
        return value
    return {"bytes": None, "path": str(_under(root.resolve(), value["path"]))}


def _under(root: Path, name: str) -> Path:
    """The path of an image under the root.

    Raises:
        LayoutError: A spelling of the name leads out of the root.
    """
    paths = [(root / spelling).resolve() for spelling in spellings(name)]
    if not all(path.is_relative_to(root) for path in paths):
        raise LayoutError(f"the image {short(name)} is not under {str(root)!r}: give a relative name, or embed it")
    return next((path for path in paths if path.exists()), paths[0])


def names_of_pictures(record: Row) -> Iterable[Any]:
    """The image names in a record of a JSON file: `image`, or the entries of `images`."""
    value = record.get("image") if record.get("image") is not None else record.get("images")
    found = value if isinstance(value, list) else [] if value is None else [value]
    return [one.get("path") if isinstance(one, dict) and "path" in one else one for one in found]
