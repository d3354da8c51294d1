"""Where inputs come from: every form is listed in a stable order, confined to its root, and leaks are left out."""

import io
import json
import os
import random
import shutil
from pathlib import Path

import numpy as np
import pillow_heif
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dataset_rows import rows_of
from datasets import ClassLabel, Dataset, Features, Image, List, Value
from PIL import Image as Pictures
from scripted import ScriptedModel, ScriptedProcessor

from vigc.cli.summary import print_preview, print_summary
from vigc.errors import ConflictError, GenerationError, ImageError, ImagePathError, TransientError
from vigc.formats.coco import CocoFile
from vigc.formats.json_rows import read_rows
from vigc.formats.json_stream import JsonReader
from vigc.generation import GenerateJob, correct_dataset, generate_dataset, preview_job
from vigc.generation.filters.ids import ExcludedIds, keys_of
from vigc.generation.generate import open_collection
from vigc.generation.sources.base import Source
from vigc.jobs import ledger


@pytest.fixture
def root(tmp_path):
    """Six pictures that do not look alike."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    random = np.random.default_rng(0)
    for index in range(6):
        blocks = random.integers(0, 255, (6, 6, 3), dtype=np.uint8)
        Pictures.fromarray(blocks).resize((96, 96), 0).save(folder / f"{index:012d}.png")
    return folder


def job(**given):
    return {"model": ScriptedModel(malformed=0), "processor": ScriptedProcessor(), "types": ["detail"], **given}


def coco(folder, names, **more):
    content = {
        "info": {},
        "licenses": [{"id": 4, "name": "Attribution License", "url": "http://x"}],
        "images": [
            {"id": index + 1, "file_name": name, "license": 4 if index else 9} for index, name in enumerate(names)
        ],
        "annotations": [
            {"id": 1, "image_id": 2, "category_id": 3, "bbox": [1.5, 2, 3, 4], "iscrowd": 0},
            {"id": 2, "image_id": 2, "category_id": 7, "bbox": [0, 0, 9, 9]},
            {"id": 3, "image_id": 1, "caption": "words"},
        ],
        "categories": [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}],
        **more,
    }
    path = folder / "instances.json"
    path.write_text(json.dumps(content))
    return path


def test_coco_gives_ids_licences_and_objects(root, tmp_path):
    names = [f"{index:012d}.png" for index in (3, 1, 0)]
    path = coco(tmp_path, names)
    generate_dataset(path, tmp_path / "out", format="coco", image_root=root, **job())
    rows = {row["image_id"]: row for row in rows_of(tmp_path / "out")}
    assert list(rows) == ["000000000000", "000000000001", "000000000003"]
    assert rows["000000000001"]["objects"] == [
        {"category": "cat", "bbox": [1.5, 2.0, 3.0, 4.0]},
        {"category": "dog", "bbox": [0.0, 0.0, 9.0, 9.0]},
    ]
    assert rows["000000000001"]["license"] == "Attribution License" and rows["000000000003"]["license"] == "unknown"
    assert rows["000000000000"]["objects"] is None and rows["000000000000"]["source"] == "instances"
    assert "| 2 | Attribution License |" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize(
    "objects", ["a cat", ["a cat"], 3, {"boxes": [1.0]}, [{"category": ["cat"], "bbox": [0.0] * 4}]]
)
def test_objects_in_another_form_are_left_alone(tmp_path, objects):
    table = pa.table({"image": [{"bytes": b"x", "path": None}], "objects": [objects]})
    pq.write_table(table, tmp_path / "data.parquet")
    (source,) = open_collection(tmp_path / "data.parquet", "dataset")
    assert source.objects is None and source.image_id == "row-0"


@pytest.mark.parametrize("dedup", [False, True])
def test_a_file_that_is_listed_again_is_worked_on_once(root, tmp_path, dedup):
    shutil.copy(root / "000000000001.png", root / "z.png")
    names = [f"{name}.png" for name in ("000000000000", "000000000001", "000000000001", "000000000002", "z")]
    box = {"image_id": 3, "category_id": 3, "bbox": [1, 1, 2, 2]}
    boxes = [box, {**box, "image_id": 2, "category_id": 7}]
    path = coco(tmp_path, names, annotations=boxes)
    summary = generate_dataset(
        path, tmp_path / "out", format="coco", image_root=root, dedup=dedup, shard_size=2, **job()
    )
    rows = {row["image_id"]: row for row in rows_of(tmp_path / "out")}
    copies = [names[1], "z.png"] if dedup else [names[1]]
    assert (summary.rows, summary.duplicates) == (3 + (not dedup), len(copies))
    assert list(rows) == [name[:-4] for name in (names[0], names[1], names[3], "z.png")[: summary.rows]]
    assert json.loads(rows["000000000001"]["extra"]) == {"same_picture": copies}
    found = sorted(item["category"] for item in rows["000000000001"]["objects"])
    assert found == ["cat", "dog"] and rows["000000000002"]["objects"] is None


def test_objects365_ids_are_the_last_digits(root, tmp_path):
    (root / "patch0").mkdir()
    for index in range(2):
        shutil.copy(root / f"{index:012d}.png", root / "patch0" / f"objects365_v1_0000000{index}.png")
    path = coco(tmp_path, [f"patch0/objects365_v1_0000000{index}.png" for index in (1, 0, 7)])
    summary = generate_dataset(path, tmp_path / "out", format="objects365", image_root=root, **job())
    assert [row["image_id"] for row in rows_of(tmp_path / "out")] == ["00000000", "00000001"]
    assert summary.skipped == [("patch0/objects365_v1_00000007.png", "cannot be read (No such file or directory)")]


@pytest.mark.parametrize("unpacked", ["images/v1/patch0/", "patch0/", ""])
def test_objects365_is_found_as_it_is_unpacked(root, tmp_path, unpacked):
    named = [f"images/v1/patch0/objects365_v1_0000000{index}.png" for index in range(3)]
    (root / unpacked).mkdir(parents=True, exist_ok=True)
    for index, name in enumerate(named[:2]):
        shutil.copy(root / f"{index:012d}.png", root / unpacked / name.rsplit("/", 1)[1])
    Pictures.new("RGB", (2, 2)).save(tmp_path / "secret.png")
    (root / unpacked / "objects365_v1_00000002.png").symlink_to(tmp_path / "secret.png")
    path = coco(tmp_path, named)
    given = {"format": "objects365", "image_root": root, "store": "path", "dedup": True}
    summary = generate_dataset(path, tmp_path / "out", **given, **job())
    rows = {row["image_id"]: row for row in rows_of(tmp_path / "out")}
    assert {id_: row["image"]["path"] for id_, row in rows.items()} == {
        f"0000000{index}": str(root / unpacked / name.rsplit("/", 1)[1]) for index, name in enumerate(named[:2])
    }
    assert [box["category"] for box in rows["00000001"]["objects"]] == ["cat", "dog"]
    assert summary.skipped == [(named[2], "is a link out of the folder: copy the file into it")]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("../secret.png", "out of the folder"),
        ("/etc/passwd", "out of the folder"),
        ("a/../../x.png", "out of the folder"),
        ("..\\x.png", "out of the folder"),
        ("C:\\x.png", "out of the folder"),
        ("\\\\server\\x.png", "out of the folder"),
        ("http://x/y.png", "is an address"),
        ("a\0b.png", "is not a file name"),
        ("\ud800.png", "is not a file name"),
        ("out.png", "link out of the folder"),
        ("", "is not a file name"),
    ],
)
def test_names_stay_under_their_root(root, tmp_path, name, reason):
    Pictures.new("RGB", (2, 2)).save(tmp_path / "secret.png")
    (root / "out.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(ImagePathError, match=reason):
        open_collection(tmp_path / "x.json", "llava", root).open(Source(name, "x"))
    # As the name of a file that was listed, what only other systems take for a path leads nowhere else.
    with pytest.raises(ImageError, match=f"{reason}|cannot be read"):
        open_collection(root, "folder").open(Source(name, "x"))


def test_llava_files_name_each_picture_once(root, tmp_path):
    entries = [
        {"id": 1, "image": "000000000002.png", "conversations": []},
        {"id": "b", "image": "000000000001.png"},
        {"id": "b", "image": "000000000002.png"},
        {"id": "text only"},
        ["no entry"],
        {"id": 5, "image": 7},
    ]
    (tmp_path / "llava.json").write_text(json.dumps(entries))
    summary = generate_dataset(tmp_path / "llava.json", tmp_path / "out", format="llava", image_root=root, **job())
    assert [row["image_id"] for row in rows_of(tmp_path / "out")] == ["000000000002", "000000000001"]
    assert len(summary.skipped) == 2 and all("llava.json, entry " in name for name, _ in summary.skipped)


@pytest.mark.parametrize("form", ["file", "folder", "several"])
def test_datasets_are_read_in_place(root, tmp_path, form):
    features = Features({"image": Image(), "image_id": Value("string"), "license": Value("string")})
    rows = [
        {
            "image": {"bytes": path.read_bytes(), "path": None},
            "image_id": f"id{index}",
            "license": "cc0" if index else None,
        }
        for index, path in enumerate(sorted(root.glob("*.png")))
    ]
    data = Dataset.from_list(rows, features=features)
    (tmp_path / "data").mkdir()
    parts = 2 if form == "several" else 1
    for part in range(parts):
        data.shard(parts, part).to_parquet(tmp_path / "data" / f"train-{part}.parquet", batch_size=2)
    path = tmp_path / "data" / "train-0.parquet" if form == "file" else tmp_path / "data"
    summary = generate_dataset(path, tmp_path / "out", format="dataset", shard_size=4, **job())
    assert summary.images == 6 and summary.set_aside == 0
    found = {row["image_id"]: row for row in rows_of(tmp_path / "out")}
    assert set(found) == {f"id{index}" for index in range(6)}
    assert found["id0"]["license"] == "unknown" and found["id3"]["license"] == "cc0"
    assert found["id3"]["image"]["bytes"] == (root / "000000000003.png").read_bytes()


def test_pictures_of_a_folder_written_again_are_the_new_ones(root, tmp_path):
    def folder(place, *numbers):
        data = tmp_path / place / "data"
        (data / "train").mkdir(parents=True)
        for number in numbers:
            shutil.copy(root / f"{number:012d}.png", data / "train")
        readme = "---\nconfigs:\n- config_name: default\n  data_files: train/*.png\n---\n"
        (data / "README.md").write_text(readme, encoding="utf-8")
        return data

    def pictures(data, output):
        generate_dataset(data, tmp_path / output, format="dataset", **job())
        return [row["image"]["bytes"] for row in rows_of(tmp_path / output)]

    def bytes_of(*numbers):
        return [(root / f"{number:012d}.png").read_bytes() for number in numbers]

    one, other = folder("one", 0, 1), folder("other", 2, 3)
    assert pictures(one, "a") == bytes_of(0, 1)
    assert pictures(other, "b") == bytes_of(2, 3)
    shutil.rmtree(one)
    folder("one", 4, 5)
    assert pictures(one, "c") == bytes_of(4, 5)
    with pytest.raises(ConflictError, match="origin"):
        pictures(one, "a")


@pytest.mark.parametrize("form", ["parquet", "arrow"])
@pytest.mark.parametrize("layout", ["list of objects", "lists in an object"])
def test_objects_of_datasets_are_kept(root, tmp_path, form, layout):
    boxes = [[[1.5, 2, 3, 4], [0, 0, 9, 9]], [], [[1, 2, 3]], [[7, 8, 9, 10]], [[4, 3, 2, 1]], None]
    kinds = [[0, 1], [], [1], [1], [0], None]
    category, bbox = ClassLabel(names=["cat", "dog"]), List(Value("float32"))
    if layout == "list of objects":
        feature = List({"category": category, "bbox": bbox})
        objects = [
            None if k is None else [{"category": c, "bbox": x} for c, x in zip(k, b, strict=True)]
            for k, b in zip(kinds, boxes, strict=True)
        ]
    else:
        feature = {"category": List(category), "bbox": List(bbox)}
        objects = [{"category": k, "bbox": b} for k, b in zip(kinds, boxes, strict=True)]
    features = Features({"image": Image(), "image_id": Value("int64"), "objects": feature})
    ids = [5, 6, 7, 7, None, 8]
    rows = [
        {"image": {"bytes": path.read_bytes(), "path": None}, "image_id": id_, "objects": found}
        for path, id_, found in zip(sorted(root.glob("*.png")), ids, objects, strict=True)
    ]
    path = tmp_path / "data"
    path.mkdir()
    for part, (start, end) in enumerate([(0, 2), (2, 6)]):  # the first file has none that is unlike the others
        data = Dataset.from_list(rows[start:end], features=features)
        if form == "parquet":
            data.to_parquet(path / f"train-{part}.parquet")
        else:
            table = data.data.table
            with pa.ipc.new_stream(str(path / f"train-{part}.arrow"), table.schema) as file:
                file.write_table(table)
    found = list(open_collection(path, "dataset"))
    dog = {"category": "dog", "bbox": [7.0, 8.0, 9.0, 10.0]}
    pair = [{"category": "cat", "bbox": [1.5, 2.0, 3.0, 4.0]}, {"category": "dog", "bbox": [0.0, 0.0, 9.0, 9.0]}]
    cat = {"category": "cat", "bbox": [4.0, 3.0, 2.0, 1.0]}
    assert [source.objects for source in found] == [pair, None, None, [dog], [cat], None]
    names = [source.name for source in found]
    assert [source.image_id for source in found] == ["5", "6", names[2], names[3], names[4], "8"]
    assert len(set(names)) == 6 and all(name.startswith("row ") for name in names)
    assert [Source(**source.to_record()).objects for source in found] == [source.objects for source in found]


def test_what_others_train_and_test_on_is_left_out(root, tmp_path):
    (tmp_path / "ids.txt").write_text("COCO_val2014_000000000001.jpg\n")
    (tmp_path / "llava.json").write_text(json.dumps([{"id": "000000000002", "image": "000000000002.jpg"}]))
    (tmp_path / "test").mkdir()
    with Pictures.open(root / "000000000004.png") as image:
        image.resize((70, 70)).save(tmp_path / "test" / "copy.jpg", quality=80)
    lists = {"exclude_ids": [tmp_path / "ids.txt", tmp_path / "llava.json"], "exclude_images": [tmp_path / "test"]}
    summary = generate_dataset(root, tmp_path / "out", **lists, **job())
    assert {int(row["image_id"]) for row in rows_of(tmp_path / "out")} == {0, 3, 5}
    assert summary.excluded == {"listed in ids.txt": 1, "listed in llava.json": 1, "looks like a picture in test": 1}
    lines = [json.loads(line) for line in (tmp_path / "out" / ledger.EXCLUDED).read_text().splitlines()]
    assert {line["path"]: line["reason"] for line in lines}["000000000004.png"] == "looks like copy.jpg in test"
    assert "| 1 | listed in ids.txt |" in (tmp_path / "out" / "README.md").read_text()
    again = generate_dataset(root, tmp_path / "out", **lists, **job())
    assert again.idle


def test_what_cannot_be_compared_with_is_said(root, tmp_path, capsys):
    theirs = tmp_path / "their_test"
    theirs.mkdir()
    shutil.copy(root / "000000000001.png", theirs / "whole.png")
    for name in ("cut_1.jpg", "cut_2.jpg"):
        (theirs / name).write_bytes((root / "000000000002.png").read_bytes()[:60])
    (theirs / "gone.png").symlink_to(theirs / "nothing.png")
    (theirs / "zero.png").touch()
    given = {"exclude_images": [theirs], **job()}
    said = "4 files in their_test could not be read, so no image was compared with"
    print_preview(preview_job(GenerateJob(images=root, **given), tmp_path / "out"))
    assert f"{said} them: cut_1.jpg, cut_2.jpg, gone.png and others" in capsys.readouterr().out
    for _ in range(2):  # the second time from what is kept
        summary = generate_dataset(root, tmp_path / "out", **given)
        print_summary(summary)
        assert f"{said} them: cut_1.jpg, cut_2.jpg, gone.png and others" in capsys.readouterr().out
        assert summary.images == 5 and summary.set_aside == 0
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert f"**{said.replace('_', chr(92) + '_')} them**: cut\\_1.jpg, cut\\_2.jpg, gone.png and others.\n" in card
    (theirs / "whole.png").write_bytes(b"")
    with pytest.raises(GenerationError, match=r"'.*their_test' has no readable image: .*cut_1.jpg"):
        generate_dataset(root, tmp_path / "other", **given)


def test_pictures_to_leave_out_are_looked_at_once(root, tmp_path):
    theirs = tmp_path / "theirs" / "part"
    theirs.mkdir(parents=True)
    for index in (1, 4):
        with Pictures.open(root / f"{index:012d}.png") as image:
            image.save(theirs / f"{index}.bmp")
    given = {"exclude_images": [tmp_path / "theirs"], "shard_size": 2, **job()}
    excluded = {"looks like a picture in theirs": 2}
    assert generate_dataset(root, tmp_path / "out", **given, rank=1, world_size=2).excluded == excluded
    # As long as size and time are the same, a file is not opened again.
    for path, other in zip(sorted(theirs.iterdir()), (2, 3), strict=True):
        before = path.stat()
        with Pictures.open(root / f"{other:012d}.png") as image:
            image.save(path)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    leftover = tmp_path / "out" / ledger.HASHES / "0123456789abcdef" / ".part-00000.jsonl.1.tmp"
    leftover.parent.mkdir()
    leftover.touch()
    assert generate_dataset(root, tmp_path / "out", **given).excluded == excluded
    assert {int(row["image_id"]) for row in rows_of(tmp_path / "out")} == {0, 2, 3, 5}
    assert not leftover.exists()
    assert preview_job(GenerateJob(images=root, **given), tmp_path / "out").finished
    os.utime(theirs / "1.bmp")
    with pytest.raises(ConflictError, match="was among the inputs"):
        generate_dataset(root, tmp_path / "out", **given)


def parquet(path, root, *numbers):
    rows = [{"image": {"bytes": (root / f"{number:012d}.png").read_bytes(), "path": None}} for number in numbers]
    path.parent.mkdir(exist_ok=True)
    Dataset.from_list(rows, features=Features({"image": Image()})).to_parquet(path)
    return path


@pytest.mark.parametrize("other", ["another file", "the file written anew", "another split", "after a kill"])
def test_hashes_of_another_dataset_are_not_taken(root, tmp_path, monkeypatch, other):
    (tmp_path / "theirs").mkdir()
    shutil.copy(root / "000000000004.png", tmp_path / "theirs")
    first = parquet(tmp_path / "data" / "train.parquet", root, 0, 0, 1, 2)
    given = {"format": "dataset", "dedup": True, "exclude_images": [tmp_path / "theirs"], **job()}

    def die(folder, plan):
        raise KeyboardInterrupt

    if other == "after a kill":
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(ledger, "write_plan", die)
            generate_dataset(first, tmp_path / "out", **given)
    else:
        summary = generate_dataset(first, tmp_path / "out", **given)
        assert (summary.images, summary.duplicates, summary.excluded) == (3, 1, {})
    name = {"the file written anew": "train", "another split": "test"}.get(other, "other")
    second = parquet(tmp_path / "data" / f"{name}.parquet", root, 3, 4, 1, 5)
    if other == "another split":
        second, given["split"] = tmp_path / "data", "test"
    summary = generate_dataset(second, tmp_path / "out", overwrite=True, **given)
    assert (summary.images, summary.duplicates) == (3, 0)
    assert summary.excluded == {"looks like a picture in theirs": 1}


def test_a_parquet_file_that_was_replaced_is_refused(root, tmp_path):
    given = {"format": "dataset", "shard_size": 2, **job()}
    path = parquet(tmp_path / "rows.parquet", root, 0, 1, 2, 3)
    generate_dataset(path, tmp_path / "out", rank=0, world_size=2, **given)
    parquet(path, root, 2, 3, 4, 5)
    with pytest.raises(ConflictError, match=r"origin was .*\d+ bytes.* now .*\d+ bytes"):
        generate_dataset(path, tmp_path / "out", **given)


def test_pictures_that_are_away_during_the_hash_pass_are_compared_later(root, tmp_path, monkeypatch):
    (tmp_path / "theirs").mkdir()
    shutil.copy(root / "000000000004.png", tmp_path / "theirs")
    given = {"exclude_images": [tmp_path / "theirs"], **job()}
    read_bytes = Path.read_bytes

    def vanish(path):
        if path.is_relative_to(root):
            root.rename(tmp_path / "away")
        return read_bytes(path)

    with monkeypatch.context() as patch, pytest.raises(TransientError, match="the folder of the images is missing"):
        patch.setattr(Path, "read_bytes", vanish)
        generate_dataset(root, tmp_path / "out", **given)
    (tmp_path / "away").rename(root)
    assert generate_dataset(root, tmp_path / "out", **given).excluded == {"looks like a picture in theirs": 1}


def test_heic_is_listed_and_read_where_pillow_heif_is_installed(root, tmp_path):
    (tmp_path / "heic").mkdir()
    for index, name in enumerate(("a.HEIC", "b.heif")):
        picture = Pictures.open(root / f"{index:012d}.png")
        pillow_heif.from_pillow(picture).save(tmp_path / "photo.heic")
        (tmp_path / "photo.heic").rename(tmp_path / "heic" / name)
    done = generate_dataset(tmp_path / "heic", tmp_path / "out", **job())
    assert (done.rows, done.set_aside) == (2, 0)
    assert [row["image_id"] for row in rows_of(tmp_path / "out")] == ["a", "b"]
    stored = rows_of(tmp_path / "out")[0]["image"]["bytes"]
    assert Pictures.open(io.BytesIO(stored)).size == picture.size


def test_what_lies_beside_the_pictures_is_counted(root, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("vigc.processing.images.reads_heif", lambda: False)
    (tmp_path / "elsewhere").mkdir()
    for name in ("linked", "linked.png"):
        (root / name).symlink_to(tmp_path / "elsewhere")
    for name in ("a.HEIC", "b.heic", "notes.txt", "LICENSE"):
        (root / name).touch()
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    shutil.copy(root / "000000000004.png", theirs)
    (theirs / "c.heic").touch()
    given = {"exclude_images": [theirs], **job()}
    fix = "; pip install 'vigc[heic]' to read .heic"
    said = (
        "2 ignored: links to folders, which are not followed\n",
        f"4 ignored: files with other extensions (.heic 2, none 1, .txt 1{fix})\n",
        f"1 in theirs, ignored: files with other extensions (.heic 1{fix})\n",
    )
    print_preview(preview_job(GenerateJob(images=root, **given), tmp_path / "out"))
    told = capsys.readouterr().out
    assert [line for line in said if line not in told] == []
    for _ in range(2):  # the second time nothing is left to do
        print_summary(generate_dataset(root, tmp_path / "out", **given))
        told = capsys.readouterr().out
        assert [line for line in said if line not in told] == []
    for path in root.glob("*.png"):
        path.unlink()
    with pytest.raises(GenerationError, match=r"has no image: .*; 1 ignored: links.*; 4 ignored: files"):
        generate_dataset(root, tmp_path / "none", **job())


@pytest.mark.parametrize(
    "content",
    [
        {"images": [{"id": 42, "file_name": "x.jpg"}]},
        [{"image_id": 42, "question": "?"}],
        {"annotations": [{"image_id": 42, "id": 7}]},
        [{"image": "COCO_train2014_000000000042.jpg", "id": 3}],
        ["000000000042"],
        [42],
    ],
)
def test_ids_are_found_in_every_form(tmp_path, content):
    (tmp_path / "list.json").write_text(json.dumps(content))
    excluded = ExcludedIds(tmp_path / "list.json")
    assert excluded.exclusion(keys_of(Source("train/000000000042.jpg", "000000000042"))).detail == "listed in list.json"
    assert excluded.exclusion(keys_of(Source("000000000007.jpg", "000000000007"))) is None


def test_a_whole_coco_file_leaves_out_its_pictures_and_no_others(tmp_path):
    content = {
        "info": {"description": "COCO 2017 Dataset", "version": "1.0", "year": 2017, "contributor": "", "url": ""},
        "licenses": [{"id": number, "name": f"Licence {number}", "url": ""} for number in range(1, 9)],
        "images": [
            {"id": number, "file_name": f"{number:012d}.jpg", "width": 9, "height": 9, "license": 1}
            for number in (139, 285)
        ],
        "annotations": [
            {
                "id": 42,
                "image_id": 139,
                "category_id": 62,
                "bbox": [0, 0, 3, 3],
                "iscrowd": 0,
                "segmentation": [[0, 0]],
            },
            {"id": 285_000, "image_id": 285, "category_id": 23, "bbox": [0, 0, 3, 3], "iscrowd": 0},
        ],
        "categories": [{"id": number, "name": f"kind {number}", "supercategory": "all"} for number in range(1, 91)],
    }
    (tmp_path / "instances_val2017.json").write_text(json.dumps(content))
    excluded = ExcludedIds(tmp_path / "instances_val2017.json")
    numbers = [*range(100), 139, 285, 285_000]
    names = {number: Source(f"train2017/{number:012d}.jpg", f"{number:012d}") for number in numbers}
    assert [number for number, source in names.items() if excluded.exclusion(keys_of(source))] == [139, 285]


def test_broken_json_is_named_with_its_line(tmp_path):
    whole = coco(tmp_path, ["a.png", "b.png"]).read_text().replace("{", "{\n")
    for cut in (10, 60, 200, len(whole) - 1):
        (tmp_path / "cut.json").write_text(whole[:cut])
        with pytest.raises(GenerationError, match=r"cut\.json, line \d+"):
            list(open_collection(tmp_path / "cut.json", "coco"))
    (tmp_path / "rows.jsonl").write_bytes(b'\xef\xbb\xbf{"a": 1}\n{"a": \n\n{"a": "\xff"}\n')
    rows = list(read_rows(tmp_path / "rows.jsonl"))
    assert rows[0] == ("line 1", {"a": 1}) and "rows.jsonl, line 2" in str(rows[1][1]) and rows[2][0] == "line 4"


def test_a_json_stream_equals_the_whole(tmp_path, monkeypatch):
    from vigc.formats import json_stream

    monkeypatch.setattr(json_stream, "_CHUNK", 3)
    value = {"a": [1, 2.5e3, -7, 'ü🙂\\"', None, True, {"b": []}], "c": {}, "images": [{"x": "long " * 50}] * 3}
    (tmp_path / "x.json").write_bytes(b"\xef\xbb\xbf " + json.dumps(value, ensure_ascii=False, indent=1).encode())
    reader = JsonReader(tmp_path / "x.json")
    found = {}
    for name in reader.members():
        found[name] = list(reader.elements()) if reader.top() == "[" else reader.value()
    assert found == value


def boxed(draw, index):
    """An entry of annotations; some are not like the others, or look as if they ended where they do not."""
    entry = {"id": index, "image_id": draw.randrange(9), "category_id": draw.randrange(4)}
    entry["bbox"] = [draw.random() * 9 for _ in range(4)]
    odd = draw.randrange(60)
    more = {
        0: {"parts": [{"x": 1}, {"y": 2}]},
        1: {"text": 'a}, {"b": "]}, {\\"'},
        2: {"image_id": str(entry["image_id"])},
        3: {"ü🙂": "ü🙂", "bbox": [1, 2e0, -3, 4.5]},
        4: {"bbox": None},
        5: {"category_id": 2**40},
    }
    return {**entry, **more.get(odd, {})}


@pytest.mark.parametrize("seed", range(12))
def test_blocks_of_annotations_equal_the_whole(tmp_path, monkeypatch, seed):
    from vigc.formats import json_stream

    draw = random.Random(seed)
    for name, values in (("_BLOCK", (100, 300, 5000)), ("_CHUNK", (7, 64, 500)), ("_ONE_BY_ONE", (1, 3, 20))):
        monkeypatch.setattr(json_stream, name, draw.choice(values))
    boxes = [boxed(draw, index) for index in range(draw.randrange(400))]
    images = [{"id": number, "file_name": f"{'ü' * draw.randrange(2)}{number}.png"} for number in range(9)]
    content = {"info": {"a": [1]}, "annotations": boxes, "categories": [{"id": 2, "name": "cat"}], "images": images}
    names = draw.sample(sorted(content), 4)
    text = json.dumps({name: content[name] for name in names}, indent=draw.choice([None, 1]), ensure_ascii=seed % 2)
    (tmp_path / "x.json").write_text(text, encoding="utf-8")
    file = CocoFile(tmp_path / "x.json")
    assert file.names == [image["file_name"] for image in images]
    for index in range(9):
        expected = [
            {
                "category": {2: "cat"}.get(box["category_id"], str(box["category_id"])),
                "bbox": np.array(box["bbox"], dtype=np.float32).tolist(),
            }
            for box in boxes
            if int(box["image_id"]) == index and box["bbox"] and min(box["bbox"][2:]) > 0
        ]
        assert Source("x", "x", boxes=file.objects(index)).objects == (expected or None)
    assert file.unusable == sum(1 for box in boxes if box["bbox"] and min(box["bbox"][2:]) <= 0)
    reader = json_stream.JsonReader(tmp_path / "x.json")
    read = {}
    for name in reader.members():
        if reader.top() != "[":
            read[name] = reader.value()
            continue
        read[name] = []
        for block in reader.blocks(pa.struct({"id": pa.int64()})):
            assert reader.index == len(read[name])
            read[name] += [entry["id"] for entry in (block if isinstance(block, list) else block.to_pylist())]
    assert read == {name: content[name] if name == "info" else [e["id"] for e in content[name]] for name in names}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"images": [{"id": 1}]},
            r"entry 0 of 'images' is not in COCO's form \(it has no 'file_name' and no 'coco_url'",
        ),
        ({"images": [{"id": 1, "file_name": 5}]}, r"entry 0 of 'images' .*'file_name' is 5, but text"),
        ({"images": [{"id": "x", "file_name": "a"}]}, r"entry 0 of 'images' .*'id' is 'x', but a whole number"),
        ({"images": []}, r"lists no 'images'"),
        ({"annotations": [{"image_id": 1, "category_id": 2, "bbox": [1, 2, 3]}] * 9}, r"entry 0 of 'annotations'"),
        (
            {"annotations": [{"category_id": 2, "bbox": [1, 2, 3, 4]}]},
            r"entry 0 of 'annotations' .*it has no 'image_id'",
        ),
        ({"annotations": [None]}, r"entry 0 of 'annotations' .*None"),
        ({"categories": ["cat"]}, r"entry 0 of 'categories'"),
    ],
)
def test_entries_of_another_form_are_named(tmp_path, root, change, message):
    path = coco(tmp_path, ["a.png", "b.png"], **change)
    with pytest.raises(GenerationError, match=message):
        list(open_collection(path, "coco", root))


def test_correcting_llava_keeps_every_turn(root, tmp_path):
    from vigc.formats.llava import llava_entry

    entries = [
        {
            "id": "same",
            "image": "000000000001.png",
            "conversations": [
                {"from": "human", "value": "What is it?\n<image>"},
                {"from": "gpt", "value": "A cat. It sleeps."},
                {"from": "human", "value": "Why?"},
                {"from": "gpt", "value": "Because."},
            ],
        },
        {"id": 7, "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello."}], "more": [1]},
        {
            "id": "same",
            "image": "gone.png",
            "conversations": [{"from": "human", "value": "x"}, {"from": "gpt", "value": "y"}],
        },
        {"id": 9, "image": "000000000002.png", "conversations": "none"},
    ]
    (tmp_path / "llava.json").write_text(json.dumps(entries))
    settings = {"model": ScriptedModel(), "processor": ScriptedProcessor()}
    summary = correct_dataset(tmp_path / "llava.json", tmp_path / "out", image_root=root, **settings)
    rows = rows_of(tmp_path / "out")
    assert (summary.rows, summary.images, summary.bare, summary.set_aside) == (3, 1, 1, 2)
    assert [row["draft"] for row in rows] == ["A cat. It sleeps.", "Because.", "Hello."]
    assert rows[2]["answer"] == "Hello." and rows[2]["image"] is None
    assert all(row["answer"].startswith("It is ") and row["trace"][0]["changed"] for row in rows[:2])
    assert {reason.split(":")[0] for _, reason in summary.skipped} >= {"is no conversation"}
    (figures,) = summary.types.values()
    assert figures.changed == 2 and figures.words_out >= 3 and figures.words_in >= 10
    said = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert f"removed {figures.words_out} words from the drafts and inserted {figures.words_in}, in 2 edited" in said
    back = llava_entry([{**row, "answer": row["draft"]} for row in rows[:2]], None)
    assert back == entries[0] and llava_entry(rows[2:], None) == entries[1]


@pytest.mark.parametrize("layout", ["messages", "texts"])
def test_correcting_datasets_of_trl_and_finevision(root, tmp_path, layout):
    texts = [{"user": "What?", "assistant": "A cat."}, {"user": "Where?", "assistant": "On a mat."}]
    chat = [{"role": role, "content": text[role]} for text in texts for role in ("user", "assistant")]
    turns = chat if layout == "messages" else texts
    pictures = [{"bytes": path.read_bytes(), "path": None} for path in sorted(root.glob("*.png"))]
    rows = [{"images": [picture], layout: turns} for picture in pictures]
    data = Dataset.from_list([*rows, {"images": [], layout: rows[0][layout]}])
    data = data.cast_column("images", List(Image()))
    data.to_parquet(tmp_path / "data.parquet")
    settings = {"model": ScriptedModel(), "processor": ScriptedProcessor(), "type": "conversation"}
    summary = correct_dataset(tmp_path / "data.parquet", tmp_path / "out", **settings)
    assert (summary.rows, summary.images, summary.bare) == (14, 6, 1)
    assert {row["draft"] for row in rows_of(tmp_path / "out")} == {"A cat.", "On a mat."}
    assert {row["type"] for row in rows_of(tmp_path / "out")} == {"conversation"}


def test_a_job_may_begin_with_what_has_no_picture(root, tmp_path):
    scripted = {"model": ScriptedModel(malformed=0), "processor": ScriptedProcessor()}
    chat = [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "A cat."}]
    picture = {"bytes": (root / "000000000001.png").read_bytes(), "path": None}
    data = Dataset.from_list(
        [*[{"images": [], "messages": chat}] * 420, *[{"images": [picture], "messages": chat}] * 9]
    )
    data.cast_column("images", List(Image())).to_parquet(tmp_path / "data.parquet")
    summary = correct_dataset(tmp_path / "data.parquet", tmp_path / "texts first", **scripted)
    assert (summary.rows, summary.bare, summary.images) == (429, 420, 9)
    names = [f"{'a' if index < 380 else 'z'}{index:03d}.png" for index in range(430)]
    for index in range(380, 430):
        Pictures.new("RGB", (2, 2), (index % 256, 0, 9)).save(root / names[index])
    given = {"format": "coco", "image_root": root, **job()}
    assert generate_dataset(coco(tmp_path, names), tmp_path / "missing first", **given).images == 50
    with pytest.raises(GenerationError, match=r"None of 380 images can be read: .*a000\.png.*and 377 more"):
        generate_dataset(coco(tmp_path, names[:380]), tmp_path / "out", **given)
    turns = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "A cat."}]
    entries = [{"id": 1, "conversations": turns}, {"id": 2, "image": "gone.png", "conversations": turns}]
    (tmp_path / "llava.json").write_text(json.dumps(entries))
    with pytest.raises(GenerationError, match=r"None of 1 images can be read: .*gone\.png"):
        correct_dataset(tmp_path / "llava.json", tmp_path / "out", image_root=root, **scripted)
    assert not (tmp_path / "out").exists()


def test_the_real_model_corrects_scores_and_writes_several_answers(parity_dir, model, processor, tmp_path):
    pictures = parity_dir / "images"
    real = {"model": model, "processor": processor, "limit": 3}
    (tmp_path / "words.json").write_text('{"What": 3, "Is": 1}')
    short = {"answers": 3, "first_words": tmp_path / "words.json", "settings": {"max_new_tokens": 30}, "retries": 0}
    generate_dataset(pictures, tmp_path / "short", types=["okvqa"], **short, **real)
    rows = rows_of(tmp_path / "short")
    for row in rows:
        assert row["question"].split()[0] in ("What", "Is") and row["answer"] == row["answers"][0]
        assert 1 <= len(row["answers"]) <= 3 and sorted(row["weights"], reverse=True) == row["weights"]
        assert all(0 < weight <= 100 for weight in row["weights"])
    aside = ledger.read_quarantine(tmp_path / "short")
    assert len(rows) + len(aside) == 3
    generate_dataset(pictures, tmp_path / "scored", types=["detail"], score=True, **real)
    scores = [row["scores"]["visual_dependency"] for row in rows_of(tmp_path / "scored")]
    assert all(isinstance(score, float) for score in scores) and max(map(abs, scores)) > 0.01
    entry = {
        "id": 1,
        "image": "img_0.png",
        "conversations": [{"from": "human", "value": "What is it?"}, {"from": "gpt", "value": "A dog."}],
    }
    (tmp_path / "llava.json").write_text(json.dumps([entry]))
    correct_dataset(tmp_path / "llava.json", tmp_path / "corrected", image_root=pictures, score=True, **real)
    (row,) = rows_of(tmp_path / "corrected")
    inputs = processor(
        images=[Pictures.open(pictures / "img_0.png").convert("RGB")], text=["What is it?"], return_tensors="pt"
    )
    output = model.generate(**inputs, processor=processor, return_dict_in_generate=True)
    assert row["answer"] == output.answers[0] and row["draft"] == "A dog."
    # As a loss: the answer's tokens alone, and the end of sequence that follows them.
    pair = processor(
        images=[Pictures.open(pictures / "img_0.png").convert("RGB")],
        **{"text": ["What is it?"], "target": ["A dog."], "return_tensors": "pt"},
    )
    labels = pair["labels"].masked_fill(pair["labels"] == processor.tokenizer.eos_token_id, -100)
    loss = model(**{name: value for name, value in pair.items() if name not in ("labels", "mode")}, labels=labels).loss
    assert row["scores"]["draft_logprob"] == pytest.approx(-loss.item(), abs=1e-4)
