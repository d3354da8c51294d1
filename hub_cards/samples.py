"""The parts of a dataset card that are read from its rows: distributions of scores, and sample rows with images."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypedDict

import pyarrow as pa
import pyarrow.compute as pc

from vigc.errors import ImageError
from vigc.processing.bounded_parsing import open_parquet
from vigc.processing.images import open_image
from vigc.processing.rows import Row, is_edited

SAMPLES = "samples"
_PER_TYPE = 2
_AMONG = 64  # samples come from the first rows of a type; edited ones are preferred
_SIDE = 384
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_COLUMNS = ["image", "type", "question", "draft", "answer"]


class Distribution(TypedDict):
    """The distribution of a score: number of rows, mean, and the 5, 25, 50, 75 and 95 % quantiles."""

    count: int
    mean: float
    quantiles: list[float]


class Sample(TypedDict):
    """A row on the card; `picture` is the path of its image in the folder, None if the row has no readable image."""

    type: str
    question: str
    draft: str | None
    answer: str
    picture: str | None


def read_scores(folder: Path, types: Sequence[str]) -> dict[str, Distribution]:
    """The distribution of each score, by name."""
    found: dict[str, list[pa.Array]] = {}
    for path in _files(folder, types):
        with open_parquet(path) as file:
            if "scores" not in file.schema_arrow.names:
                continue
            for batch in file.iter_batches(columns=["scores"]):
                scores = batch.column(0)
                for index, field in enumerate(scores.type):
                    values = pc.drop_null(pc.struct_field(scores, [index]))
                    found.setdefault(field.name, []).append(values.filter(pc.is_finite(values)))
    return {name: summary for name, parts in found.items() if (summary := _distribution(pa.chunked_array(parts)))}


def _distribution(values: pa.ChunkedArray) -> Distribution | None:
    if not len(values):
        return None
    mean = math.fsum(values.to_numpy().astype("float64")) / len(values)  # fsum: independent of the order
    return {"count": len(values), "mean": mean, "quantiles": pc.quantile(values, q=_QUANTILES).to_pylist()}


def write_samples(
    folder: Path, types: Sequence[str], write: Callable[[Path, bytes], Any] = Path.write_bytes
) -> list[Sample]:
    """Up to two rows of each type, edited ones if possible, and writes small copies of their images to `samples/`.

    Args:
        folder: The dataset folder.
        types: The task types with rows.
        write: Function that writes a file.
    """
    samples: list[Sample] = []
    for kind in types:
        for number, row in enumerate(_chosen(folder, kind), start=1):
            small = _small_copy((row["image"] or {}).get("bytes"))
            name = None
            if small is not None:
                data, suffix = small
                name = f"{SAMPLES}/{kind}-{number}.{suffix}"
                (folder / SAMPLES).mkdir(exist_ok=True)
                write(folder / name, data)
            samples.append(
                {
                    "type": row["type"],
                    "question": row["question"],
                    "draft": row["draft"],
                    "answer": row["answer"],
                    "picture": name,
                }
            )
    return samples


def _files(folder: Path, types: Sequence[str]) -> Iterator[Path]:
    for kind in types:
        yield from sorted((folder / kind).glob("train-*.parquet"))


def _chosen(folder: Path, kind: str) -> list[Row]:
    for path in _files(folder, [kind]):
        with open_parquet(path) as file:
            if not set(_COLUMNS) <= set(file.schema_arrow.names):
                return []
            rows = next(file.iter_batches(_AMONG, columns=_COLUMNS)).to_pylist()
        rows.sort(key=lambda row: not is_edited(row["draft"], row["answer"]))
        return rows[:_PER_TYPE]
    return []


def _small_copy(data: bytes | None) -> tuple[bytes, str] | None:
    """An image of at most 384 pixels per side, and its suffix; None if `data` is None or unreadable."""
    if data is None:
        return None
    try:
        image = open_image(data)
    except ImageError:  # an older dataset may have a format that this Pillow cannot read
        return None
    suffix = "png" if max(image.size) <= _SIDE // 2 else "jpg"
    image.thumbnail((_SIDE, _SIDE))
    buffer = io.BytesIO()
    if suffix == "png":
        image.save(buffer, "PNG")
    else:
        image.save(buffer, "JPEG", quality=85)
    return buffer.getvalue(), suffix
