"""Small files of each kind and the rows that they become, kept under `tests/fixtures/sources`.

`VIGC_WRITE_GOLDEN=1` writes the rows anew: look at the difference before it is committed.
"""

import json
import os

import pyarrow.parquet as pq
import pytest
from conftest import FIXTURES
from PIL import Image
from scripted import ScriptedModel, ScriptedProcessor

from vigc.exports import export_dataset
from vigc.generation import correct_dataset, generate_dataset
from vigc.jobs import ledger

FOLDER = FIXTURES / "sources"
NAMES = {
    "coco.json": ["000000000139.bmp", "000000000285.bmp", "sub/000000000632.bmp"],
    "objects365.json": ["images/v1/patch0/objects365_v1_00000007.bmp", "images/v2/patch16/objects365_v2_00908726.bmp"],
    "llava.json": ["000000000139.bmp", "000000000285.bmp"],
}


def pictures_of(name, root):
    """Pictures of one colour each, in a format that is the same bytes wherever it is written."""
    for index, path in enumerate(NAMES[name]):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 6), (40 * index, 90, 200 - index)).save(root / path)
    return root


def rows_of(folder):
    """Rows less their pictures, and less what every setting of the job is a part of."""
    files = sorted(folder.glob("*/train-*.parquet"))
    rows = [row for file in files for row in pq.read_table(file).to_pylist()]
    return [{name: row[name] for name in row if name not in ("image", "id", "config_hash")} for row in rows]


def check(name, rows):
    path = FOLDER / name
    if os.environ.get("VIGC_WRITE_GOLDEN"):
        path.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    assert rows == json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", ["coco.json", "objects365.json"])
def test_annotated_pictures_become_these_rows(name, tmp_path):
    job = {"model": ScriptedModel(malformed=0), "processor": ScriptedProcessor(), "types": ["detail"]}
    root = pictures_of(name, tmp_path / "root")
    summary = generate_dataset(FOLDER / name, tmp_path / "out", format=name[:-5], image_root=root, **job)
    listed = {image["file_name"] for image in json.loads((FOLDER / name).read_text())["images"]}
    assert {path for path, _ in summary.skipped} == listed - set(NAMES[name])
    check(f"{name[:-5]}_rows.json", rows_of(tmp_path / "out"))


def test_conversations_become_these_rows_and_come_back(tmp_path):
    job = {"model": ScriptedModel(malformed=0), "processor": ScriptedProcessor()}
    root = pictures_of("llava.json", tmp_path / "root")
    correct_dataset(FOLDER / "llava.json", tmp_path / "out", image_root=root, **job)
    check("llava_rows.json", rows_of(tmp_path / "out"))
    export_dataset(tmp_path / "out", tmp_path / "back", format="llava")
    before = json.loads((FOLDER / "llava.json").read_text(encoding="utf-8"))
    after = json.loads((tmp_path / "back" / "conversations.json").read_text(encoding="utf-8"))
    assert [list(entry) for entry in after] == [list(entry) for entry in before], "entries and fields in their order"
    for old, new in zip(before, after, strict=True):
        assert {**old, "conversations": None} == {**new, "conversations": None}
        # Corrected are the answers, of entries with a picture; all else is as it was.
        for was, now in zip(old["conversations"], new["conversations"], strict=True):
            corrected = "image" in old and was["from"] == "gpt"
            assert now == ({**was, "value": now["value"]} if corrected else was)
            assert not corrected or now["value"].strip().startswith("It is ")


def test_short_answers_become_these_rows(parity_dir, model, processor, tmp_path):
    (tmp_path / "words.json").write_text('{"What": 1}')
    short = {"types": ["okvqa"], "answers": 3, "first_words": tmp_path / "words.json", "retries": 0}
    settings = {"max_new_tokens": 30}
    generate_dataset(
        parity_dir / "images", tmp_path / "out", model=model, processor=processor, settings=settings, **short
    )
    rows = [
        {name: row[name] for name in ("image_id", "question", "answers", "weights")}
        for row in rows_of(tmp_path / "out")
    ]
    aside = [
        {name: record[name] for name in ("image_id", "text", "reason")}
        for record in ledger.read_quarantine(tmp_path / "out")
    ]
    for row in rows:
        assert row["weights"] == sorted(row["weights"], reverse=True)
        row["weights"] = [float(f"{weight:.2g}") for weight in row["weights"]]
    check("okvqa_rows.json", {"rows": rows, "set aside": aside})
