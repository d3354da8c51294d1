"""What data names is followed only below its own folder: settings and rows of datasets, annotations, links."""

import io
import json
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from datasets import Dataset, Features, List, Value
from datasets import Image as Pictures
from PIL import Image

from vigc.errors import AnnotationError, DatasetError, GenerationError, ImagePathError, MixError
from vigc.evaluation.benchmarks.base import DataSettings
from vigc.evaluation.benchmarks.table import BENCHMARKS
from vigc.exports.export import export_dataset
from vigc.exports.mix import MixRequest, Source, mix
from vigc.formats.annotations import read_annotations
from vigc.formats.hf_datasets import load_rows
from vigc.generation.generate import open_collection
from vigc.processing.confined_paths import ListedFolder, confined
from vigc.processing.rows import TRAIN_FEATURES
from vigc.trainer.recipe import DataEntry
from vigc.trainer.train import _load


def png(colour="red"):
    buffer = io.BytesIO()
    Image.new("RGB", (6, 5), colour).save(buffer, "PNG")
    return buffer.getvalue()


def row(text, **image):
    given = {"image": {"bytes": None, "path": None, **image}, "image_id": text, "type": "detail", "turn": 0}
    return {
        **dict.fromkeys(TRAIN_FEATURES),
        **given,
        "question": f"{text}?",
        "answers": [text],
        "conversation_id": text,
        "extra": "{}",
    }


