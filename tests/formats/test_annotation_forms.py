"""Annotation files and datasets as tools write them: judged by their content, names decoded, odd boxes left out."""

import gzip
import json
import math
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict, Features, Image, List, Value
from PIL import Image as Pictures
from scripted import ScriptedModel, ScriptedProcessor

from vigc.cli.summary import print_summary
from vigc.errors import (
    AnnotationError,
    GenerationError,
    ImageError,
    ImagePathError,
    LayoutError,
    MixError,
    cut,
    reason_of,
)
from vigc.exports import export_dataset
from vigc.exports.mix import MixRequest, mix
from vigc.exports.mix import Source as MixSource
from vigc.formats.annotations import read_annotations
from vigc.formats.chats import training_chats
from vigc.formats.file_forms import Form, form_of
from vigc.formats.hf_datasets import load_rows
from vigc.formats.json_rows import read_rows, stream_entries
from vigc.generation import correct_dataset, generate_dataset
from vigc.generation.correct import CorrectJob
from vigc.generation.filters.hashing import perceptual_hash
from vigc.generation.filters.ids import ExcludedIds, keys_of
from vigc.generation.filters.look_alikes import MAX_DISTANCE, ExcludedPictures
from vigc.generation.generate import open_collection
from vigc.generation.sources.base import Source
from vigc.jobs import ledger
from vigc.processing import open_image
from vigc.processing.image_names import MAX_NAME, spellings
from vigc.trainer.mixture import open_row_image, readable
from vigc.trainer.recipe import DataEntry, read_recipe
from vigc.trainer.train import _load

TURNS = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A cat."}]
CHAT = [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "A cat."}]
DATA_URI = "data:image/png;base64," + "iVBORw0KGgo" * 90_000
LONG = "x" * 1_000_000 + ".png"


