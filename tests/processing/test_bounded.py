"""What a hostile file costs: bounded, and one line to read, whether it is JSON, YAML, parquet, a reply or a link."""

import ast
import gc
import gzip
import json
import os
import sys
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import ROOT
from datasets import Features, List, Value
from judge_server import JudgeServer, Raw
from PIL import Image
from scripted import ScriptedModel, ScriptedProcessor

from vigc.cli.terminal import line
from vigc.errors import AnnotationError, DatasetError, GenerationError, JudgeError, LinkError, PushError, TransientError
from vigc.evaluation import EndpointJudge, read_rules
from vigc.evaluation.benchmarks.entries import read_entries
from vigc.evaluation.benchmarks.predictions import PredictionFile, read_answers
from vigc.evaluation.judge.review_file import ReviewFile
from vigc.formats.annotations import read_annotations
from vigc.formats.hf_datasets import load_rows
from vigc.generation import generate_dataset
from vigc.generation.generate import open_collection
from vigc.generation.rollouts.short_answers import read_first_words
from vigc.hub.publication import read_publication
from vigc.inference import Request
from vigc.jobs import ledger, locks
from vigc.processing import atomic
from vigc.processing.bounded_parsing import (
    MAX_DEPTH,
    features_of,
    open_parquet,
    parse_card,
    parse_json,
    parse_yaml,
    read_text,
)
from vigc.trainer.recipe import read_recipe

DEEP = "[" * 20_000 + "]" * 20_000
# Ten lists of ten of the list before: a billion values in 300 characters.
ALIASES = "a0: &a0 [1]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 10))
PARSERS = {"json": ("loads", "load"), "yaml": ("load", "safe_load", "full_load", "unsafe_load")}
READERS = ("ParquetFile", "read_schema", "read_table", "read_metadata", "load_dataset", "load_dataset_builder")


def test_levels_are_counted():
    for text in ("[" * MAX_DEPTH + "]" * MAX_DEPTH, '{"a":' * MAX_DEPTH + "1" + "}" * MAX_DEPTH):
        assert parse_json(text) == parse_json(text.encode()) == json.loads(text)
    wide = json.dumps([[index] for index in range(1000)])
    assert parse_json(wide) == json.loads(wide) and parse_json('"' + "[" * 500 + '"') == "[" * 500
    for text in ("[" * 101 + "]" * 101, '{"a":' * 101 + "1" + "}" * 101, DEEP, "[" * 10**6, '[{"a":' * 60 + "1"):
        for given in (text, text.encode()):
            with pytest.raises(ValueError, match=r"nested more than 100 levels deep|Expecting"):
                parse_json(given)
    assert parse_yaml("- " * 99 + "1") and parse_json(b"\xef\xbb\xbf[1]") == [1]
    for text in (DEEP, "[" * 20_000, "- " * 101 + "1", "{a: " * 5000, "? " * 2000):
        with pytest.raises(ValueError, match="nested more than 100 levels deep"):
            parse_yaml(text)


def test_no_finalizer_runs_at_the_bottom_of_a_deep_text(monkeypatch):
    """A finalizer that the garbage collector ran there would exceed the recursion limit."""

    class Closing:
        def __init__(self):
            self.itself = self

        def __del__(self):
            (lambda: (lambda: None)())()

    failed = []
    monkeypatch.setattr(sys, "unraisablehook", failed.append)
    thresholds = gc.get_threshold()
    gc.freeze()  # the collector skips objects that exist already
    try:
        for count in range(900, 1020):
            gc.collect()
            gc.set_threshold(count, 1, 1)  # a collection begins about `count` lists deep
            Closing()
            with pytest.raises(ValueError, match="levels deep"):
                parse_json(DEEP)
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()
    assert not failed and gc.isenabled()


def test_yaml_is_plain_and_small():
    assert parse_yaml("a: &d {x: 1}\nb:\n  <<: *d\n  y: 2") == {"a": {"x": 1}, "b": {"x": 1, "y": 2}}
    refused = {
        ALIASES: "more values than the limit",
        "a: &a [*a]": "an alias inside the value that it refers to",
        "a: &a {b: {c: *a}}": "an alias inside the value that it refers to",
        "a: '" + "x" * (2 * 2**20) + "'": "more bytes than the limit",
        "!!python/object/apply:os.system [id]": "could not determine a constructor",
        "a: [1": "while parsing",
        "a: " + "9" * 5000: "4300 digits",
    }
    for text, reason in refused.items():
        with pytest.raises(ValueError, match=reason) as caught:
            parse_yaml(text)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 600
    assert parse_card("# no settings") is None and parse_card("---\na: 1\n---\n# A") == {"a": 1}


def test_files_are_read_within_limits(tmp_path):
    (tmp_path / "a").write_bytes(b"\xef\xbb\xbfabc")
    assert read_text(tmp_path / "a", 6) == "abc"
    with pytest.raises(ValueError, match="more bytes than the limit of 5"):
        read_text(tmp_path / "a", 5)
    assert line("a\n b") == "a b" and len(line("x" * 50_000_000)) < 2_010