def write(path, *rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    written(path, Dataset.from_list(list(rows), features=TRAIN_FEATURES))


def written(path, rows):
    """As `to_parquet`, which would embed the pictures."""
    pq.write_table(rows.data.table, path)


@pytest.fixture
def server():
    """Counts requests: none may come."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_error(404)

        do_HEAD = do_GET

        def log_message(self, *words):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{http.server_address[1]}", asked
        http.shutdown()
        thread.join()


def stolen(folder):
    """What lies beside a dataset and must not get into its rows."""
    write(folder / "secret" / "s.parquet", row("secret", bytes=png("blue")))
    return folder / "secret" / "s.parquet"


def settings(folder, data_files, **more):
    config = {"config_name": "default", **({} if data_files is None else {"data_files": data_files}), **more}
    (folder / "README.md").write_text(f"---\nconfigs:\n- {json.dumps(config)}\n---\n")


# What a README or a link brings in, by name: prepares the dataset folder, which holds one row of its own.
ATTACKS = {
    "above": lambda folder, secret, url: settings(folder, "../secret/*.parquet"),
    "among its own": lambda folder, secret, url: settings(folder, ["train.parquet", "../secret/s.parquet"]),
    "inside and out": lambda folder, secret, url: settings(folder, "a/../../secret/s.parquet"),
    "absolute": lambda folder, secret, url: settings(folder, str(secret)),
    "of a split": lambda folder, secret, url: settings(folder, [{"split": "train", "path": [str(secret)]}]),
    "file://": lambda folder, secret, url: settings(folder, f"file://{secret}"),
    "file:": lambda folder, secret, url: settings(folder, f"file:{secret}"),
    "local://": lambda folder, secret, url: settings(folder, f"local://{secret}"),
    "another folder": lambda folder, secret, url: settings(folder, "*.parquet", data_dir="../secret"),
    "an absolute folder": lambda folder, secret, url: settings(folder, None, data_dir=str(secret.parent)),
    "http": lambda folder, secret, url: settings(folder, f"{url}/train.parquet"),
    "a folder by http": lambda folder, secret, url: settings(folder, "*.parquet", data_dir=f"{url}/x"),
    "chained": lambda folder, secret, url: settings(folder, f"zip://*.parquet::{url}/x.zip"),
    "chained here": lambda folder, secret, url: settings(folder, f"zip://*.parquet::{secret}.zip"),
    "cached": lambda folder, secret, url: settings(folder, f"simplecache::{url}/x.parquet"),
    "the Hub": lambda folder, secret, url: settings(folder, "hf://datasets/ada/private/*.parquet"),
    "another settings file": lambda folder, secret, url: (folder / ".huggingface.yaml").write_text(
        json.dumps({"configs": [{"config_name": "default", "data_files": str(secret)}]})
    ),
    "a link": lambda folder, secret, url: (folder / "train-2.parquet").symlink_to(secret),
    "a linked folder": lambda folder, secret, url: (
        (folder / "more").symlink_to(secret.parent),
        settings(folder, "more/*.parquet"),
    ),
    "a linked README": lambda folder, secret, url: (
        (secret.parent / "README.md").write_text("---\nsecret: true\n---\n"),
        (folder / "README.md").symlink_to(secret.parent / "README.md"),
    ),
    "a link to a link": lambda folder, secret, url: (
        (folder / "sub").mkdir(),
        (folder / "sub" / "train-2.parquet").symlink_to(folder / "b"),
        (folder / "b").symlink_to(secret),
    ),
    "a script": lambda folder, secret, url: (folder / "data.py").write_text("raise SystemExit('run')"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_dataset_brings_in_no_file_but_its_own(attack, tmp_path, server):
    url, asked = server
    folder, secret = tmp_path / "data", stolen(tmp_path)
    write(folder / "train.parquet", row("own", bytes=png()))
    ATTACKS[attack](folder, secret, url)
    for load in (
        lambda: load_rows(str(folder)),
        lambda: open_collection(folder, "dataset"),
        lambda: mix(MixRequest(Source((str(folder),)))),
        lambda: _load(DataEntry(dataset=str(folder))),
    ):
        with pytest.raises((DatasetError, GenerationError, MixError)) as caught:
            load()
        assert "traceback" not in str(caught.value).lower() and "\n" not in str(caught.value)
    assert asked == []


def test_what_lies_in_a_dataset_is_read(tmp_path, monkeypatch):
    """Sub-folders, links within, a linked folder, the Hub client's own links, names that `datasets` has."""
    write(tmp_path / "json" / "sub" / "a.parquet", row("a", bytes=png()))
    (tmp_path / "json" / "b.parquet").symlink_to(tmp_path / "json" / "sub" / "a.parquet")
    settings(tmp_path / "json", ["./sub/*.parquet", "b.parquet"])
    (tmp_path / "linked").symlink_to(tmp_path / "json")
    monkeypatch.chdir(tmp_path)
    for path in ("json", str(tmp_path / "linked")):
        assert load_rows(path)["question"][:] == ["a?", "a?"]
    snapshot = tmp_path / "datasets--ada--x" / "snapshots" / "0123"
    write(tmp_path / "datasets--ada--x" / "blobs" / "f00", row("blob", bytes=png()))
    snapshot.mkdir(parents=True)
    (snapshot / "train.parquet").symlink_to("../../blobs/f00")
    assert load_rows(str(snapshot))["question"][:] == ["blob?"]
    (snapshot / "train.parquet").unlink()
    (snapshot / "train.parquet").symlink_to(tmp_path / "json" / "sub" / "a.parquet")
    with pytest.raises(DatasetError, match="link out of the dataset"):
        load_rows(str(snapshot))
    for name in ("parquet", "imagefolder", "hf://buckets/a/b"):
        with pytest.raises(DatasetError, match="neither a folder nor the name of a dataset"):
            load_rows(name)


@pytest.mark.parametrize("form", ["struct", "feature", "text", "several", "list of texts"])
def test_rows_to_train_on_name_no_pictures_of_others(tmp_path, server, form):
    url, asked = server
    folder, others = tmp_path / "data", tmp_path / "others"
    others.mkdir()
    for place in (folder / "sub", others):
        place.mkdir(parents=True, exist_ok=True)
        (place / "a.png").write_bytes(png())
    (folder / "link.png").symlink_to(others / "a.png")

    def load(name, **given):
        values = {"text": name, "several": [{"bytes": None, "path": name}], "list of texts": [name]}
        value = values.get(form, {"bytes": None, "path": name})
        column = "images" if form in ("several", "list of texts") else "image"
        features = {"feature": Pictures(), "several": List(Pictures())}
        kept = {"bytes": png("green"), "path": "/nowhere.png"}
        first = {"text": "", "list of texts": []}.get(form, [kept] if form == "several" else kept)
        rows = Dataset.from_list([{column: first, "n": 0}, {column: value, "n": 1}])
        if form in features:
            rows = rows.cast(Features({column: features[form], "n": Value("int64")}))
        written(folder / "train.parquet", rows)
        found = load_rows(str(folder), **given).with_format("arrow")[1][column].to_pylist()[0]
        found = found[0] if isinstance(found, list) else found
        return found if isinstance(found, str) else found["path"]

    assert load(str(folder / "sub" / "a.png")) == load("sub/a.png") == str(folder / "sub" / "a.png")
    for name in (str(others / "a.png"), "../others/a.png", "link.png", f"file://{others}/a.png", f"{url}/a.png"):
        with pytest.raises(DatasetError, match=r"row 1 names the image .*: embed the images, or name the folder"):
            load(name)
    assert load(str(others / "a.png"), images=[others]) == str(others / "a.png")
    assert asked == []


def test_export_embeds_no_picture_behind_a_link(tmp_path):
    (tmp_path / "private.png").write_bytes(png())
    write(tmp_path / "data" / "train.parquet", row("own", bytes=png()), row("link", path="link.png"))
    (tmp_path / "data" / "link.png").symlink_to(tmp_path / "private.png")
    done = export_dataset(tmp_path / "data", tmp_path / "out", format="trl-sft")
    assert done.records == 1 and "link out of the folder" in done.first_unreadable
    (tmp_path / "data" / "more.parquet").symlink_to(stolen(tmp_path))
    with pytest.raises(ValueError, match="link out of the"):
        export_dataset(tmp_path / "data", tmp_path / "out2", format="trl-sft")


def test_annotations_and_benchmarks_meet_no_picture_behind_a_link(tmp_path):
    for name in ("root", "root2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").write_bytes(png())
    (tmp_path / "root" / "link.png").symlink_to(tmp_path / "root2" / "a.png")
    (tmp_path / "root" / "sub").symlink_to(tmp_path / "root2")
    turns = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "A cat."}]
    for name in ("link.png", "sub/a.png", "../root2/a.png", str(tmp_path / "root2" / "a.png")):
        path = tmp_path / "detail.json"
        path.write_text(json.dumps([{"id": "1", "image": name, "conversations": turns}]))
        with pytest.raises(AnnotationError, match="is not under"):
            read_annotations(path, tmp_path / "root", layout="llava")
        benchmark = BENCHMARKS["pope"](DataSettings(tmp_path, images=tmp_path / "root"))
        with pytest.raises(ValueError, match="is not in"):
            benchmark.picture(name)