def picture(path, colour="red", size=(12, 10)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Pictures.new("RGB", size, colour).save(path, path.suffix.lstrip(".").upper().replace("JPG", "JPEG"))
    return path.read_bytes()


def entries_of(*names):
    return [{"id": index, "image": name, "conversations": TURNS} for index, name in enumerate(names)]


def coco_of(*names, boxes=(), **more):
    images = [{"id": index, "file_name": name} for index, name in enumerate(names)]
    annotations = [{"id": place, "image_id": 0, "category_id": 1, "bbox": box} for place, box in enumerate(boxes)]
    categories = [{"id": 1, "name": "cat"}]
    return {"images": images, "annotations": annotations, "categories": categories, **more}


def scripted(**given):
    return {"model": ScriptedModel(malformed=0), "processor": ScriptedProcessor(), **given}


def rows_of(folder):
    return [row for file in sorted(folder.glob("*/train-*.parquet")) for row in pq.read_table(file).to_pylist()]


def zipped(path, text):
    path.write_bytes(gzip.compress(text.encode()))
    return path


# Names


WRITTEN = [
    ("sub\\a.png", "sub/a.png"),
    ("sub%2Fa%20b.png", "sub/a b.png"),
    ("a%20b.png", "a b.png"),
    ("a.png?width=640&x=1.5", "a.png"),
    ("sub\\a%20b.png?x=1", "sub/a b.png"),
    ("%C3%BC.png", "ü.png"),
    ("100%25.png", "100%25.png"),
    ("why?.png", "why?.png"),
    ("back\\slash.png", "back\\slash.png"),
]


@pytest.mark.parametrize(("written", "on_disk"), WRITTEN)
def test_names_are_decoded_where_only_then_a_file_is_there(written, on_disk, tmp_path):
    root = tmp_path / "root"
    data = picture(root / on_disk)
    for form, content in (("llava", entries_of(written)), ("coco", coco_of(written))):
        path = tmp_path / f"{form}.json"
        path.write_text(json.dumps(content))
        collection = open_collection(path, form, root)
        (source,) = collection
        assert collection.open(source).original == data and source.name == written
    path = tmp_path / "detail.json"
    path.write_text(json.dumps(entries_of(written)))
    (source,) = CorrectJob(dataset=path, image_root=root, model="m").collection()
    assert CorrectJob(dataset=path, image_root=root, model="m").collection().open(source).original == data
    (row,) = read_annotations(path, root, layout="llava").rows
    assert row["image"].size == (12, 10)
    pq.write_table(pa.table({"image": [written]}), root / "rows.parquet")
    collection = open_collection(root / "rows.parquet", "dataset")
    assert collection.open(next(iter(collection))).original == data


def test_a_name_is_taken_as_it_is_written_first(tmp_path):
    whole, decoded = picture(tmp_path / "a%20b.png", "red"), picture(tmp_path / "a b.png", "blue")
    assert whole != decoded
    (tmp_path / "x.json").write_text(json.dumps(entries_of("a%20b.png", "a b.png")))
    collection = open_collection(tmp_path / "x.json", "llava")
    assert [collection.open(source).original for source in collection] == [whole, decoded]


@pytest.mark.parametrize(
    "name",
    [
        "%2e%2e/secret.png",
        "..%2Fsecret.png",
        "..%5Csecret.png",
        "sub/%2e%2e/%2e%2e/secret.png",
        "%2e%2e%2fsecret.png?x=1",
        "link%2Epng",
        "/%2e%2e/secret.png",
    ],
)
def test_decoded_names_stay_under_the_root(name, tmp_path):
    root = tmp_path / "root"
    picture(tmp_path / "secret.png")
    (root / "sub").mkdir(parents=True)
    (root / "link.png").symlink_to(tmp_path / "secret.png")
    (tmp_path / "detail.json").write_text(json.dumps(entries_of(name)))
    collection = open_collection(tmp_path / "detail.json", "llava", root)
    with pytest.raises(ImagePathError, match="out of the folder"):
        collection.open(next(iter(collection)))
    if name != "link%2Epng":  # links under their own folder are followed there
        with pytest.raises(AnnotationError, match="is not under"):
            read_annotations(tmp_path / "detail.json", root, layout="llava")
    rows = Dataset.from_dict({"image": [name], "messages": [CHAT]})
    with pytest.raises(ValueError, match="is not under"):
        training_chats(rows, type="detail", name="x", root=root)


def test_ids_and_exclusion_know_every_spelling(tmp_path):
    names = ["train2017\\000000000042.jpg", "a%20b.jpg", "c.jpg?width=1.5"]
    (tmp_path / "x.json").write_text(json.dumps(coco_of(*names)))
    sources = sorted(
        open_collection(tmp_path / "x.json", "coco", tmp_path), key=lambda source: names.index(source.name)
    )
    assert [source.image_id for source in sources] == ["000000000042", "a%20b", "c"]
    for listed in (["000000000042.jpg", "a b.jpg", "c.jpg"], names):
        (tmp_path / "ids.txt").write_text("\n".join(listed))
        excluded = ExcludedIds(tmp_path / "ids.txt")
        assert all(excluded.exclusion(keys_of(source)) for source in sources)
    (tmp_path / "ids.txt").write_text("a%20b.jpg\n")
    assert ExcludedIds(tmp_path / "ids.txt").exclusion(keys_of(Source("a b.jpg", "a b")))
    assert spellings("plain name#1.jpg") == ("plain name#1.jpg",)


# LVIS


@pytest.mark.parametrize("place", ["{}", "train2017/{}", "val2017/{}"])
def test_lvis_names_pictures_by_their_address(place, tmp_path):
    root, file = tmp_path / "coco", "000000391895.jpg"
    data = picture(root / place.format(file))
    images = [
        {"id": number, "coco_url": f"http://images.cocodataset.org/train2017/{number:012d}.jpg"}
        for number in (391895, 7)
    ]
    box = {"id": 1, "image_id": 391895, "category_id": 1, "bbox": [1, 2, 3, 4]}
    path = zipped(tmp_path / "lvis_v1_train.json.gz", json.dumps({**coco_of(), "images": images, "annotations": [box]}))
    collection = open_collection(path, "coco", root)
    absent, found = sorted(collection, key=lambda source: source.image_id)
    assert collection.name == "lvis_v1_train" and found.image_id == "000000391895"
    assert collection.open(found).original == data and found.objects[0]["category"] == "cat"
    with pytest.raises(ImageError, match=r"is a URL: train2017/000000000007\.jpg, 000000000007\.jpg is not in"):
        collection.open(absent)
    (tmp_path / "ids.json").write_text(json.dumps({"images": images[:1]}))
    assert ExcludedIds(tmp_path / "ids.json").exclusion(keys_of(found))
    assert not ExcludedIds(tmp_path / "ids.json").exclusion(keys_of(absent))
    # Only a host that was named is asked, and only for what is not here.
    asked = open_collection(path, "coco", root, urls=["images.cocodataset.org"])
    assert asked.locate(found) == str(root / place.format(file)) and asked.locate(absent) is None
    shutil.rmtree(root)
    root.mkdir()
    assert not collection.is_there(found), "a share that is gone is no missing file"


# Forms


def text_of(rows, form):
    if form == "list":
        return json.dumps(rows)
    if form == "pretty":
        return json.dumps(rows, indent=2)
    return "".join(f"{json.dumps(row)}\n" for row in rows)


@pytest.mark.parametrize("name", ["detail.json", "detail.jsonl", "detail.txt", "detail.json.gz", "detail.jsonl.gz"])
@pytest.mark.parametrize("form", ["list", "pretty", "lines", "line"])
def test_the_content_decides_what_a_file_is(name, form, tmp_path):
    root = tmp_path / "root"
    names = ["a.png"] if form == "line" else ["a.png", "b.png"]
    for one in names:
        picture(root / one)
    rows, path = entries_of(*names), tmp_path / name
    text = text_of(rows, form)
    zipped(path, text) if name.endswith(".gz") else path.write_text(f"\ufeff\n{text}", encoding="utf-8")
    assert [row for _, row in read_rows(path)] == rows
    if form != "line" or "jsonl" in name:
        assert list(stream_entries(path)) == rows
        assert [row["image"].size for row in read_annotations(path, root, layout="llava").rows] == [(12, 10)] * len(
            names
        )
        assert len(MixSource((str(path),), str(root)).read()) == len(names) if name != "detail.txt" else True
    assert [source.name for source in open_collection(path, "llava", root)] == names
    job = CorrectJob(dataset=path, image_root=root, model="m")
    assert not job.in_tables and [source.name for source in job.collection()] == names
    assert ExcludedIds(path).keys >= set(names)
    assert open_collection(path, "llava", root).name == "detail"


def test_forms_of_files(tmp_path):
    def form(name, content):
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return form_of(tmp_path / name)

    table = pa.table({"a": [1]})
    pq.write_table(table, tmp_path / "p")
    with pa.ipc.new_stream(str(tmp_path / "s"), table.schema) as file:
        file.write_table(table)
    with pa.ipc.new_file(str(tmp_path / "f"), table.schema) as file:
        file.write_table(table)
    assert [form_of(tmp_path / name) for name in "psf"] == [Form.PARQUET, Form.ARROW, Form.ARROW]
    assert form("x.json", '{"images": []}') is Form.OBJECT and form("x.json", '{\n"a": 1}') is Form.OBJECT
    assert form("x.json", '{"a": 1}\n\n{"a": 2}') is Form.LINES and form("x.jsonl", '{"a": \n{}') is Form.LINES
    assert form("x.json", '{"a": 1}\n[]') is Form.OBJECT
    assert form("x.jsonl", "[1]\n[2]") is Form.LINES and form("x.jsonl", "[1,\n2]") is Form.LIST
    assert form("x.txt", "[1].jpg\n") is Form.OTHER and form("x.txt", "[") is Form.LIST and form("x", "") is Form.OTHER
    assert form("x.json", "000000000042\n") is Form.OTHER


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("ids.json", "000000000042\nb.png\n"),
        ("ids.txt.gz", "000000000042\nb.png\n"),
        ("ids.txt", '"000000000042"\n"b.png"\n'),
        ("ids.txt", '["000000000042", "b.png"]'),
        ("ids.csv", '[\n "000000000042",\n "b.png"\n]'),
        ("ids.jsonl", '[{"image": "COCO_val2014_000000000042.jpg"}, {"file_name": "b.png"}]'),
        ("ids.json", '{"image_id": 42}\n{"image": "b.png"}\n'),
        ("ids.json", '{"image": "b.png", "conversations": [], "image_id": 42}'),
        (
            "ids.txt",
            '{"images": [{"id": 42, "coco_url": "http://x/train2017/000000000042.jpg"}, {"file_name": "b.png"}]}',
        ),
    ],
)
def test_lists_to_leave_out_are_read_in_any_form(name, text, tmp_path):
    zipped(tmp_path / name, text) if name.endswith(".gz") else (tmp_path / name).write_text(text)
    excluded = ExcludedIds(tmp_path / name)
    assert excluded.exclusion(keys_of(Source("train2017/000000000042.jpg", "000000000042")))
    assert excluded.exclusion(keys_of(Source("b.png", "b"))) and not excluded.exclusion(keys_of(Source("c.png", "c")))


