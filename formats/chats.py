"""Conversations in the columns or fields of any published form: LLaVA's, TRL's and FineVision's."""

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

# Which hold the texts: one of these is needed.
TEXT_COLUMNS = ("conversations", "messages", "prompt", "texts")
# All that is read, less the pictures.
CHAT_COLUMNS = (
    *(*TEXT_COLUMNS, "completion", "chosen", "rejected"),
    *("id", "image_id", "source", "data_source", "license", "type"),
    *(f"{name}_ratings" for name in RATINGS),
)
_PICTURES = ("image", "images")
_FEATURES = Features({**TRAIN_FEATURES, "image": Image(decode=False)})
_BATCH = 16  # a picture is held once for each turn


def is_chat(columns: Collection[str]) -> bool:
    """Whether a dataset's columns hold conversations, and no rows to train on."""
    return bool(set(TEXT_COLUMNS) & set(columns)) and "question" not in columns


def rows_of_chat(record: Any, *, conversation_id: str, type: str | None = None) -> list[Record]:
    """The rows of a conversation in LLaVA's form (`conversations`), FineVision's (`texts`) or TRL's (`messages`, ...).

    Args:
        record: The record, as JSON or a dataset has it.
        conversation_id: Names the record among all.
        type: The type of instruction, where the record does not say it.

    Raises:
        LayoutError: It is of no such form, has several pictures, or no question with an answer.
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
    """The turns as a list of objects: tables also hold an object of lists, or JSON in a text."""
    if isinstance(turns, str):
        try:
            turns = parse_json(turns)
        except ValueError:
            return turns
    if isinstance(turns, dict) and turns and all(isinstance(values, list) for values in turns.values()):
        return [dict(zip(turns, values, strict=True)) for values in zip(*turns.values(), strict=False)]
    return turns


def training_chats(rows: Dataset, *, type: str | None = None, name: str = "", root: Path | None = None) -> Dataset:
    """Conversations as rows to train on, with the columns of `TRAIN_FEATURES` and pictures undecoded.

    Records without a picture, or with several, are left out, which a warning counts.

    Args:
        rows: A dataset with the columns of [`is_chat`].
        type: The type of instruction, where the records do not say it.
        name: What the dataset is called in messages and, where it does not say it, in the column `source`.
        root: The folder that names of pictures are relative to, and stay under; None leaves them as they are.

    Raises:
        ValueError: A record is no conversation, its type is not known, or none has a picture.
    """
    column = next((one for one in _PICTURES if one in rows.column_names), None)
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
        raise ValueError(f"{name!r} has no conversation about one picture: there is nothing to train on.")
    if left_out := len(rows) - len(set(made["conversation_id"][:])):
        logger.warning("%s: %d conversations are left out, which have no picture or several.", name, left_out)
    return made


def _training_rows(
    batch: dict[str, list[Any]], places: list[int], *, column: str, type: str | None, name: str, root: Path | None
) -> dict[str, list[Any]]:
    made: list[Record] = []
    for index, place in enumerate(places):
        record = {key: values[index] for key, values in batch.items()}
        picture = _picture(record.pop(column), root)
        if picture is None:
            continue
        try:
            found = rows_of_chat(record, conversation_id=f"{name}/{place}", type=type)
            for row in found:
                said = row.get("type") or type
                if not said:
                    raise LayoutError("it does not say its type of instruction: give one")
                about = {"type": instruction_type(said).name, "image": picture, "source": row.get("source") or name}
                made.append({**row, **about, "image_id": str(record.get("image_id") or record.get("id") or place)})
        except ValueError as error:
            raise ValueError(f"{name!r}: row {place} is no conversation to train on: {error}.") from error
    return {key: [row.get(key) for row in made] for key in _FEATURES}


def _picture(value: Any, root: Path | None) -> ImageCell | None:
    """The one picture of a record; None if it has none, or several."""
    if isinstance(value, list):
        value = value[0] if len(value) == 1 else None
    if value is None or (value.get("bytes") is None and not value.get("path")):
        return None
    if value.get("bytes") is not None or root is None:
        return value
    return {"bytes": None, "path": str(_under(root.resolve(), value["path"]))}


def _under(root: Path, name: str) -> Path:
    """Where a named picture lies under the root; each spelling has to stay there.

    Raises:
        LayoutError: It does not.
    """
    paths = [(root / spelling).resolve() for spelling in spellings(name)]
    if not all(path.is_relative_to(root) for path in paths):
        raise LayoutError(
            f"the picture {short(name)} does not lie under {str(root)!r}: give a relative name, or embed it"
        )
    return next((path for path in paths if path.exists()), paths[0])


def names_of_pictures(record: Row) -> Iterable[Any]:
    """What a record of a JSON file names as its pictures: `image`, or the entries of `images`."""
    value = record.get("image") if record.get("image") is not None else record.get("images")
    found = value if isinstance(value, list) else [] if value is None else [value]
    return [one.get("path") if isinstance(one, dict) and "path" in one else one for one in found]
