"""What lists and datasets of strangers may hold: refused or set aside by name, while all that is sound becomes rows."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, Features, Image, List, Value
from job_codes import exit_code_of
from PIL import Image as Pictures
from scripted import ScriptedModel, ScriptedProcessor

from vigc.errors import GenerationError
from vigc.generation import GenerateJob, correct_dataset, generate_dataset
from vigc.generation.filters.ids import ExcludedIds
from vigc.generation.sources import dataset as tables
from vigc.jobs import ledger

CHAT = [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "A cat."}]


def scripted(**given):
    return {"model": ScriptedModel(malformed=0), "processor": ScriptedProcessor(), **given}


def generate(images, output, **given):
    return generate_dataset(images, output, types=["detail"], **scripted(**given))


def picture(path, seed):
    """Noise, so that what is damaged in its file is its pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 255, (40, 40, 3), dtype=np.uint8)
    Pictures.fromarray(noise).save(path)
    return path.read_bytes()


def rows_of(folder):
    return [row for file in sorted(folder.glob("*/train-*.parquet")) for row in pq.read_table(file).to_pylist()]


def set_aside(folder):
    return {record["path"]: record["reason"] for record in ledger.read_quarantine(folder)}


@pytest.fixture
def joined(tmp_path):
    """Two LLaVA files in one, as `cat` joins them, and their four pictures."""
    entries = []
    for index in range(4):
        picture(tmp_path / "root" / f"{index}.png", index)
        turns = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "A cat."}]
        entries.append({"id": index, "image": f"{index}.png", "conversations": turns})
    (tmp_path / "joined.json").write_text(f"{json.dumps(entries[:2])}\n{json.dumps(entries[2:])}")
    return tmp_path / "joined.json"


def test_a_second_list_behind_the_first_is_not_lost(joined, tmp_path):
    root, said = tmp_path / "root", r"joined\.json, line 2: has '\[' after its end: join lists into one"
    with pytest.raises(GenerationError, match=said):
        correct_dataset(joined, tmp_path / "out", image_root=root, **scripted())
    with pytest.raises(GenerationError, match=said):
        generate(joined, tmp_path / "out", format="llava", image_root=root)
    with pytest.raises(GenerationError, match=said):
        generate(root, tmp_path / "out", exclude_ids=[joined])
    images = json.dumps({"images": [{"id": 1, "file_name": "1.png"}]})
    joined.write_text(f"{images}\n{images}")
    with pytest.raises(GenerationError, match=r"joined\.json, line 2: has '\{' after its end"):
        generate(joined, tmp_path / "out", format="coco", image_root=root)
    other = json.dumps({"images": [{"id": 2, "file_name": "2.png"}]})
    joined.write_text(f"{images}\n{other}")  # which is JSON Lines, too
    excluded = ExcludedIds(joined)
    assert all(excluded.exclusion([name]) for name in ("1.png", "2.png")) and not excluded.exclusion(["3.png"])
    assert not (tmp_path / "out").exists()


@pytest.fixture
def damaged(tmp_path):
    """Twelve rows in three groups; returns what damages a column of the middle one."""
    feature = Features(
        {
            "image": Image(),
            "image_id": Value("string"),
            "messages": List({"role": Value("string"), "content": Value("string")}),
        }
    )
    pictures = [picture(tmp_path / "p" / f"{index}.png", index) for index in range(12)]
    rows = [
        {"image": {"bytes": data, "path": None}, "image_id": f"id{i}", "messages": CHAT}
        for i, data in enumerate(pictures)
    ]
    path = tmp_path / "data.parquet"
    Dataset.from_list(rows, features=feature).to_parquet(path, batch_size=4)

    def damage(column):
        group = pq.read_metadata(path).row_group(1)
        (chunk,) = (group.column(n) for n in range(group.num_columns) if group.column(n).path_in_schema == column)
        start = chunk.dictionary_page_offset or chunk.data_page_offset
        data = bytearray(path.read_bytes())
        data[start : start + 40] = b"\xff" * 40
        path.write_bytes(data)
        return path

    return damage