def test_damaged_gzip_costs_what_stands_behind_the_damage(tmp_path):
    lines = "".join(f"{json.dumps({'image': f'{index:0>9}{index * 7919 % 104729}.png'})}\n" for index in range(15_000))
    for text, name in ((lines, "x.jsonl.gz"), (f"[{lines.strip().replace(chr(10), ',')}]", "x.json.gz")):
        whole = gzip.compress(text.encode())
        (tmp_path / name).write_bytes(whole[: len(whole) // 2])
        rows = [row for _, row in read_rows(tmp_path / name)]
        assert len(rows) > 4_000 and all(isinstance(row, dict) for row in rows[:-1])
        assert "damaged gzip file" in str(rows[-1]) or "cut off" in str(rows[-1])
        with pytest.raises(AnnotationError, match=r"damaged gzip|cut off"):
            list(stream_entries(tmp_path / name))
        with pytest.raises(GenerationError, match=r"damaged gzip|cut off"):
            ExcludedIds(tmp_path / name)
    (tmp_path / "x.json.gz").write_bytes(b"\x1f\x8bno gzip at all")
    with pytest.raises(AnnotationError, match="damaged gzip file"):
        list(read_rows(tmp_path / "x.json.gz"))


# Boxes

BAD = [
    [math.nan, 0, 5, 5],
    [1, 2, 0, 5],
    [1, 2, 5, -1],
    [None, None, None, None],
    [0, 0, math.inf, 2],
    [0, 0, 1e39, 2],
    [0, 0, 1e-60, 2],
    [],
]


@pytest.mark.parametrize("many", [False, True])
def test_boxes_that_cannot_be_used_are_left_out_and_counted(many, tmp_path, capsys, monkeypatch):
    if many:  # read in blocks, too
        from vigc.formats import json_stream

        monkeypatch.setattr(json_stream, "_BLOCK", 300)
        monkeypatch.setattr(json_stream, "_ONE_BY_ONE", 3)
    picture(tmp_path / "a.png")
    good = [[-2, 1.5, 3, 4], [5, 6, 7, 8]]
    extra = [[1, 1, 0, 1]] * (40 * many)
    (tmp_path / "x.json").write_text(json.dumps(coco_of("a.png", boxes=[good[0], *extra, *BAD, good[1]])))
    summary = generate_dataset(tmp_path / "x.json", tmp_path / "out", format="coco", types=["detail"], **scripted())
    (row,) = rows_of(tmp_path / "out")
    assert [item["bbox"] for item in row["objects"]] == good
    print_summary(summary)
    count = len(BAD) + len(extra)
    assert (
        f"{count} boxes skipped: a number is missing or not finite, or a side is not above 0" in capsys.readouterr().out
    )
    (tmp_path / "x.json").write_text(json.dumps(coco_of("a.png", boxes=BAD)))
    (source,) = open_collection(tmp_path / "x.json", "coco")
    assert source.objects is None, "the picture stays"


@pytest.mark.parametrize("regular", [True, False])
def test_boxes_of_datasets_are_left_out_and_counted(regular, tmp_path):
    bad = [[math.nan, 0.0, 5.0, 5.0], [1.0, 2.0, 0.0, 5.0]] + ([] if regular else [[None] * 4, []])
    objects = [
        [{"category": "cat", "bbox": box} for box in ([0.0, 0.0, 1.0, 1.0], *bad)],
        [{"category": "dog", "bbox": [2.0, 2.0, 3.0, 3.0]}],
        [{"category": "dog", "bbox": bad[0]}],
    ]
    data = picture(tmp_path / "a.png")
    pq.write_table(pa.table({"image": [data] * 3, "objects": objects}), tmp_path / "x.parquet")
    collection = open_collection(tmp_path / "x.parquet", "dataset")
    for _ in range(2):
        found = [source.objects for source in collection]
        assert found[0] == [{"category": "cat", "bbox": [0.0, 0.0, 1.0, 1.0]}] and found[1][0]["category"] == "dog"
        assert found[2] is None and list(collection.unlisted.values()) == [len(bad) + 1]


# Datasets


def training(data, count=2):
    row = {"image": {"bytes": data, "path": None}, "image_id": "i", "type": "detail", "question": "What?"}
    features = Features(
        {
            "image": Image(),
            **{name: Value("string") for name in ("image_id", "type", "question", "conversation_id")},
            "answers": List(Value("string")),
        }
    )
    rows = [{**row, "answers": ["A cat."], "conversation_id": f"c{number}"} for number in range(count)]
    return Dataset.from_list(rows, features=features)


@pytest.mark.parametrize("form", ["one", "dict"])
def test_folders_of_save_to_disk_are_read_everywhere(form, tmp_path):
    data = picture(tmp_path / "a.png")
    rows = training(data).add_column("messages", [CHAT] * 2).with_format("numpy")
    path = tmp_path / "saved"
    rows.save_to_disk(path) if form == "one" else DatasetDict({"train": rows, "odd-name": rows}).save_to_disk(path)
    collection = open_collection(path, "dataset")
    assert [collection.open(source).original for source in collection] == [data] * 2
    job = CorrectJob(dataset=path, model="m")
    assert job.in_tables and [source.pairs[0]["answer"] for source in job.collection()] == ["A cat."] * 2
    assert MixSource((str(path),)).read().num_rows == 2
    loaded = readable(_load(DataEntry(dataset=str(path))), 0)
    assert open_row_image(loaded[0]).size == (12, 10)
    if form == "dict":
        assert len(load_rows(str(path), split="odd-name")) == 2
    with pytest.raises(GenerationError, match="has no split 'test'"):
        open_collection(path, "dataset", split="test")
    origin = collection.facts["origin"]
    rows.select([0]).save_to_disk(tmp_path / "other")
    assert open_collection(tmp_path / "other", "dataset").facts["origin"] != origin


@pytest.mark.parametrize("name", ["../secret.arrow", "/etc/passwd", "link.arrow", "", "gone.arrow", 3])
def test_folders_of_save_to_disk_name_no_other_files(name, tmp_path):
    training(picture(tmp_path / "a.png")).save_to_disk(tmp_path / "saved")
    state = json.loads((tmp_path / "saved" / "state.json").read_text())
    shutil.copy(tmp_path / "saved" / state["_data_files"][0]["filename"], tmp_path / "secret.arrow")
    (tmp_path / "saved" / "link.arrow").symlink_to(tmp_path / "secret.arrow")
    (tmp_path / "saved" / "state.json").write_text(json.dumps({**state, "_data_files": [{"filename": name}]}))
    for read in (lambda: open_collection(tmp_path / "saved", "dataset"), lambda: load_rows(str(tmp_path / "saved"))):
        with pytest.raises(ValueError, match=r"only files beside it|link out of its folder|gone\.arrow.* is missing"):
            read()
    with pytest.raises(MixError, match=r"cannot be read as a dataset"):
        MixSource((str(tmp_path / "saved"),)).read()


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.list_(pa.binary())])
def test_binary_columns_are_pictures(kind, tmp_path):
    data = picture(tmp_path / "a.png")
    listed = pa.types.is_list(kind)
    table = pa.table({"image": pa.array([[data] if listed else data, None], kind), "question": ["What?"] * 2})
    pq.write_table(table, tmp_path / "x.parquet")
    collection = open_collection(tmp_path / "x.parquet", "dataset")
    first, empty = collection
    assert collection.open(first).original == data
    with pytest.raises(ImageError, match="has no image"):
        collection.open(empty)
    if not listed:
        table = table.slice(0, 1).append_column("type", [["detail"]]).append_column("answer", [["A cat."]])
        (tmp_path / "rows").mkdir()
        pq.write_table(table, tmp_path / "rows" / "train.parquet")
        assert MixSource((str(tmp_path / "rows"),)).read()[0]["image"]["bytes"] == data
        assert open_row_image(readable(_load(DataEntry(dataset=str(tmp_path / "rows"))), 0)[0]).size == (12, 10)