def test_a_sibling_of_the_root_is_not_in_it(tmp_path, monkeypatch):
    for name in ("root", "root2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").touch()
    (tmp_path / "root" / "link.png").symlink_to(tmp_path / "root2" / "a.png")
    root = os.path.realpath(tmp_path / "root")
    assert confined(root, "a.png") == os.path.join(root, "a.png")
    for look_up in (lambda name: confined(root, name), ListedFolder(root).find):
        with pytest.raises(ImagePathError, match="is a link out of the folder"):
            look_up("link.png")
        with pytest.raises(ImagePathError, match="is a path out of the folder"):
            look_up("../root2/a.png")
    assert ListedFolder(tmp_path / "root").find("./a.png") == Path(tmp_path / "root" / "a.png")
    assert ListedFolder(tmp_path / "root").find("b.png") is ListedFolder(tmp_path / "root").find(".") is None
    monkeypatch.chdir(tmp_path / "root")
    assert ListedFolder(".").find("a.png") == Path("a.png") and ListedFolder("").find("./a.png") == Path("a.png")


def test_the_reports_pictures_are_the_datasets_own(tmp_path):
    """A plan is data, too: that it says "path" lets nothing in."""
    from vigc.generation import write_report
    from vigc.processing.rows import GENERATED_FEATURES

    (tmp_path / "private.png").write_bytes(png("blue"))
    folder = tmp_path / "data"
    configuration = {"model": "m", "types": ["detail"], "correct": True, "seed": 7, "dtype": "float32"}
    plan = {
        "configuration": configuration,
        "config_hash": "0",
        "source": "s",
        "license": "l",
        "job": {"images": "path"},
    }
    (folder / "_vigc").mkdir(parents=True)
    (folder / "_vigc" / "plan.json").write_text(json.dumps(plan))
    (folder / "detail").mkdir()
    texts = {"id": "1", "image_id": "1", "type": "detail", "question": "What?", "draft": "A.", "answer": "A."}
    for path, shows in ((str(tmp_path / "private.png"), False), ("own.png", True)):
        (folder / "own.png").write_bytes(png("blue"))
        rows = [{**dict.fromkeys(GENERATED_FEATURES), **texts, "image": {"bytes": None, "path": path}}]
        written(folder / "detail" / "train-00000.parquet", Dataset.from_list(rows, features=GENERATED_FEATURES))
        page = write_report(folder).read_text()
        assert ("data:image/png;base64" in page) is shows
    rows = [{**rows[0], "image": {"bytes": None, "path": str(tmp_path / "private.png")}}]
    written(folder / "detail" / "train-00000.parquet", Dataset.from_list(rows, features=GENERATED_FEATURES))
    assert "data:image/png;base64" in write_report(folder, image_root=tmp_path).read_text()
    (folder / "detail" / "train-00001.parquet").symlink_to(stolen(tmp_path))
    with pytest.raises(GenerationError, match="is a link out of the dataset"):
        write_report(folder)
    plan["configuration"]["types"] = ["../secret"]
    (folder / "_vigc" / "plan.json").write_text(json.dumps(plan))
    with pytest.raises(GenerationError, match="is not a valid plan"):
        write_report(folder)
