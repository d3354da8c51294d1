"""Rows of dataset folders: made by hand, written, and read back."""

import hashlib
import io

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from vigc.processing import GENERATED_FEATURES
from vigc.processing.rows import to_messages


def picture(colour, kind="PNG", size=(48, 32)):
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, kind)
    return buffer.getvalue()


def generated(index, draft="A red cat sleeps.", answer="A grey cat sleeps.", gain=0.25, kind="detail", **more):
    question = f"What is in picture {index}?"
    return {
        "id": f"{index:032x}",
        "image": {"bytes": picture((index % 250, 9, 9)), "path": None},
        "image_id": f"img_{index}",
        "type": kind,
        "question_index": 0,
        "question": question,
        "draft": draft,
        "answer": answer,
        "messages": to_messages(question, answer),
        "scores": {"draft_logprob": -0.75, "answer_logprob": -0.75 + gain, "visual_dependency": None},
        "source": "photos",
        "license": "cc0-1.0",
        "model": "vigc-7b",
        **more,
    }


def write(folder, rows, features=GENERATED_FEATURES, kind="detail", part=0):
    (folder / kind).mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist(rows, schema=features.arrow_schema)
    pq.write_table(table, folder / kind / f"train-{part:05d}.parquet")
    return folder


def rows_of(folder):
    return [row for file in sorted(folder.glob("*/train-*.parquet")) for row in pq.read_table(file).to_pylist()]


def content(out):
    """Every file of a dataset with its hash."""
    files = sorted(path for path in out.rglob("*") if path.is_file()) if out.exists() else []
    return {path.relative_to(out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