def test_damaged_rows_of_parquet_are_set_aside(damaged, tmp_path):
    path = damaged("image.bytes")
    job = GenerateJob(images=path, format="dataset", types=["detail"], shard_size=3, **scripted())
    assert exit_code_of(lambda: job, tmp_path / "out") == 3
    assert [row["image_id"] for row in rows_of(tmp_path / "out")] == [f"id{n}" for n in (*range(4), *range(8, 12))]
    aside = set_aside(tmp_path / "out")
    assert sorted(aside) == [f"row {number}" for number in range(4, 8)]
    assert all(reason.startswith("lies in a damaged part of data.parquet (") for reason in aside.values())


@pytest.mark.parametrize("column", ["image_id", "messages.list.element.content"])
def test_rows_whose_texts_are_damaged_are_set_aside(damaged, tmp_path, column):
    path = damaged(column)
    if column == "image_id":
        summary = generate(path, tmp_path / "out", format="dataset")
    else:
        summary = correct_dataset(path, tmp_path / "out", **scripted())
    assert (summary.rows, summary.set_aside) == (8, 4)
    assert sorted(set_aside(tmp_path / "out")) == [f"row {number}" for number in range(4, 8)]


def test_a_disk_that_fails_is_no_damaged_file(damaged, tmp_path, monkeypatch):
    path = damaged("image.bytes")

    def fail(self, *given, **more):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(tables.pq.ParquetFile, "read_row_group", fail)
    job = GenerateJob(images=path, format="dataset", types=["detail"], **scripted())
    assert exit_code_of(lambda: job, tmp_path / "out") == 75
    assert not list(tmp_path.glob("out/quarantine/*"))


