"""Whole jobs of the real model from the command line: rows that name their pictures, and a model that breaks down."""

import json
import math
import shutil

import pyarrow.parquet as pq
import pytest
from datasets import load_dataset
from PIL import Image
from typer.testing import CliRunner

from vigc.cli.root import app
from vigc.generation import CorrectJob, GenerateJob, correct_dataset, generate_dataset
from vigc.generation.notices import notice_of
from vigc.generation.rollouts.checks import NOT_FINITE
from vigc.jobs import ledger
from vigc.scenes import write_scenes


def vigc(*words):
    result = CliRunner().invoke(app, [str(word) for word in words])
    return result.exit_code, result.output


def rows_of(folder):
    return [row for file in sorted(folder.glob("*/train-*.parquet")) for row in pq.read_table(file).to_pylist()]


# Rows that name their pictures


def test_rows_may_name_their_pictures_from_end_to_end(parity_dir, vigc_folder, tmp_path):
    pictures, out = tmp_path / "pictures", tmp_path / "out"
    (pictures / "sub").mkdir(parents=True)
    for index in range(3):
        shutil.copy(parity_dir / "images" / f"img_{index}.png", pictures / "sub" / f"ü {index}.png")
    (pictures / "broken.png").write_bytes(b"no picture")
    code, said = vigc(
        *("generate", pictures, "--output", out, "--model", vigc_folder, "--types", "detail", "--images", "path")
    )
    assert code == 3, said
    rows = rows_of(out)
    paths = sorted(row["image"]["path"] for row in rows)
    assert rows and set(paths) <= {str(pictures.resolve() / "sub" / f"ü {index}.png") for index in range(3)}
    assert all(row["image"]["bytes"] is None for row in rows)
    loaded = load_dataset(str(out), "detail", split="train", cache_dir=str(tmp_path / "cache"))
    for row in loaded:
        with Image.open(pictures / f"{row['image_id']}.png") as image:
            assert row["image"].convert("RGB").tobytes() == image.convert("RGB").tobytes()
    assert vigc("report", out, "--image-root", pictures)[0] == 0
    page = (out / "report" / "index.html").read_text()
    assert page.count("data:image/") >= len(rows), "the page holds the pictures, not their paths"
    for layout in ("trl-sft", "llava"):
        options = ("--format", layout, "--output", tmp_path / layout, "--image-root", pictures)
        code, said = vigc("export", out, *options)
        assert code == 0, said
    sft = load_dataset(str(tmp_path / "trl-sft"), split="train", cache_dir=str(tmp_path / "cache"))
    assert len(sft) == len(rows) and all(row["images"][0].size[0] > 0 for row in sft)
    entries = json.loads((tmp_path / "llava" / "conversations.json").read_text())
    assert {entry["image"] for entry in entries} and all(
        (tmp_path / "llava" / "images" / entry["image"]).read_bytes() for entry in entries
    )


# A model that breaks down


@pytest.fixture
def pictures(parity_dir, tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for index in range(4):
        shutil.copy(parity_dir / "images" / f"img_{index}.png", folder)
    return folder


@pytest.fixture
def broken(model, processor, pictures):
    """The model; of one picture, it sees no numbers."""
    with Image.open(pictures / "img_2.png") as image:
        odd = processor(images=[image.convert("RGB")], return_tensors="pt")["pixel_values"][0]

    def blind(module, given, named, output):
        pixels = named["pixel_values"] if "pixel_values" in named else given[0]
        for row, picture in enumerate(pixels):
            if (picture - odd).abs().max() < 1e-4:
                output[0][row] = math.nan
        return output

    hook = model.vision_model.register_forward_hook(blind, with_kwargs=True)
    yield model
    hook.remove()


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"settings": {"do_sample": True}},
        {"correct": False},
        {"correct": False, "settings": {"do_sample": True}},
        {"types": ["okvqa"], "answers": 2},
        {"questions": 2, "score": True},
    ],
    ids=lambda given: "-".join(given) or "plain",
)
def test_logits_that_are_no_numbers_cost_their_rows_and_no_others(broken, processor, pictures, tmp_path, given):
    settings = {"max_new_tokens": 40, **given.get("settings", {})}
    job = {"types": ["detail"], "batch_size": 4, **given, "settings": settings}
    summary = generate_dataset(pictures, tmp_path / "out", model=broken, processor=processor, **job)
    records = ledger.read_quarantine(tmp_path / "out")
    lost = [record for record in records if record["image_id"] == "img_2"]
    assert [record["reason"] for record in lost] == [NOT_FINITE.detail] * job.get("questions", 1)
    assert all(record["attempts"] == 1 and record["type"] == job["types"][0] for record in lost)
    assert not any(record["reason"] == NOT_FINITE.detail for record in records if record not in lost)
    rows = rows_of(tmp_path / "out")
    assert {row["image_id"] for row in rows} <= {"img_0", "img_1", "img_3"} and summary.set_aside == len(records)
    assert len(rows) + len(records) + summary.dropped == 4 * job.get("questions", 1)