def onevision(tmp_path, **columns):
    """A dataset in LLaVA-OneVision's columns: with a picture, without one, and with two turns."""
    data = picture(tmp_path / "a.png")
    more = [*TURNS, {"from": "human", "value": "Why?"}, {"from": "gpt", "value": "Because."}]
    rows = [
        {"id": f"{index}", "image": image, "conversations": turns, "data_source": "theirs"}
        for index, (image, turns) in enumerate([(data, TURNS), (None, TURNS), (data, more)])
    ]
    feature = {"id": Value("string"), "image": Image(), "data_source": Value("string")}
    feature["conversations"] = List({"from": Value("string"), "value": Value("string")})
    rows = [{**row, "image": row["image"] and {"bytes": row["image"], "path": None}} for row in rows]
    return Dataset.from_list(rows, features=Features(feature))


def test_conversations_in_a_dataset_are_corrected_and_come_back(tmp_path):
    onevision(tmp_path).to_parquet(tmp_path / "rows.parquet")
    summary = correct_dataset(tmp_path / "rows.parquet", tmp_path / "out", **scripted())
    assert (summary.rows, summary.bare, summary.set_aside) == (4, 1, 0)
    rows = rows_of(tmp_path / "out")
    assert [row["question"] for row in rows] == ["What?", "What?", "What?", "Why?"]
    assert {row["source"] for row in rows} == {"theirs"} and rows[0]["draft"] == "A cat."
    export_dataset(tmp_path / "out", tmp_path / "back", format="llava")
    back = json.loads((tmp_path / "back" / "conversations.json").read_text())
    assert [len(entry["conversations"]) for entry in back] == [2, 2, 4] and back[0]["data_source"] == "theirs"
    assert back[0]["conversations"][0]["value"] == "<image>\nWhat?" and back[2]["id"] == "2"
    assert (tmp_path / "back" / "images" / back[0]["image"]).read_bytes() == (tmp_path / "a.png").read_bytes()
    assert "image" not in back[1]


