"""The report page of a dataset folder: one HTML file that opens from disk and asks for nothing from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import heapq
import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from vigc.processing.images import ImageError, open_image
from vigc.processing.rows import is_edited

from . import ledger
from .differences import word_differences
from .sources import printable

MAX_ROWS = 300
_MAX_SET_ASIDE = 200
_THUMBNAIL = 512  # pixels, twice what the page shows, for dense screens
_SMALL = 160  # pictures below this are shown enlarged, pixel by pixel

_TEXT_COLUMNS = ["image_id", "draft", "answer", "trace", "scores"]


@dataclass
class _Sums:
    """What is added up over all rows of a type."""

    rows: int = 0
    changed: int = 0
    sentences: int = 0
    sentences_changed: int = 0
    draft_words: int = 0
    answer_words: int = 0
    draft_logprobs: list[float] = field(default_factory=lambda: [0.0, 0])
    answer_logprobs: list[float] = field(default_factory=lambda: [0.0, 0])

    def add(self, row: dict[str, Any]) -> None:
        self.rows += 1
        self.changed += is_edited(row["draft"], row["answer"])
        known = [step["changed"] for step in row["trace"] or [] if step["changed"] is not None]
        self.sentences += len(known)
        self.sentences_changed += sum(known)
        self.draft_words += len((row["draft"] or "").split())
        self.answer_words += len(row["answer"].split())
        for sums, name in ((self.draft_logprobs, "draft_logprob"), (self.answer_logprobs, "answer_logprob")):
            if (value := row["scores"][name]) is not None:
                sums[0] += value
                sums[1] += 1

    def figures(self) -> dict[str, Any]:
        return {
            "rows": self.rows,
            "changed": self.changed,
            "sentences": self.sentences,
            "sentences_changed": self.sentences_changed,
            "draft_words": _ratio(self.draft_words, self.rows),
            "answer_words": _ratio(self.answer_words, self.rows),
            "draft_logprob": _ratio(*self.draft_logprobs),
            "answer_logprob": _ratio(*self.answer_logprobs),
        }


def write_report(dataset: Path, *, max_rows: int = MAX_ROWS) -> Path:
    """Writes `report/index.html` of a dataset folder: figures over all rows, and up to `max_rows` of them to read.

    Where there are more rows, pictures are drawn by a hash of their ids, all types of a picture together.

    Raises:
        GenerationError: The folder is not a dataset of ours.
    """
    plan = ledger.read_plan(dataset)
    types = plan["configuration"]["types"]
    sums, image_ids, pictures = _count(dataset, types, max(1, max_rows // len(types)))
    set_aside = ledger.read_quarantine(dataset)
    total = _Sums()
    for counted in sums.values():
        for name in ("rows", "changed", "sentences", "sentences_changed"):
            setattr(total, name, getattr(total, name) + getattr(counted, name))
    page = _render(
        name=printable(dataset.resolve().name),
        plan=plan,
        types=types,
        figures={kind: counted.figures() for kind, counted in sums.items()},
        total=total.figures(),
        pictures_read=pictures,
        cards=list(_cards(dataset, types, image_ids)),
        files=[(printable(item["path"]), item["reason"]) for item in set_aside if item["kind"] == "image"],
        texts=[item for item in set_aside if item["kind"] == "text"],
        max_set_aside=_MAX_SET_ASIDE,
    )
    path = dataset / ledger.REPORT
    ledger.atomic_write(path, page.encode())
    return path


def _files(dataset: Path, kind: str) -> list[Path]:
    return sorted((dataset / kind).glob("train-*.parquet"))


def _count(dataset: Path, types: list[str], wanted: int) -> tuple[dict[str, _Sums], set[str], int]:
    """Sums by type, the ids of the `wanted` pictures to show, and how many pictures there are."""
    sums = {kind: _Sums() for kind in types}
    drawn: list[tuple[int, str]] = []
    counted: set[int] = set()
    for kind in types:
        for path in _files(dataset, kind):
            for batch in pq.ParquetFile(path).iter_batches(columns=_TEXT_COLUMNS):
                for row in batch.to_pylist():
                    sums[kind].add(row)
                    lot = int.from_bytes(hashlib.sha256(row["image_id"].encode()).digest()[:8], "big")
                    if lot in counted:
                        continue
                    counted.add(lot)
                    heapq.heappush(drawn, (-lot, row["image_id"]))
                    if len(drawn) > wanted:
                        heapq.heappop(drawn)
    return sums, {image_id for _, image_id in drawn}, len(counted)


def _cards(dataset: Path, types: list[str], image_ids: set[str]) -> Iterator[dict[str, Any]]:
    """The pictures to show, in the dataset's order, each with its rows."""
    cards: dict[str, dict[str, Any]] = {}
    for kind in types:
        for row in _chosen_rows(dataset, kind, image_ids):
            card = cards.setdefault(row["image_id"], {"id": row["image_id"], "rows": []})
            if "picture" not in card:
                data = (row["image"] or {}).get("bytes")
                card["picture"] = None if data is None else _thumbnail(data)
            card["rows"].append(_shown(row))
    for image_id in sorted(cards):
        yield cards[image_id]


def _chosen_rows(dataset: Path, kind: str, image_ids: set[str]) -> Iterator[dict[str, Any]]:
    """Rows about these pictures; of row groups without one, only the ids are read."""
    for path in _files(dataset, kind):
        file = pq.ParquetFile(path)
        for group in range(file.num_row_groups):
            ids = file.read_row_group(group, columns=["image_id"]).column(0).to_pylist()
            where = [index for index, image_id in enumerate(ids) if image_id in image_ids]
            if where:
                yield from file.read_row_group(group).take(where).to_pylist()


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    draft, answer = row["draft"] or "", row["answer"]
    before, after = word_differences(draft, answer)
    trace = [step for step in row["trace"] or [] if step["sentence"]]
    return {
        "type": row["type"],
        "question": row["question"],
        "changed": is_edited(draft, answer),
        "draft": before,
        "answer": after,
        "trace": trace,
        "sentences_changed": sum(bool(step["changed"]) for step in trace),
        "logprob": row["scores"]["answer_logprob"],
    }


def _thumbnail(data: bytes) -> dict[str, Any] | None:
    """A small copy as a `data:` URI with its size on the page, or None if the picture cannot be shown."""
    try:
        image = open_image(data)
    except ImageError:  # the page then says so; an older dataset may hold a format that this Pillow lacks
        return None
    small = max(image.size) <= _SMALL
    buffer = io.BytesIO()
    if small:
        image.save(buffer, "PNG")
    else:
        image.thumbnail((_THUMBNAIL, _THUMBNAIL), Image.Resampling.LANCZOS)
        image.save(buffer, "JPEG", quality=80, optimize=True)
    kind = "png" if small else "jpeg"
    uri = f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return {"uri": uri, "width": image.width, "height": image.height, "small": small}


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None


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
