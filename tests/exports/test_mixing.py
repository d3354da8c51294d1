"""`vigc mix`: what is added, what is replaced, that nothing else changes, and that others can train on it."""

import json
import random
from collections import Counter

import pyarrow.parquet as pq
import pytest
from conftest import FIXTURES
from dataset_rows import generated, write
from datasets import Dataset, load_dataset
from PIL import Image
from typer.testing import CliRunner

from vigc.cli.root import app
from vigc.errors import MixError
from vigc.exports.mixing import MIX_FEATURES, add_rows, content_fingerprint, replace_rows, training_rows
from vigc.processing import GENERATED_FEATURES, TRAIN_FEATURES

FILES = FIXTURES / "annotations"
TYPES = ("conversation", "detail", "complex")


def conversations(count, name, seed=0):
    """Rows of `count` conversations of one to three turns, their types in turn."""
    draw, rows = random.Random(seed), []
    for index in range(count):
        for turn in range(draw.randint(1, 3)):
            row = dict.fromkeys(TRAIN_FEATURES)
            row |= {
                "image": {"bytes": None, "path": f"{name}/{index}.jpg"}, "image_id": f"{name}{index}",
                "type": TYPES[index % 3], "question": f"{name} {index} {turn}?", "answers": [f"{turn}"],
                "conversation_id": f"{name}/{index}", "turn": turn,
            }  # fmt: skip
            rows.append(row)
    return training_rows(Dataset.from_list(rows, features=TRAIN_FEATURES))


def written(count, **more):
    """Generated rows, as `vigc generate` writes them."""
    rows = [{**dict.fromkeys(GENERATED_FEATURES), **generated(index, **more)} for index in range(count)]
    return Dataset.from_list(rows, features=GENERATED_FEATURES)


def by_instance(rows):
    found = {}
    for row in rows:
        found.setdefault(row["conversation_id"], []).append(row)
    return found


# The operations


@pytest.mark.parametrize("seed", range(6))
def test_a_mixture_is_the_base_less_what_is_removed_and_what_is_added(seed):
    base, extra = conversations(30, "base", seed), conversations(24, "extra", seed + 1)
    kind, count = random.Random(seed).choice(TYPES), random.Random(seed).randint(1, 8)
    before, offered = by_instance(base), by_instance(extra)
    for operation in (add_rows, replace_rows):
        rows, record = operation(base, extra, type=kind, count=count, seed=seed, name="extra")
        after = by_instance(rows)
        added, removed = record["added"], record["removed"]
        assert len(added) == len(set(added)) == count and set(added) <= set(offered)
        assert len(set(removed)) == (count if operation is replace_rows else 0) and set(removed) <= set(before)
        assert {offered[one][0]["type"] for one in added} | {before[one][0]["type"] for one in removed} == {kind}
        # Whole conversations, as they were, the base's before the others and both in their own order.
        expected = {one: before[one] for one in before if one not in removed}
        expected |= {one: offered[one] for one in offered if one in added}
        assert after == expected and list(after) == list(expected)
        assert rows.features == MIX_FEATURES and len(rows) == sum(map(len, expected.values()))
        assert record["rows"] == sum(len(offered[one]) for one in added)
        assert record["removed_rows"] == sum(len(before[one]) for one in removed)
        assert record["fingerprint"] == content_fingerprint(extra)


def test_what_is_drawn_depends_on_seed_and_ids_alone():
    base, extra = conversations(30, "base"), conversations(60, "extra")
    few = add_rows(base, extra, type="detail", count=5, seed=3)
    many = add_rows(base, extra, type="detail", count=15, seed=3)
    assert many.record["added"][:5] == few.record["added"]
    backwards = extra.select(range(len(extra) - 1, -1, -1))
    assert add_rows(base, backwards, type="detail", count=5, seed=3).record["added"] == few.record["added"]
    assert add_rows(base, extra, type="detail", count=5, seed=4).record["added"] != few.record["added"]
    again = add_rows(base, extra, type="detail", count=5, seed=3)
    assert content_fingerprint(again.rows) == content_fingerprint(few.rows) != content_fingerprint(many.rows)
    everything = add_rows(base, extra, type="detail")
    assert everything.record["instances"] == 20