def test_conversations_in_a_dataset_are_mixed_and_trained_on(tmp_path, caplog):
    onevision(tmp_path).to_parquet(tmp_path / "rows.parquet")
    path = str(tmp_path / "rows.parquet")
    mixture = mix(MixRequest(MixSource((path,), type="detail")))
    assert mixture.manifest["result"]["instances"] == 2 and len(mixture.rows) == 3
    assert "skipped 1 conversations" in caplog.text
    rows = readable(_load(DataEntry(dataset=path, type="conversation")), 0)
    assert [(row["question"], row["answers"], row["turn"]) for row in rows] == [
        ("What?", ["A cat."], 0),
        ("What?", ["A cat."], 0),
        ("Why?", ["Because."], 1),
    ]
    assert rows[0]["image_id"] == "0" and rows[0]["source"] == "theirs" and open_row_image(rows[2]).size == (12, 10)
    with pytest.raises(MixError, match="row 0 is not a conversation to train on: it has no task type"):
        MixSource((path,)).read()


@pytest.mark.parametrize(
    "turns",
    [
        {"from": ["human", "gpt"], "value": ["What?", "A cat."]},
        json.dumps(TURNS),
        CHAT,
    ],
)
def test_other_columns_of_conversations(turns, tmp_path):
    data = picture(tmp_path / "a.png")
    pq.write_table(pa.table({"image": [data], "conversations": [turns]}), tmp_path / "x.parquet")
    (source,) = CorrectJob(dataset=tmp_path / "x.parquet", model="m").collection()
    assert (source.pairs[0]["question"], source.pairs[0]["answer"]) == ("What?", "A cat.")


