"""The report page of a dataset folder: a self-contained HTML file."""

from __future__ import annotations

import base64
import hashlib
import heapq
import io
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from vigc.errors import GenerationError, ImageError, machine_errors
from vigc.formats.dataset_files import OwnFiles
from vigc.hub_cards import compares_drafts
from vigc.jobs import ledger
from vigc.jobs.protocols import Record
from vigc.processing.bounded_parsing import open_parquet
from vigc.processing.confined_paths import leads_into, printable, shown
from vigc.processing.images import open_image
from vigc.processing.rows import is_edited
from vigc.processing.word_diff import word_differences

from .statistics import COLUMNS, Figures, SetAside, shown_steps

MAX_ROWS = 1_500
_EXAMPLES = 20  # for each reason why something was skipped or rejected
# Longer side in pixels by the number of images on the page: few images are sharp, many load quickly.
_THUMBNAILS = ((60, 512), (400, 384), (1_000_000, 256))
_SMALL = 160  # images below this are shown enlarged, pixel by pixel


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A small copy of an image.

    Args:
        uri: The `data:` URI.
        width: Width in CSS pixels.
        height: Height in CSS pixels.
        small: Whether the original image is small and is shown enlarged.
    """

    uri: str
    width: int
    height: int
    small: bool


# A text in parts, each with whether it is missing from the other text.
Marked = list[tuple[str, bool]]


@dataclass(frozen=True, slots=True)
class ShownRow:
    """A row on the page.

    Args:
        type: Its task type.
        question: The question.
        changed: Whether correction changed a word.
        draft: The draft, with parts marked that the answer lacks.
        answer: The answer, with parts marked that the draft lacks.
        trace: The steps that stand for a sentence.
        sentences_changed: How many of them changed the sentence.
        logprob: The mean log-probability of the answer's tokens.
        scores: The scores that rows can be filtered by.
    """

    type: str
    question: str
    changed: bool
    draft: Marked
    answer: Marked
    trace: list[Record]
    sentences_changed: int
    logprob: float | None
    scores: dict[str, float]


@dataclass(frozen=True, slots=True)
class Card:
    """An image with its rows.

    Args:
        id: The image's id, or that of a row without image.
        named: Whether the row names or contains an image.
        picture: The image; None if it cannot be shown.
        rows: The rows.
    """

    id: str
    named: bool
    picture: Thumbnail | None
    rows: list[ShownRow] = field(default_factory=list)


@machine_errors()
def write_report(dataset: Path, *, max_rows: int = MAX_ROWS, image_root: str | os.PathLike[str] | None = None) -> Path:
    """Writes `report/index.html` of a dataset folder: statistics of all rows, and up to `max_rows` of them.

    With more rows, images are sampled by a hash of their ids; all rows of an image stay together.

    Args:
        dataset: The dataset folder.
        max_rows: Approximate number of rows to show.
        image_root: Another folder that may contain images, for rows with paths.

    Raises:
        GenerationError: The folder is not a vigc dataset.
    """
    plan = ledger.read_plan(dataset)
    own = OwnFiles(str(dataset))
    if image_root is not None:
        own.add(image_root)
    types = plan.configuration.types
    figures, drawn, pictures = _count(dataset, types, max(1, max_rows))
    total = sum(figures.values(), Figures())
    compared = compares_drafts(plan.configuration)
    files, texts = SetAside(_EXAMPLES), SetAside(_EXAMPLES)
    for record in ledger.iter_quarantine(dataset):
        if record["kind"] == "text":
            texts.add(record)
        else:
            files.add(record | {"path": printable(record["path"])})
    page = _render(
        name=printable(dataset.resolve().name),
        plan=plan,
        types=types,
        figures={kind: counted.shown() for kind, counted in figures.items()},
        total=total.shown(),
        compared=compared,
        given=plan.kind == "correct",  # whose questions and drafts are not the model's
        charts=total.charts(compared),
        sunburst=total.questions_chart(),
        first_words=total.first_words(),
        pictures_read=pictures,
        cards=_cards(dataset, types, drawn, own),
        files=files.groups(),
        texts=texts.groups(),
        set_aside={"files": files.count, "texts": texts.count},
    )
    path = dataset / ledger.REPORT
    ledger.atomic_write(path, page.encode())
    ledger.mark_report(dataset)
    return path


def _files(dataset: Path, kind: str) -> list[Path]:
    files, real = sorted((dataset / kind).glob("train-*.parquet")), os.path.realpath(dataset)
    for path in files:
        if not leads_into(os.path.realpath(path), real):
            raise GenerationError(f"{str(path)!r} is a link out of the dataset: copy the file into it.")
    return files


def _count(dataset: Path, types: list[str], wanted: int) -> tuple[dict[str, Figures], set[str], int]:
    """Statistics by type, the images to show (with about `wanted` rows), and the number of images."""
    figures = {kind: Figures() for kind in types}
    drawn: list[tuple[int, str]] = []
    rows_of: dict[str, int] = {}
    counted: set[int] = set()
    for kind in types:
        for path in _files(dataset, kind):
            for batch in open_parquet(path).iter_batches(columns=COLUMNS):
                for row in batch.to_pylist():
                    figures[kind].add(row)
                    picture = _picture_of(row)
                    if picture in rows_of:
                        rows_of[picture] += 1
                        continue
                    lot = int.from_bytes(hashlib.sha256(picture.encode()).digest()[:8], "big")
                    if lot in counted:
                        continue
                    counted.add(lot)
                    rows_of[picture] = 1
                    heapq.heappush(drawn, (-lot, picture))
                    if len(drawn) > wanted:
                        del rows_of[heapq.heappop(drawn)[1]]
    shown: set[str] = set()
    for _, picture in sorted(drawn, reverse=True):
        wanted -= rows_of[picture]
        if wanted < 0 and shown:
            break
        shown.add(picture)
    return figures, shown, len(counted)


def _picture_of(row: Record) -> str:
    """A key shared by all rows of an image; rows without image have separate keys."""
    return row["image_id"] or row["id"]


def _cards(dataset: Path, types: list[str], drawn: set[str], own: OwnFiles) -> list[Card]:
    """The images to show with their rows, in the order of the dataset.

    Args:
        dataset: The dataset folder.
        types: Its types.
        drawn: Keys of the images.
        own: The files that rows may name.
    """
    size = next(pixels for limit, pixels in _THUMBNAILS if len(drawn) <= limit)
    cards: dict[str, Card] = {}
    for kind in types:
        for row in _chosen_rows(dataset, kind, drawn):
            key = _picture_of(row)
            if key not in cards:
                picture = _thumbnail(row["image"] or {}, own, size)
                cards[key] = Card(key, row["image"] is not None, picture)
            cards[key].rows.append(_shown(row))
    return [cards[key] for key in sorted(cards)]


def _chosen_rows(dataset: Path, kind: str, drawn: set[str]) -> Iterator[Record]:
    """The rows of these images; from row groups without them, only ids are read."""
    for path in _files(dataset, kind):
        file = open_parquet(path)
        for group in range(file.num_row_groups):
            ids = file.read_row_group(group, columns=["id", "image_id"]).to_pylist()
            where = [index for index, row in enumerate(ids) if _picture_of(row) in drawn]
            if where:
                yield from file.read_row_group(group).take(where).to_pylist()


def _shown(row: Record) -> ShownRow:
    draft, answer = row["draft"], row["answer"]
    before, after = word_differences(answer if draft is None else draft, answer)
    trace = shown_steps(row)
    scores = row["scores"] or {}
    return ShownRow(
        type=row["type"],
        question=row["question"],
        changed=is_edited(draft, answer),
        draft=before,
        answer=after,
        trace=trace,
        sentences_changed=sum(bool(step["changed"]) for step in trace),
        logprob=scores.get("answer_logprob"),
        scores={name: value for name, value in _filters(scores).items() if value is not None and math.isfinite(value)},
    )


def _filters(scores: dict[str, float | None]) -> dict[str, float | None]:
    """The scores for the page's filters, by attribute name."""
    before, after = scores.get("draft_logprob"), scores.get("answer_logprob")
    return {
        "logprob": after,
        "gain": None if before is None or after is None else after - before,
        "visual": scores.get("visual_dependency"),
    }


def _thumbnail(picture: Record, own: OwnFiles, size: int) -> Thumbnail | None:
    """The thumbnail of an image, or None if it cannot be shown."""
    try:
        if (data := picture.get("bytes")) is not None:
            image = open_image(data)
        elif named := picture.get("path"):
            image = open_image(own.confined(named, shown(named)))
        else:
            return None
    except ImageError:  # the page then says so: it lies elsewhere, or has a format that this Pillow lacks
        return None
    small = max(image.size) <= _SMALL
    buffer = io.BytesIO()
    if small:
        image.save(buffer, "PNG")
    else:
        image.thumbnail((size, size), Image.Resampling.LANCZOS)
        image.save(buffer, "JPEG", quality=78, optimize=True)
    kind = "png" if small else "jpeg"
    uri = f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return Thumbnail(uri, image.width, image.height, small)


def _render(**values: Any) -> str:
    folder = Path(__file__).parent
    environment = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style, script = ((folder / f"report.{suffix}").read_text(encoding="utf-8") for suffix in ("css", "js"))
    return environment.get_template("report.html").render(
        style=style,
        script=script,
        style_hash=_csp_hash(style),
        script_hash=_csp_hash(script),
        **values,
    )


def _csp_hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