def test_generated_rows_give_the_answer_or_the_draft():
    rows = written(3)
    corrected, drafts = training_rows(rows, name="g"), training_rows(rows, name="g", text="draft")
    assert (
        corrected["answers"][:] == [["A grey cat sleeps."]] * 3 and drafts["answers"][:] == [["A red cat sleeps."]] * 3
    )
    assert drafts["conversation_id"][:] == [f"g/{index:032x}" for index in range(3)]
    assert drafts[0]["image"] == rows.cast_column("image", MIX_FEATURES["image"])[0]["image"]
    short = written(1, kind="okvqa", answers=["cat", "kitten"], draft=None)
    assert training_rows(short)["answers"][:] == [["cat", "kitten"]]
    with pytest.raises(MixError, match="row 0 of a dataset has no draft"):
        training_rows(short, text="draft")


def test_what_cannot_be_mixed_is_named():
    base, extra = conversations(9, "base"), conversations(9, "extra")
    for message, operation, given in (
        (
            "4 instances of type detail are requested, but apart from those in the base, extra has 3",
            add_rows,
            {"type": "detail", "count": 4},
        ),
        ("0 instances of type detail", add_rows, {"type": "detail", "count": 0}),
        ("but the base has 0", replace_rows, {"type": "okvqa", "count": 1}),
        ("Unknown task 'poem'", add_rows, {"type": "poem"}),
    ):
        source = training_rows(written(2, kind="okvqa")) if given["type"] == "okvqa" else extra
        with pytest.raises(MixError, match=message):
            operation(base, source, **given)
    mixed = add_rows(base, extra, type="detail", count=2).rows
    with pytest.raises(MixError, match=r"2 instances of type detail are requested, but apart from .* extra has 1"):
        add_rows(mixed, extra, type="detail", count=2)
    rest = add_rows(mixed, extra, type="detail", count=1)
    assert not set(rest.record["added"]) & set(mixed["conversation_id"])
    with pytest.raises(MixError, match="has no column type, answers"):
        training_rows(Dataset.from_dict({"image": ["a"], "question": ["b"]}))
    with pytest.raises(MixError, match="text='both'"):
        training_rows(written(1), text="both")


# The command


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """LLaVA's files with their pictures, and a folder as `vigc generate` leaves it."""
    root = tmp_path_factory.mktemp("mix")
    (root / "coco").mkdir()
    for number in (9, 25):
        Image.new("RGB", (80, 60), (number * 9, 10, 30)).save(root / "coco" / f"{number:012d}.jpg")
    for kind in ("conversation", "detail"):
        made = [{**dict.fromkeys(GENERATED_FEATURES), **generated(n, kind=kind)} for n in range(5)]
        for number, row in enumerate(made):
            row["id"] = f"{kind}-{number}"
        write(root / "extra", made, kind=kind)
    return root


def run(places, *more, base=(FILES / "conversation_58k.json",), code=0):
    given = [*base, "--image-root", places / "coco", "--from", places / "extra", *more]
    result = CliRunner().invoke(app, ["mix", *map(str, given)])
    assert result.exit_code == code, result.output
    return result.output