# A file alone, and in a folder

ROWS = {
    "llava.json": json.dumps(entries_of("a.png", "a.png")),
    "llava.jsonl": text_of(entries_of("a.png", "a.png"), "lines"),
    "trl.jsonl": text_of([{"images": ["a.png"], "messages": CHAT}] * 2, "lines"),
    "trl.json": json.dumps([{"image": "a.png", "messages": CHAT}] * 2),
    "fine.json": json.dumps([{"image": "a.png", "texts": [{"user": "What?", "assistant": "A cat."}]}] * 2),
}


@pytest.mark.parametrize("name", [*ROWS, "rows.csv", "rows.parquet", "rows", "rows.arrow", "rows.json.gz"])
def test_a_file_is_read_alone_as_in_a_folder(name, tmp_path):
    folder = tmp_path / "data"
    data = picture(folder / "a.png")
    if name in ROWS:
        (folder / name).write_text(ROWS[name])
    elif name == "rows.csv":
        (folder / name).write_text("image,question,answer,type\na.png,What?,A cat.,detail\na.png,Why?,So.,detail\n")
    elif name == "rows.json.gz":
        zipped(folder / name, json.dumps([{"image": "a.png"}] * 2))
    else:
        rows = Dataset.from_dict({"image": ["a.png"] * 2, "messages": [CHAT] * 2})
        if name == "rows.arrow":
            with pa.ipc.new_stream(str(folder / name), rows.data.table.schema) as file:
                file.write_table(rows.data.table)
        else:
            rows.to_parquet(folder / name)
    (folder / "a.png").rename(tmp_path / "a.png")  # or else it is a folder of pictures to `datasets`
    places = [folder / name] if name == "rows" else [folder / name, folder]
    for place in places:
        collection = open_collection(place, "dataset")
        (tmp_path / "a.png").rename(folder / "a.png")
        assert [collection.open(source).original for source in collection] == [data] * 2
        if name not in ("rows.csv", "rows.json.gz"):
            found = [source.pairs[0]["answer"] for source in CorrectJob(dataset=place, model="m").collection()]
            assert found == ["A cat."] * 2
        if name == "rows.csv":
            assert len(MixSource((str(place),)).read()) == 2
        (folder / "a.png").rename(tmp_path / "a.png")