def features(depth):
    feature = {"dtype": "int64", "_type": "Value"}
    for _ in range(depth):
        feature = {"feature": feature, "_type": "List"}
    return feature


def parquet(path, metadata):
    schema = pa.schema([("image", pa.binary()), ("n", pa.list_(pa.int64()))], {"huggingface": metadata})
    pq.write_table(pa.table({"image": [b"x"], "n": [[1]]}, schema), path)
    return path


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        (json.dumps({"info": {"features": {"n": features(99)}}}), "levels deep"),
        ('{"info": {"features": {"n": ' + '{"feature":' * 20_000 + "1" + "}" * 20_003, "levels deep"),
        ('{"info": ' + DEEP + "}", "levels deep"),
        ('{"info": {"features": 5}}', "metadata is damaged"),
        ('{"info": {"features": {"n": {"_type": "NoSuchType"}}}}', "."),
        ("{", "."),
        ('{"x": "' + "y" * 17 * 2**20 + '"}', "more bytes than the limit"),
    ],
    ids=range(7),
)
def test_metadata_of_parquet_is_bounded(metadata, reason, tmp_path):
    path = parquet(tmp_path / "train.parquet", metadata)
    start = time.monotonic()
    with pytest.raises(ValueError, match=reason), open_parquet(path) as file:
        features_of(file.schema_arrow)
    for load in (lambda: open_collection(path, "dataset"), lambda: load_rows(str(tmp_path))):
        with pytest.raises((GenerationError, DatasetError)) as caught:
            load()
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 2_000
    assert time.monotonic() - start < 60


def test_sound_metadata_of_parquet_is_read(tmp_path):
    known = Features({"image": Value("binary"), "n": List(Value("int64"))})
    schema = known.arrow_schema
    assert features_of(schema) == known and features_of(schema.remove_metadata()) == known


@pytest.mark.parametrize("text", [DEEP, ALIASES, "configs: 5", "configs: [5]", "configs: [{}]", "a: [1", "5", "\x00"])
def test_settings_of_datasets_and_cards_are_bounded(text, tmp_path):
    pq.write_table(pa.table({"image": ["a.png"], "type": ["detail"]}), tmp_path / "train.parquet")
    (tmp_path / "README.md").write_text(f"---\n{text}\n---\n")
    for load in (lambda: load_rows(str(tmp_path)), lambda: open_collection(tmp_path, "dataset")):
        try:
            load()
        except ValueError as error:
            assert "\n" not in str(error).split("Expected data_files")[0] and len(str(error)) < 2_000
        else:
            assert text in ("configs: 5", "5")
    if text in (DEEP, ALIASES, "a: [1"):
        with pytest.raises(PushError, match=r"README.md of .* has metadata that cannot be read"):
            read_publication(tmp_path, "ada/x")


def test_json_of_strangers_is_refused_in_one_line(tmp_path):
    deep = tmp_path / "deep.json"
    deep.write_text(DEEP)
    (tmp_path / "deep.jsonl").write_text(DEEP + "\n")
    readers = [
        lambda: read_rules(deep),
        lambda: read_answers(deep),
        lambda: read_answers(tmp_path / "deep.jsonl"),
        lambda: read_entries(tmp_path / "deep.jsonl"),
        lambda: PredictionFile(tmp_path / "deep.jsonl").__enter__(),
        lambda: ReviewFile(tmp_path / "deep.jsonl").__enter__(),
        lambda: read_first_words(deep),
        lambda: read_annotations(deep, tmp_path, layout="llava", type="detail"),
        lambda: read_recipe(deep),
    ]
    for read in readers:
        with pytest.raises((ValueError, AnnotationError)) as caught:
            read()
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 2_000
    folder = tmp_path / "data"
    (folder / "_vigc").mkdir(parents=True)
    for name in ("plan.json", "finished.json"):
        (folder / "_vigc" / name).write_text(DEEP)
    assert ledger.read_finished(folder) == {}
    with pytest.raises(GenerationError, match="is not valid JSON"):
        ledger.read_plan(folder)


@pytest.mark.parametrize(
    "text", ["[" * 20_000, DEEP, "data: " + "{a: " * 20_000, ALIASES, "- " * 20_000, "x: !!python/x"]
)
def test_a_hostile_recipe_costs_little(text, tmp_path):
    (tmp_path / "recipe.yaml").write_text(text)
    start = time.monotonic()
    with pytest.raises(ValueError, match="is not a readable YAML file") as caught:
        read_recipe(tmp_path / "recipe.yaml")
    assert "\n" not in str(caught.value) and time.monotonic() - start < 20