def test_the_command_writes_a_dataset_with_a_manifest(places, tmp_path):
    folder = tmp_path / "mixed"
    options = ("--add", "detail=2", "--replace", "conversation=1", "--text", "draft", "--seed", "5", "-o", folder)
    planned = run(places, *options, "--dry-run")
    assert "Dry run" in planned and not folder.exists()
    said = run(places, *options)
    assert (
        said.splitlines()[:-1] == planned.splitlines()[:-1]
        and "Mixture: 5 instances (conversation: 3, detail: 2)" in said
    )
    rows = load_dataset(str(folder), split="train")
    assert rows.features == TRAIN_FEATURES and Counter(rows["type"])["detail"] == 2
    assert rows[0]["image"].size == (80, 60) and rows[-1]["image"].size == (48, 32)
    manifest = json.loads((folder / "_vigc/mix.json").read_text(encoding="utf-8"))
    instances = [json.loads(line) for line in (folder / "_vigc/instances.jsonl").read_text("utf-8").splitlines()]
    assert Counter((one["operation"], one["side"], one["type"]) for one in instances) == {
        ("replace", "added", "conversation"): 1, ("replace", "removed", "conversation"): 1,
        ("add", "added", "detail"): 2,
    }  # fmt: skip
    ids = set(rows["conversation_id"])
    assert {one["id"] for one in instances if one["side"] == "added"} <= ids
    assert not {one["id"] for one in instances if one["side"] == "removed"} & ids
    assert manifest["seed"] == 5 and manifest["text"] == "draft" and manifest["base"]["instances"] == 3
    assert manifest["result"]["rows"] == len(rows) and str(tmp_path) not in json.dumps(manifest)
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "| + detail from extra | 2 | 2 |" in card and "VIG's draft" in card
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert "already has this mixture" in run(places, *options)
    assert "has other content" in run(places, *options[:-4], "--seed", "6", "-o", folder, code=4)
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    other = tmp_path / "again"
    run(places, *options[:-1], other)
    names = ["data/train-00000.parquet", "_vigc/mix.json", "_vigc/instances.jsonl"]
    assert all((folder / name).read_bytes() == (other / name).read_bytes() for name in names)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "mixed"]


def test_a_mixture_can_be_mixed_exported_and_trained_on(places, tmp_path, vigc_folder):
    first, second, alone = tmp_path / "first", tmp_path / "second", tmp_path / "alone"
    given = [FILES / "conversation_58k.json", "--image-root", places / "coco", "-o", alone]
    result = CliRunner().invoke(app, ["mix", *map(str, given)])
    assert result.exit_code == 0 and len(load_dataset(str(alone), split="train")) == 4, result.output
    run(places, "--add", "detail=2", "-o", first)
    run(places, "--add", "conversation", "--images", "embed", "-o", second, base=(first,))
    table = pq.read_table(second / "data")
    assert all(one["bytes"] for one in table.column("image").to_pylist()) and table.num_rows == 4 + 2 + 5
    for layout in ("llava", "trl-sft"):
        result = CliRunner().invoke(app, ["export", str(second), "--format", layout, "-o", str(tmp_path / layout)])
        assert result.exit_code == 0, result.output
    entries = json.loads((tmp_path / "llava" / "conversations.json").read_text(encoding="utf-8"))
    original = json.loads((FILES / "conversation_58k.json").read_text(encoding="utf-8"))
    assert entries[:3] == original[:3] and len(entries) == 3 + 2 + 5
    assert len(load_dataset(str(tmp_path / "trl-sft"), split="train")) == 10
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"model: {vigc_folder}\noutput_dir: {tmp_path}/run\ndata: [{{dataset: {second}}}]\nuse_cpu: true\n"
        "eval_strategy: 'no'\nload_best_model_at_end: false\n",
        encoding="utf-8",
    )
    result = CliRunner().invoke(app, ["train", str(recipe), "--dry-run"])
    assert result.exit_code == 0 and "11 rows" in result.output, result.output


def test_mistakes_are_said_in_a_sentence(places, tmp_path):
    output = ("-o", tmp_path / "out")
    for message, given in (
        ("give --from together with", ()),
        ("'detail=many': give each task type once", ("--add", "detail=many")),
        ("'detail': give each task type once", ("--replace", "detail")),
        ("0 instances of type detail are requested", ("--replace", "detail=0")),
        (
            "9 instances of type detail are requested, but apart from those in the base, extra has 5",
            ("--add", "detail=9"),
        ),
        ("images='zip'", ("--add", "detail", "--images", "zip")),
        ("layout 'xml'", ("--add", "detail", "--layout", "xml")),
        ("cannot be read as a dataset", ("--add", "detail", "--from", tmp_path / "nowhere")),
        ("none of the images", ("--add", "detail", "--image-root", tmp_path)),
    ):
        assert message in run(places, *given, *output, code=2)
    bare = CliRunner().invoke(app, ["mix", str(FILES / "detail_23k.json"), "--from", "x", "--add", "detail", "-o", "y"])
    assert bare.exit_code == 2 and "give the folder that they lie in (--image-root)" in bare.output
    assert not (tmp_path / "out").exists()