def test_a_parquet_file_that_was_cut_off_is_named(damaged, tmp_path):
    whole = damaged("image.bytes")
    folder = tmp_path / "data"
    folder.mkdir()
    for part in range(2):
        data = whole.read_bytes()
        (folder / f"train-{part}.parquet").write_bytes(data[: len(data) // (part + 1)])
    with pytest.raises(GenerationError, match=r"train-1\.parquet' is damaged \(.*\): get the file again"):
        generate(folder, tmp_path / "out", format="dataset")


@pytest.mark.parametrize("form", ["jsonl", "feature", "csv", "arrow", "parquet"])
def test_datasets_name_no_files_but_their_own(tmp_path, form):
    folder = tmp_path / "data"
    own = picture(folder / "sub" / "own.png", 1)
    picture(tmp_path / "private" / "secret.png", 2)
    (folder / "link.png").symlink_to(tmp_path / "private" / "secret.png")
    secret = str(tmp_path / "private" / "secret.png")
    names = ["sub/own.png", str(folder / "sub" / "own.png"), secret, "../private/secret.png", "link.png"]
    names += [str(folder / "link.png"), str(folder / ".." / "private" / "secret.png"), f"file://{secret}"]
    rows = [{"image": name, "image_id": str(index)} for index, name in enumerate(names)]
    if form in ("jsonl", "feature"):
        (folder / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    elif form == "csv":
        (folder / "train.csv").write_text("\n".join(["image,image_id", *(",".join(row.values()) for row in rows)]))
    elif form == "parquet":
        Dataset.from_list(rows).to_parquet(folder / "train.parquet")
    else:
        table = Dataset.from_list(rows).cast_column("image", Image()).data.table
        with pa.ipc.new_stream(str(folder / "train.arrow"), table.schema) as file:
            file.write_table(table)
    features = "\ndataset_info:\n  features:\n  - {name: image, dtype: image}\n  - {name: image_id, dtype: string}"
    configs = f"configs:\n- {{config_name: default, data_files: 'train.*'}}{features if form == 'feature' else ''}"
    (folder / "README.md").write_text(f"---\n{configs}\n---\n")
    summary = generate(folder, tmp_path / "out", format="dataset")
    (row,) = rows_of(tmp_path / "out")
    assert row["image"]["bytes"] == own and json.loads(row["extra"]) == {"same_picture": ["row 1"]}
    assert (summary.images, summary.set_aside) == (1, 6)
    reasons = [reason for _, reason in sorted(set_aside(tmp_path / "out").items())]
    assert len(reasons) == 6 and all("folder" in reason or "address" in reason for reason in reasons)


@pytest.mark.parametrize("form", ["plain", "metadata", "linked"])
def test_pictures_that_datasets_itself_lists_are_opened(tmp_path, monkeypatch, form):
    folder = tmp_path / "data"
    pictures = [picture(folder / "train" / f"{index}.png", index) for index in range(3)]
    if form == "metadata":
        lines = [json.dumps({"file_name": f"{index}.png", "image_id": f"id{index}"}) for index in range(3)]
        (folder / "train" / "metadata.jsonl").write_text("\n".join(lines))
    if form == "linked":
        (tmp_path / "other").symlink_to(folder)
        folder = tmp_path / "other"
    monkeypatch.chdir(tmp_path)
    for given in (folder, folder.name):
        output = tmp_path / f"out-{given == folder}"
        assert generate(given, output, format="dataset").set_aside == 0
        assert [row["image"]["bytes"] for row in rows_of(output)] == pictures


def test_several_pictures_of_a_row_are_read_in_any_form(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    pictures = [picture(tmp_path / f"{index}.png", index) for index in range(4)]
    rows = [{"images": [{"bytes": data, "path": None} for data in pictures[n : n + 2]]} for n in range(3)]
    table = Dataset.from_list(rows, features=Features({"images": List(Image())})).data.table
    with pa.ipc.new_stream(str(folder / "train.arrow"), table.schema) as file:
        file.write_table(table)
    generate(folder, tmp_path / "out", format="dataset")
    assert [row["image"]["bytes"] for row in rows_of(tmp_path / "out")] == pictures[:3]


def test_rows_cannot_hold_paths_of_a_datasets_pictures(tmp_path, capsys):
    given = {"images": tmp_path / "data.parquet", "format": "dataset", "store": "path"}
    assert exit_code_of(lambda: GenerateJob(types=["detail"], **given, **scripted()), tmp_path / "out") == 2
    assert "a dataset has them in its rows: use 'embed'" in capsys.readouterr().err
    with pytest.raises(GenerationError, match="a dataset has them in its rows"):
        correct_dataset("ada/pictures", tmp_path / "out", store="path", **scripted())


def test_the_id_0_is_kept(tmp_path):
    pictures = [picture(tmp_path / f"{index}.png", index) for index in range(2)]
    rows = [
        {"images": [{"bytes": data, "path": None}], "messages": CHAT, "image_id": n} for n, data in enumerate(pictures)
    ]
    Dataset.from_list(rows).cast_column("images", List(Image())).to_parquet(tmp_path / "data.parquet")
    correct_dataset(tmp_path / "data.parquet", tmp_path / "out", **scripted())
    assert [row["image_id"] for row in rows_of(tmp_path / "out")] == ["0", "1"]


@pytest.mark.parametrize("store", ["embed", "path"])
def test_files_that_were_listed_may_have_any_name(tmp_path, store):
    names = ["1:30.png", "\\a.png", "a\\..\\b.png", "c/data:x.png", "data:x.png", "http:/x.png"]
    for index, name in enumerate(names):
        picture(tmp_path / "root" / name, index)
    summary = generate(tmp_path / "root", tmp_path / "out", store=store)
    assert (summary.images, summary.set_aside) == (6, 0)
    if store == "path":
        assert sorted(row["image"]["path"] for row in rows_of(tmp_path / "out")) == sorted(
            str(tmp_path / "root" / n) for n in names
        )


@pytest.mark.parametrize(
    ("line", "excluded"),
    [
        ("498335", True),
        ("498335.jpg", True),
        ("./498335.jpg", True),
        ("000000498335.jpg", True),
        ("anywhere/COCO_train2014_000000498335.jpg", True),
        ("coco/train2017/498335.jpg", True),
        ("http://images.cocodataset.org/val2017/498335.jpg", True),
        ("vg/VG_100K/498335.jpg", False),
        ("gqa\\images\\498335.jpg", False),
        ("9" * 5000, False),
    ],
)
def test_numbers_are_cocos_where_they_can_be(tmp_path, line, excluded):
    for number in (1, 498335):
        picture(tmp_path / "root" / f"{number:012d}.png", number)
    (tmp_path / "ids.txt").write_text(f"{line}\n")
    summary = generate(tmp_path / "root", tmp_path / "out", exclude_ids=[tmp_path / "ids.txt"])
    assert summary.images == 2 - excluded
    (tmp_path / "ids.json").write_text(json.dumps([{"id": "a", "image": line}]))
    assert generate(tmp_path / "root", tmp_path / "out2", exclude_ids=[tmp_path / "ids.json"]).images == 2 - excluded