def test_a_correction_without_numbers_is_set_aside(broken, processor, pictures, tmp_path):
    talk = [{"from": "human", "value": "What is it?"}, {"from": "gpt", "value": "A thing."}]
    entries = [{"id": index, "image": f"img_{index}.png", "conversations": talk} for index in range(4)]
    (tmp_path / "llava.json").write_text(json.dumps(entries))
    job = {"model": broken, "processor": processor, "settings": {"max_new_tokens": 20}, "batch_size": 4}
    correct_dataset(tmp_path / "llava.json", tmp_path / "out", image_root=pictures, **job)
    records = ledger.read_quarantine(tmp_path / "out")
    assert [record["reason"] for record in records if record["image_id"] == "2"] == [NOT_FINITE.detail]
    assert {row["image_id"] for row in rows_of(tmp_path / "out")} <= {"0", "1", "3"}
    assert len(records) + len(rows_of(tmp_path / "out")) == 4


# A model that knows one world only


def test_a_model_of_scenes_over_photographs_says_so(parity_dir, tmp_path):
    write_scenes(tmp_path / "scenes", 3)
    (tmp_path / "photos").mkdir()
    shutil.copy(parity_dir / "images" / "img_0.png", tmp_path / "photos")
    said = "vigc-tiny was trained on rendered scenes only, and these images are not known to be rendered scenes"
    for images, noted in ((tmp_path / "photos", True), (tmp_path / "scenes" / "images", False)):
        out = tmp_path / images.parent.name / "out"
        code, told = vigc("generate", images, "--output", out, "--types", "detail")
        assert code in (0, 3) and (f"Notice: {said}" in " ".join(told.split())) == noted, told
        card, page = (out / "README.md").read_text(), (out / "report" / "index.html").read_text()
        assert ("> **Notice:** " in card, 'class="notice"' in page) == (noted, noted)
        assert (said in card, said in page) == (noted, noted)
        assert "--model vigc-tiny --types detail" in card and "Model: vigc-tiny, revision" in card
    code, told = vigc("generate", tmp_path / "photos", "--output", tmp_path / "dry", "--types", "detail", "--dry-run")
    assert code == 0 and said in " ".join(told.split())


def test_which_images_a_model_knows(tmp_path):
    write_scenes(tmp_path / "scenes", 3, layout="dataset")
    (tmp_path / "photos").mkdir()
    parquet = tmp_path / "scenes" / "detail" / "train-00000.parquet"
    for place in (tmp_path / "scenes", tmp_path / "scenes" / "instances.json", parquet):
        assert notice_of("m", "vigc-scenes", [place]) is None
    for place in (tmp_path / "photos", tmp_path / "photos" / "coco.json", "someone/scenes"):
        assert notice_of("m", "vigc-scenes", [place]).startswith("m was trained on rendered scenes only")
        assert notice_of("m", None, [place]) is notice_of("m", "COCO", [place]) is None
    root = {"image_root": tmp_path / "photos", "model": "m"}
    assert GenerateJob(images=tmp_path / "scenes" / "instances.json", **root).places == [tmp_path / "photos"]
    assert CorrectJob(dataset=tmp_path / "scenes" / "detail.json", **root).places == [tmp_path / "photos"]
