"""Exports a dataset folder to a published layout: TRL's columns, LLaVA's JSON or FineVision's columns."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby, islice
from pathlib import Path, PurePosixPath
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Features

from vigc.errors import ExportError, ImageError, is_transient, reason_of
from vigc.formats.base import Format, Writing
from vigc.formats.dataset_files import OwnFiles
from vigc.formats.llava import llava_image
from vigc.formats.preferences import PreferenceRule
from vigc.formats.table import EXPORTS
from vigc.processing.atomic import atomic_folder
from vigc.processing.bounded_parsing import open_parquet
from vigc.processing.confined_paths import leads_into, shown
from vigc.processing.images import load_picture
from vigc.processing.rows import ImageCell, Record, Row

# Rows that are read, and written as a row group, at a time: few, because images are large.
_BATCH = 64
_FILE_BYTES = 400 * 2**20
_SUFFIXES = {b"\xff\xd8\xff": ".jpg", b"\x89PNG": ".png"}


@dataclass
class Exported:
    """The result of an export.

    Args:
        output: The folder that was written.
        format: The layout.
        rows: Number of rows that were read.
        records: Number of records that were written: one per conversation, except for "trl-dpo".
        left_out: Number of rows that the rule refused, by reason.
        unreadable: Number of rows that were skipped because an image could not be read, by reason. All rows of the
            conversation are skipped.
        first_unreadable: The first of these images, with the reason.
        licenses: Number of the remaining rows by licence.
        num_bytes: Size of the records in memory.
        download_bytes: Size of the files.
    """

    output: Path
    format: Format
    rows: int = 0
    records: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    unreadable: Counter[str] = field(default_factory=Counter)
    first_unreadable: str | None = None
    licenses: Counter[str] = field(default_factory=Counter)
    num_bytes: int = 0
    download_bytes: int = 0


def export_dataset(
    dataset: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    format: str,
    types: Sequence[str] | None = None,
    rule: PreferenceRule | None = None,
    pictures: bool = True,
    image_root: str | os.PathLike[str] | None = None,
    card: Callable[[Path, Exported], object] | None = None,
) -> Exported:
    """Writes a dataset folder in another layout. Memory does not grow with the size of the dataset.

    A record of "trl-sft" is a conversation (`images`, `messages`). A record of "trl-dpo" is a preference pair
    (`images`, `prompt`, `chosen`: the answer, `rejected`: the draft) from a row that `rule` accepts. "finevision" has
    FineVision's columns. "llava" is `conversations.json` with images in `images/`: rows that were read from a LLaVA
    file give its original entries with the rows' texts; other rows become new entries.

    Args:
        dataset: A folder of parquet files with generated rows or training rows. The rows of a conversation must be
            adjacent.
        output: The folder to write, new or empty. It is written atomically.
        format: A name in `EXPORTS`.
        types: Export only rows of these task types.
        rule: Which corrections make a pair for "trl-dpo"; by default `PreferenceRule()`.
        pictures: For "llava", whether to write image files. Entries name the files in either case.
        image_root: The folder of images that rows only name; by default `dataset`.
        card: Called with the unfinished folder and the result, to add a README.

    Raises:
        ExportError: The folders, the layout or the rows are invalid, or there is nothing to write.
        BusyError: Another process is writing the folder.
        OSError: A transient error such as a full disk (`is_transient`), or the folder cannot be written.
    """
    source, target = Path(dataset), Path(output)
    if format not in EXPORTS:
        raise ExportError(f"format {format!r} is not known: use one of {', '.join(EXPORTS)}.")
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise ExportError(f"{str(target)!r} exists: give a new or empty folder.")
    files = _parquet_files(source)
    done = Exported(target, EXPORTS[format])
    root = Path(image_root) if image_root is not None else source
    own = OwnFiles(str(root))
    conversations = _conversations(files, types, own, done, embed=pictures or done.format.file is None)
    with atomic_folder(target) as unfinished:
        if done.format.file is not None:
            _write_json(unfinished, done.format.file, conversations, done, pictures)
        else:
            _write_parquet(unfinished, _records(conversations, done, Writing(rule=rule or PreferenceRule())), done)
        if not done.records:
            raise ExportError(_why_empty(done, types, root))
        if card is not None:
            card(unfinished, done)
    return done


def _parquet_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise ExportError(f"{str(folder)!r} is not a folder: give the folder of a dataset.")
    files = [path for path in sorted(folder.rglob("*.parquet")) if not _is_hidden(path.relative_to(folder))]
    if not files:
        raise ExportError(f"{str(folder)!r} has no parquet files: give the folder of a dataset.")
    real = os.path.realpath(folder)
    for path in files:
        if not leads_into(os.path.realpath(path), real):
            raise ExportError(f"{str(path)!r} is a link out of the dataset: copy the file into it.")
        try:
            with open_parquet(path) as file:
                columns = set(file.schema_arrow.names)
        except (pa.ArrowInvalid, OSError) as error:
            raise ExportError(
                f"{str(path)!r} cannot be read ({reason_of(error, path=False)}): write the dataset again."
            ) from error
        if not {"image", "question"} <= columns or not columns & {"answer", "answers"}:
            listed = ", ".join(sorted(columns))
            raise ExportError(
                f"{str(path)!r} has the columns {listed}: 'image', 'question' and 'answer' or 'answers' are needed."
            )
    return files


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _conversations(
    files: Sequence[Path], types: Sequence[str] | None, root: OwnFiles, done: Exported, *, embed: bool
) -> Iterator[list[Record]]:
    """The rows of each conversation; a row without conversation is returned alone."""
    grouped = groupby(enumerate(_rows(files, types)), lambda item: item[1].get("conversation_id") or item[0])
    for name, items in grouped:
        rows = [row for _, row in items]
        turns = [row.get("turn") for row in rows]
        if len(rows) > 1 and not _is_increasing(turns):
            raise ExportError(f"conversation {name!r} has the turns {turns}: sort its rows by 'turn'.")
        done.rows += len(rows)
        if embed and not _embed(rows, root, done):
            continue
        done.licenses.update(row.get("license") or "unknown" for row in rows)
        yield rows


def _is_increasing(turns: Sequence[int | None]) -> bool:
    known = [turn for turn in turns if turn is not None]
    return len(known) == len(turns) and known == sorted(set(known))


def _rows(files: Sequence[Path], types: Sequence[str] | None) -> Iterator[Record]:
    for path in files:
        file = open_parquet(path)
        for batch in file.iter_batches(batch_size=_BATCH):
            for row in batch.to_pylist():
                if types is None or row.get("type") in types:
                    yield row


def _embed(rows: list[Record], root: OwnFiles, done: Exported) -> bool:
    """Embeds the images that the rows only name; if one cannot be read, counts the rows and returns False."""
    try:
        for row in rows:
            if row["image"] is not None and row["image"].get("bytes") is None:
                row["image"] = _read_image(row["image"]["path"], root)
    except ImageError as error:
        if isinstance(error.__cause__, OSError) and is_transient(error.__cause__):
            raise error.__cause__ from None
        done.unreadable[error.reason] += len(rows)
        done.first_unreadable = done.first_unreadable or str(error)
        return False
    return True


def _read_image(name: str | None, root: OwnFiles) -> ImageCell:
    """Reads an image that a row names."""
    if not name:
        raise ExportError("a row has neither the bytes nor the name of its image: write the dataset again.")
    return {"bytes": load_picture(root.confined(name, shown(name)), name=shown(name)).data, "path": None}


def _records(conversations: Iterable[Sequence[Row]], done: Exported, how: Writing) -> Iterator[Record]:
    """The records of all conversations; for rows without a record, the reasons are counted."""
    for rows in conversations:
        for record in done.format.write(rows, how):
            if isinstance(record, str):
                done.left_out[record] += 1
            else:
                yield record


def _write_parquet(folder: Path, records: Iterator[Record], done: Exported) -> None:
    """Writes records to `data/train-*.parquet`, with a new file when one is full."""
    schema = cast(Features, done.format.features).arrow_schema
    (folder / "data").mkdir()
    number, batch = 0, _take(records)
    while batch:
        path = folder / "data" / f"train-{number:05d}.parquet"
        with path.open("wb") as file:
            with pq.ParquetWriter(file, schema) as writer:
                full = False
                while batch and not full:
                    table = pa.Table.from_pylist(batch, schema=schema)
                    writer.write_table(table)
                    done.records += len(batch)
                    done.num_bytes += table.nbytes
                    full = file.tell() >= _FILE_BYTES
                    batch = _take(records)
            _sync(file)
        done.download_bytes += path.stat().st_size
        number += 1


def _take(records: Iterator[Record]) -> list[Record]:
    return list(islice(records, _BATCH))


def _write_json(folder: Path, name: str, conversations: Iterator[list[Record]], done: Exported, pictures: bool) -> None:
    """Writes records as a JSON list, one per line, and their images to `images/`."""
    path = folder / name
    with path.open("w", encoding="utf-8") as file:
        for rows in conversations:
            image = _write_image(folder / "images", rows[0], pictures)
            for record in _records([rows], done, Writing(image)):
                text = json.dumps(record, ensure_ascii=False)
                file.write(f"{',' if done.records else '['}\n{text}")
                done.records += 1
        file.write("\n]\n")
        _sync(file)
    done.num_bytes = done.download_bytes = path.stat().st_size


def _write_image(folder: Path, row: Row, wanted: bool) -> str | None:
    """Writes a row's image, if `wanted`, under the name in its entry; returns the name."""
    name, image = llava_image(row), row["image"]
    if image is None:
        return name
    data = image.get("bytes")
    if name is None:
        if data is None:
            return image["path"]
        digest = hashlib.sha256(data).hexdigest()[:32]
        suffix = next((suffix for start, suffix in _SUFFIXES.items() if data.startswith(start)), ".png")
        name = f"{digest[:2]}/{digest}{suffix}"  # sub-folders, because a folder with a million files is slow
    if wanted:
        _write_once(folder / _inside(name), data, name)
    return name