@pytest.mark.parametrize("reply", ["deep", "huge", "packed", "choices", "text"])
def test_a_hostile_reply_of_a_judge_is_no_review(reply):
    said = {
        "deep": Raw(200, b'{"choices":' + DEEP.encode() + b"}"),
        "huge": Raw(200, b'{"choices": "' + b"x" * 9 * 2**20 + b'"}'),
        "packed": Raw(200, gzip.compress(b" " * 64 * 2**20), {"content-encoding": "gzip"}),
        "choices": Raw(200, b'{"choices": [[[]]]}'),
        "text": Raw(200, b'{"choices": [{"message": {"content": ' + b"[" * 50 + b"]" * 50 + b"}}]}"),
    }[reply]
    with JudgeServer(lambda body, number: said) as server:
        judge = EndpointJudge(server.url, "m", wait=0.01, retries=1, timeout=20)

        def asking():
            return (yield Request("?"))

        with pytest.raises(TransientError, match="is unavailable") as caught:
            list(judge.generator.run([asking()]))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_names_and_entries_of_strangers_are_set_aside(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    names = ["a.png", "x" * 5_000_000, "a/" * 2_500_000 + "b.png", "../" * 100_000, "x" * 300]
    turns = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "A cat."}]
    lines = [json.dumps({"id": "1", "image": name, "conversations": turns}) for name in names]
    (tmp_path / "x.jsonl").write_text("\n".join([*lines, DEEP, '{"image": ' + DEEP + "}"]))
    start = time.monotonic()
    scripted = {"model": ScriptedModel(malformed=0), "processor": ScriptedProcessor()}
    summary = generate_dataset(tmp_path / "x.jsonl", tmp_path / "out", format="llava", types=["detail"], **scripted)
    assert (summary.images, summary.set_aside) == (1, 6)
    assert all(len(reason) < 500 for _, reason in summary.skipped) and time.monotonic() - start < 60


def test_only_the_bounded_functions_parse():
    """So that the next reader of a file from outside is bounded, too."""
    # The last of them reads files that the user names, whose settings nobody else wrote.
    allowed = {"processing/bounded_parsing.py", "formats/dataset_files.py", "formats/local_datasets.py"}
    rooms = [path.parent for path in ROOT.glob("*/__init__.py") if path.parent.name != "tests"]
    found = []
    for file in (file for folder in (*rooms, ROOT / "src" / "vigc") for file in folder.rglob("*.py")):
        name = file.relative_to(ROOT).as_posix()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or name in allowed or name.endswith("_vigc.py"):  # which travel
                continue
            function = node.func
            if isinstance(function, ast.Name) and function.id in READERS:
                found.append(f"{name}:{node.lineno} {function.id}")
            if isinstance(function, ast.Attribute):
                owner = function.value.id if isinstance(function.value, ast.Name) else ""
                if function.attr in PARSERS.get(owner, ()) or (
                    owner in ("pq", "datasets") and function.attr in READERS
                ):
                    found.append(f"{name}:{node.lineno} {owner}.{function.attr}")
    assert found == []


def test_a_planted_link_leads_no_writing_elsewhere(tmp_path, monkeypatch):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in (f".a.{os.getpid()}.tmp", ".a.tmp", ".a.0.tmp"):
        (folder / name).symlink_to(victim)
    (folder / "a").symlink_to(victim)
    atomic.atomic_write(folder / "a", b"ours")
    assert (folder / "a").read_bytes() == b"ours" and not (folder / "a").is_symlink()
    monkeypatch.setattr(atomic.secrets, "token_hex", lambda count: "0")  # as if the name had been foreseen
    with pytest.raises(FileExistsError):
        atomic.atomic_write(folder / "a", b"again")
    monkeypatch.undo()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "kept").touch()
    for target in (elsewhere, tmp_path / "nothing"):
        (folder / ".b.tmp").symlink_to(target)
        with atomic.atomic_folder(folder / "b") as unfinished:
            assert not unfinished.is_symlink()
            (unfinished / "new").touch()
        assert sorted(path.name for path in elsewhere.iterdir()) == ["kept"]
        (folder / "b" / "new").unlink()
    assert victim.read_text() == "precious" and not (tmp_path / "nothing").exists()


def test_locks_are_no_links(tmp_path):
    victim = tmp_path / "victim.lock"
    victim.write_text("precious")
    (tmp_path / ".b.lock").symlink_to(victim)
    with pytest.raises(LinkError, match="is a symbolic link, which is not followed: remove it"):
        atomic.atomic_folder(tmp_path / "b").__enter__()
    (tmp_path / ".r.jsonl.lock").symlink_to(victim)
    with pytest.raises(JudgeError, match="is a symbolic link"):
        ReviewFile(tmp_path / "r.jsonl").__enter__()
    for linked in ("_vigc", "_vigc/locks"):
        folder = tmp_path / linked.replace("/", "-")
        (folder / linked).parent.mkdir(parents=True)
        (folder / linked).symlink_to(tmp_path)
        for use in (lambda folder: locks.hold(folder, "plan").__enter__(), locks.held):
            (tmp_path / "locks").mkdir(exist_ok=True)
            (tmp_path / "locks" / "victim.lock").touch()
            with pytest.raises(GenerationError, match="is a symbolic link"):
                use(folder)
    assert victim.read_text() == "precious" and (tmp_path / "locks" / "victim.lock").exists()