# Messages


def test_pictures_in_the_place_of_names_are_printed_in_part(tmp_path, capsys):
    root = tmp_path / "root"
    good = picture(root / "a.png")
    for form, content in (
        ("llava", entries_of("a.png", DATA_URI, DATA_URI, LONG)),
        ("coco", coco_of("a.png", DATA_URI, DATA_URI, LONG, licenses=[{"id": 1, "name": LONG}])),
    ):
        for image in content["images"] if form == "coco" else ():
            image["license"] = 1
        path = tmp_path / f"{form}.json"
        path.write_text(json.dumps(content))
        summary = generate_dataset(
            path, tmp_path / form, format=form, image_root=root, types=["detail"], dedup=True, **scripted()
        )
        print_summary(summary)
        assert (summary.images, summary.set_aside) == (1, 3)
    summary = correct_dataset(tmp_path / "llava.json", tmp_path / "corrected", image_root=root, **scripted())
    print_summary(summary)
    assert (summary.images, summary.set_aside) == (1, 3)
    table = {"image": [DATA_URI, LONG], "image_id": [LONG, "b"], "license": [LONG] * 2}
    features = {"image": good, "image_id": LONG, "license": LONG}
    rows = [*[dict(zip(table, values, strict=True)) for values in zip(*table.values(), strict=True)]]
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "rows.jsonl").write_text(text_of([{**rows[0], "image": "a.png"}, *rows], "lines"))
    shutil.copy(root / "a.png", tmp_path / "rows")
    path = tmp_path / "rows" / "rows.jsonl"
    summary = generate_dataset(path, tmp_path / "dataset", format="dataset", types=["detail"], **scripted())
    print_summary(summary)
    assert (summary.images, summary.set_aside) == (1, 2) and features
    said = capsys.readouterr().out
    assert len(said) < 15_000 and "(a data URI)" in said and f"{len(LONG):,} characters" in said
    for folder in ("llava", "coco", "corrected", "dataset"):
        out = tmp_path / folder
        records = ledger.read_quarantine(out)
        assert records and all(len(json.dumps(record)) < 2_500 for record in records)
        assert len({record["path"] for record in records}) == len(records), "each has a place of its own"
        assert (out / "README.md").stat().st_size < 20_000 and (out / ledger.INPUTS).stat().st_size < 10_000
        assert LONG[:5_000] not in (out / ledger.REPORT).read_text(encoding="utf-8")
        assert all(len(row["license"]) <= 1_000 and len(row["image_id"]) <= MAX_NAME for row in rows_of(out))