def _inside(name: str) -> PurePosixPath:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts or set(name) & set("\\:\0"):
        raise ExportError(f"an entry names the image {name!r}, which is outside the folder: give --no-pictures.")
    return path


def _write_once(path: Path, data: bytes, name: str) -> None:
    if path.exists():
        if path.read_bytes() != data:
            raise ExportError(f"two images have the name {name!r}: export one source at a time, or give --no-pictures.")
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def _why_empty(done: Exported, types: Sequence[str] | None, root: Path) -> str:
    if not done.rows:
        which = f" of type {', '.join(types)}" if types is not None else ""
        return f"the dataset has no rows{which}: there is nothing to write."
    if done.first_unreadable and not done.left_out:
        return f"{done.first_unreadable}, nor can any other image; they are read from {str(root)!r} (--image-root)."
    reasons = ", ".join(f"{count} {reason}" for reason, count in done.left_out.most_common())
    settings = "min_words, score, min_gain, keep_cuts"
    message = f"none of {done.rows} rows makes a preference pair ({reasons}): loosen the rule ({settings})."
    if any(reason.startswith("has no ") and reason.endswith(" score") for reason in done.left_out):
        message += " `vigc correct --score` computes the scores of given drafts; score 'none' needs no scores."
    if any("has no draft" in reason for reason in done.left_out):
        message += " Rows have drafts unless they were generated with --no-iqf-draft."
    return message


def _sync(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())