def test_no_message_holds_a_whole_value(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    sayings = []
    for name in (DATA_URI, LONG):
        for content in (entries_of(name), [{"id": name, "image": {"x": name}}], [{name: 1}], [name]):
            (tmp_path / "detail.json").write_text(json.dumps(content))
            for read in (
                lambda: read_annotations(tmp_path / "detail.json", root, layout="llava"),
                lambda: MixSource((str(tmp_path / "detail.json"),), str(root)).read(),
                lambda: correct_dataset(tmp_path / "detail.json", tmp_path / "out", image_root=root, **scripted()),
            ):
                with pytest.raises(ValueError) as caught:
                    read()
                sayings.append(str(caught.value))
        for content in (
            coco_of(name),
            {name: []},
            {"images": [{name: 1}]},
            {"images": [{"id": name, "file_name": "a"}]},
        ):
            (tmp_path / "x.json").write_text(json.dumps(content))
            with pytest.raises(ValueError) as caught:
                generate_dataset(tmp_path / "x.json", tmp_path / "out", format="coco", image_root=root, **scripted())
            sayings.append(str(caught.value))
        rows = Dataset.from_dict({"image": ["a.png"], "messages": [[{"role": "user", name: "b"}]]})
        with pytest.raises(ValueError) as caught:
            training_chats(rows, type="detail", name="x")
        sayings.append(str(caught.value))
        sayings += [str(ImageError(name, name)), str(AnnotationError(Path("x"), name))]
    assert max(map(len, sayings)) < 3_000, max(sayings, key=len)[:200]
    assert cut("a" * 300, 100).endswith("... (300 characters)") and len(cut("a" * 300, 100)) == 100


def test_no_reason_is_a_bare_key_or_a_number(tmp_path):
    assert reason_of(KeyError("role")) == "'role' is missing"
    assert reason_of(FileNotFoundError(2, "No such file or directory", "x")) == "No such file or directory: 'x'"
    data = picture(tmp_path / "a.png")
    chats = [
        [{"content": "What?"}, {"role": "assistant", "content": "A cat."}],
        [{"role": "user", "content": "What?"}, {"role": "assistant"}],
        ["What?"],
    ]
    for number, messages in enumerate(chats):
        (tmp_path / "x.json").write_text(json.dumps([{"image": "a.png", "messages": messages}]))
        (source,) = CorrectJob(dataset=tmp_path / "x.json", model="m").collection()
        assert (
            source.refused
            == (
                "is no conversation: message 0 has no 'role', only ['content']",
                "is no conversation: message 1 has no 'content', only ['role']",
                "is no conversation: message 0 is 'What?', but an object with 'role' and 'content' is expected",
            )[number]
        )
    pq.write_table(pa.table({"image": [data], "texts": [[{"user": "What?"}]]}), tmp_path / "x.parquet")
    (source,) = CorrectJob(dataset=tmp_path / "x.parquet", model="m").collection()
    assert source.refused == "is no conversation: pair 0 has the text None, which is empty or not text"
    gone = tmp_path / "gone"
    for read in (
        lambda: read_recipe(f"{gone}.yaml"),
        lambda: read_annotations(f"{gone}.json", tmp_path, layout="llava", type="detail"),
        lambda: ExcludedIds(gone),
        lambda: MixSource((f"{gone}.json",), str(tmp_path), type="detail").read(),
        lambda: list(open_collection(Path(f"{gone}.json"), "llava", tmp_path)),
        lambda: list(CorrectJob(dataset=f"{gone}.jsonl", model="m").collection()),
    ):
        with pytest.raises(ValueError, match="No such file or directory") as caught:
            read()
        assert "Errno" not in str(caught.value) and "gone" in str(caught.value)
    with pytest.raises(LayoutError, match="'conversations' is None"):
        from vigc.formats.chats import rows_of_chat

        rows_of_chat({"image": "a.png"}, conversation_id="0")


# What looks like a picture to leave out


def test_pictures_at_the_distance_are_left_out_and_those_beyond_are_not(tmp_path):
    folder = tmp_path / "theirs"
    folder.mkdir()
    Pictures.effect_noise((64, 64), 80).convert("RGB").save(folder / "a.png")
    look = perceptual_hash(open_image(folder / "a.png"))
    excluded = ExcludedPictures(folder, tmp_path / "hashes")
    assert excluded.exclusion(look).detail == "looks like a.png in theirs" and excluded.exclusion(None) is None
    spread = [index * 63 // MAX_DISTANCE for index in range(MAX_DISTANCE + 1)]  # one in each piece of the hash
    for bits in (range(MAX_DISTANCE), range(64 - MAX_DISTANCE, 64), spread[:-1], spread[1:]):
        flipped = sum(1 << bit for bit in bits)
        assert flipped.bit_count() == MAX_DISTANCE and excluded.exclusion(look ^ flipped)
    for bits in (range(MAX_DISTANCE + 1), spread):
        assert excluded.exclusion(look ^ sum(1 << bit for bit in bits)) is None
