"""`vigc export`: layouts of other trainers and the way back: nothing read is lost, and pairs keep to the rule."""

import io
import json
import subprocess
import sys
from pathlib import Path

import forks
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dataset_rows import generated, picture, write
from datasets import load_dataset
from PIL import Image
from typer.testing import CliRunner

from vigc.cli.root import app
from vigc.errors import ExportError, LayoutError
from vigc.exports.export import export_dataset
from vigc.formats.finevision import FINEVISION_FEATURES, finevision_record, rows_from_finevision
from vigc.formats.llava import llava_entry, rows_from_llava
from vigc.formats.preferences import PreferenceRule
from vigc.formats.table import EXPORTS
from vigc.formats.trl import DPO_FEATURES, SFT_FEATURES, rows_from_trl, sft_record
from vigc.processing import TRAIN_FEATURES


def records_of(folder):
    return [row for path in sorted(folder.glob("data/*.parquet")) for row in pq.read_table(path).to_pylist()]


def said(role, content):
    return {"role": role, "content": content}


# LLaVA

TALK = [
    {"from": "human", "value": "<image>\nWhat is it?"},
    {"from": "gpt", "value": "A cat."},
    {"from": "human", "value": "Where?"},
    {"from": "gpt", "value": "On a mat. "},
]
LLAVA = [
    {"id": "000000033471", "image": "000000033471.jpg", "conversations": TALK},
    {"id": 7, "image": "coco/train2014/COCO_train2014_000000000007.jpg", "conversations": TALK[2:]},
    {"id": 7, "image": "again.png", "model": None, "score": 0.5, "conversations": TALK[:2], "tags": ["a", {"b": 1}]},
    {"conversations": [{"value": "No picture, 2 + 2?", "from": "human"}, {"value": "4", "from": "gpt"}], "id": "text"},
    {"id": "end", "image": "a.png", "conversations": [{"from": "human", "value": "What?\n<image>"}, TALK[1]]},
    {"id": "amid", "image": "a.png", "conversations": [{"from": "human", "value": "In <image> what?"}, TALK[1]]},
    {"id": "twice", "image": "a.png", "conversations": [{"from": "human", "value": "<image><image>a"}, TALK[1]]},
    {
        "id": "spoken",
        "image": "ä/ü.png",
        "conversations": [
            {"from": "system", "value": "Be short."},
            {"from": "user", "value": "\t<image>\n\n Was ist es? ", "weight": 0},
            {"from": "assistant", "value": "\nEine Katze 🐈\n\nGroß.\n"},
            {"from": "human", "value": "unanswered"},
            {"from": "human", "value": "again"},
            {"from": "gpt", "value": "x", "weight": 1},
            {"from": "human", "value": "left open"},
        ],
    },
]


def read(entries):
    rows = []
    for index, entry in enumerate(entries):
        image = {"bytes": picture("red"), "path": None} if "image" in entry else None
        rows.append(
            rows_from_llava(
                entry, conversation_id=f"llava/{index}", type="conversation", source="llava", license="x", image=image
            )
        )
    return rows


def test_llava_is_read_as_questions_with_answers():
    rows = read(LLAVA)
    assert [len(conversation) for conversation in rows] == [2, 1, 1, 1, 1, 1, 1, 2]
    assert {tuple(row) for conversation in rows for row in conversation} == {tuple(TRAIN_FEATURES)}
    pairs = [(row["question"], row["answers"]) for conversation in rows for row in conversation]
    assert pairs[:2] == [("What is it?", ["A cat."]), ("Where?", ["On a mat."])]
    assert pairs[4:8] == [
        ("No picture, 2 + 2?", ["4"]),
        ("What?", ["A cat."]),
        ("In what?", ["A cat."]),
        ("a", ["A cat."]),
    ]
    assert pairs[8:] == [("Was ist es?", ["Eine Katze 🐈\n\nGroß."]), ("again", ["x"])]
    assert [row["image_id"] for row, *_ in rows][:4] == ["000000033471", "000000000007", "again", None]
    assert rows[3][0]["image"] is None


def test_llava_through_rows_and_a_folder_comes_back_equal(tmp_path):
    rows = [row for conversation in read(LLAVA) for row in conversation]
    source = tmp_path / "source"
    # A conversation may run from one file into the next.
    write(source, rows[:1], TRAIN_FEATURES, "conversation", 0)
    write(source, rows[1:], TRAIN_FEATURES, "conversation", 1)
    done = export_dataset(source, tmp_path / "out", format="llava")
    assert (done.rows, done.records) == (len(rows), len(LLAVA))
    text = (tmp_path / "out" / "conversations.json").read_text(encoding="utf-8")
    assert json.loads(text) == LLAVA
    assert [list(entry) for entry in json.loads(text)] == [list(entry) for entry in LLAVA], "fields in their order"
    files = {path.relative_to(tmp_path / "out" / "images").as_posix() for path in (tmp_path / "out").rglob("*.*g")}
    assert files == {entry["image"] for entry in LLAVA if "image" in entry}
    export_dataset(source, tmp_path / "bare", format="llava", pictures=False)
    assert (tmp_path / "bare" / "conversations.json").read_text(encoding="utf-8") == text
    assert not (tmp_path / "bare" / "images").exists()


def test_corrected_texts_take_the_place_of_those_that_were_read():
    rows = [{**row, "answer": f"{row['answers'][0]} Sure."} for row in read(LLAVA)[0]]
    entry = llava_entry(rows, None)
    assert [turn["value"] for turn in entry["conversations"]] == [
        "<image>\nWhat is it?",
        "A cat. Sure.",
        "Where?",
        "On a mat. Sure. ",
    ]
    asked = [{**row, "question": "Why?"} for row in read(LLAVA)[5]]
    assert llava_entry(asked, None)["conversations"][0]["value"] == "<image>\nWhy?"


def test_the_image_mark_survives_its_turn():
    rows = read(LLAVA)[0][1:]
    assert llava_entry(rows, None)["conversations"][0]["value"] == "<image>\nWhere?"
    assert "<image>" not in llava_entry(read(LLAVA)[1], None)["conversations"][0]["value"], "it had none"


def test_rows_of_ours_become_entries_of_the_same_form(tmp_path):
    rows = [generated(0), generated(1, image={"bytes": picture("blue", "JPEG"), "path": None})]
    export_dataset(write(tmp_path / "rows", rows), tmp_path / "out", format="llava")
    entries = json.loads((tmp_path / "out" / "conversations.json").read_text())
    names = [entry["image"] for entry in entries]
    assert names[0].endswith(".png") and names[1].endswith(".jpg")
    assert [(tmp_path / "out" / "images" / name).read_bytes() for name in names] == [
        row["image"]["bytes"] for row in rows
    ]
    assert entries[0] == {
        "id": f"{0:032x}",
        "image": names[0],
        "image_id": "img_0",
        "type": "detail",
        "source": "photos",
        "license": "cc0-1.0",
        "model": "vigc-7b",
        "conversations": [
            {"from": "human", "value": "<image>\nWhat is in picture 0?"},
            {"from": "gpt", "value": "A grey cat sleeps."},
        ],
    }
    again = rows_from_llava(entries[0], conversation_id="0", type="detail", source="x")
    assert llava_entry(again, None) == entries[0]


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (7, "it is 7, but an object"),
        ({"image": ["a", "b"], "conversations": TALK}, r"'image' is \['a', 'b'\], but the name of one"),
        ({"image": "a"}, "'conversations' is None"),
        ({"conversations": []}, "no 'human' that a 'gpt' answers"),
        ({"conversations": [{"from": "gpt", "value": "a"}, {"from": "human", "value": "b"}]}, r"\['gpt', 'human'\]"),
        ({"conversations": [{"from": "human"}]}, r"'conversations\[0\].value' is None"),
        ({"conversations": ["a"]}, r"'conversations\[0\].value' is None"),
        ({"conversations": [{"from": "human", "value": "<image>"}, TALK[1]]}, "question of pair 0.*is empty"),
        ({"conversations": [TALK[0], {"from": "gpt", "value": " \n"}]}, "answer of pair 0"),
        ({"conversations": [{"from": "human", "value": "a\ud83d"}, TALK[1]]}, "lone surrogate"),
    ],
)
def test_what_is_no_conversation_is_refused(entry, reason):
    with pytest.raises(LayoutError, match=reason):
        rows_from_llava(entry, conversation_id="x", type="detail", source="s")


@pytest.mark.parametrize("name", ["../up.png", "/etc/x.png", "a/../../b.png", "c:x.png", "a\\b.png", ""])
def test_no_picture_is_written_outside_of_the_folder(name, tmp_path):
    (rows,) = read([{"id": 1, "image": name, "conversations": TALK[:2]}])
    write(tmp_path / "rows", rows, TRAIN_FEATURES)
    with pytest.raises(ExportError, match="is outside the folder: give --no-pictures"):
        export_dataset(tmp_path / "rows", tmp_path / "out", format="llava")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rows"], "nothing half-written is left"
    export_dataset(tmp_path / "rows", tmp_path / "out", format="llava", pictures=False)
    assert json.loads((tmp_path / "out" / "conversations.json").read_text())[0]["image"] == name


def test_two_pictures_of_one_name_are_refused(tmp_path):
    rows = [row for conversation in read([LLAVA[0], LLAVA[0]]) for row in conversation]
    rows[2]["image"] = {"bytes": picture("green"), "path": None}
    write(tmp_path / "rows", rows, TRAIN_FEATURES)
    with pytest.raises(ExportError, match=r"two images have the name '000000033471.jpg'"):
        export_dataset(tmp_path / "rows", tmp_path / "out", format="llava")


# TRL and FineVision


def conversation(kind="conversation"):
    rows = read(LLAVA[:1])[0]
    drafts = ["A dog.", "On a mat."]
    return [
        generated(9, draft, row["answers"][0], kind=kind)
        | {name: row[name] for name in ("question", "conversation_id", "turn", "extra")}
        for row, draft in zip(rows, drafts, strict=True)
    ]


def test_sft_records_are_conversations(tmp_path):
    write(tmp_path / "rows", [generated(0), *conversation("detail"), generated(1)])
    done = export_dataset(tmp_path / "rows", tmp_path / "out", format="trl-sft")
    records = records_of(tmp_path / "out")
    assert (done.rows, done.records, done.format.features) == (4, 3, SFT_FEATURES)
    assert [len(record["messages"]) for record in records] == [2, 4, 2]
    assert records[1] == {
        "images": [{"bytes": picture((9, 9, 9)), "path": None}],
        "messages": [
            said("user", "What is it?"),
            said("assistant", "A cat."),
            said("user", "Where?"),
            said("assistant", "On a mat."),
        ],
        "id": f"{9:032x}",
        "type": "detail",
        "source": "photos",
        "license": "cc0-1.0",
    }
    (text,) = read(LLAVA[3:4])
    assert sft_record(text)["images"] == []


def test_dpo_records_are_what_correction_changed(tmp_path):
    rows = [*conversation("detail"), generated(1), generated(2, gain=-0.5), generated(3, answer="A red cat sleeps!")]
    write(tmp_path / "rows", rows)
    done = export_dataset(tmp_path / "rows", tmp_path / "out", format="trl-dpo")
    first, second = records_of(tmp_path / "out")
    assert done.format.features == DPO_FEATURES and first["prompt"] == [said("user", "What is it?")]
    assert first["chosen"] == [said("assistant", "A cat.")] and first["rejected"] == [said("assistant", "A dog.")]
    assert second["chosen"][0]["content"] == "A grey cat sleeps." and second["id"] == f"{1:032x}"
    assert done.left_out == {
        "not edited, or in case and punctuation alone": 2,
        "the logprob score disagrees": 1,
    }


def test_a_later_turn_is_asked_after_the_earlier_ones(tmp_path):
    rows = conversation("detail")
    rows[1] |= {"draft": "On a bed.", "answer": "On a mat."}
    write(tmp_path / "rows", rows)
    export_dataset(tmp_path / "rows", tmp_path / "out", format="trl-dpo")
    prompts = [record["prompt"] for record in records_of(tmp_path / "out")]
    assert prompts[1] == [said("user", "What is it?"), said("assistant", "A cat."), said("user", "Where?")]


@pytest.mark.parametrize(
    ("draft", "answer", "rule", "reason"),
    [
        ("A red cat.", "A grey cat.", {}, None),
        ("A red cat.", "a  RED cat", {}, "not edited"),
        ("", "A cat.", {}, "no draft"),
        (None, "A cat.", {}, "no draft"),
        ("A cat. It sleeps.", "A cat.", {}, "only cut short or continued"),
        ("A cat.", "A cat. It sleeps.", {}, "only cut short or continued"),
        ("A cat. It sleeps.", "A cat.", {"keep_cuts": True}, None),
        ("A cat. It sleeps.", "A dog.", {}, None),
        ("One two three.", "One 2 three.", {"min_words": 2}, "fewer than 2 words"),
        ("One two three.", "One 2 3.", {"min_words": 2}, None),
        ("One two three four.", "One four.", {"min_words": 2}, None),
        ("Der Hund.", "Die Katze.", {"min_words": 2}, None),
    ],
)
def test_an_edit_must_be_material(draft, answer, rule, reason):
    refusal = PreferenceRule(**rule).refusal(generated(0, draft, answer))
    assert refusal is None if reason is None else reason in refusal


@pytest.mark.parametrize(
    ("scores", "rule", "reason"),
    [
        ((-0.5, -0.4, None), {}, None),
        ((-0.5, -0.5, None), {}, "disagrees"),
        ((-0.5, -0.6, None), {}, "disagrees"),
        ((-0.5, -0.6, None), {"min_gain": -0.2}, None),
        ((-0.5, -0.4, None), {"min_gain": 0.2}, "disagrees"),
        ((None, -0.4, None), {}, "has no logprob score"),
        ((-0.5, float("nan"), None), {}, "disagrees"),
        ((-0.5, -0.4, None), {"score": "visual-dependency"}, "has no visual-dependency score"),
        ((-0.5, -0.9, 0.3), {"score": "visual-dependency"}, None),
        ((-0.5, -0.4, -0.1), {"score": "visual-dependency"}, "disagrees"),
        ((None, None, None), {"score": "none"}, None),
    ],
)
def test_a_score_must_agree(scores, rule, reason):
    row = generated(0, scores=dict(zip(("draft_logprob", "answer_logprob", "visual_dependency"), scores, strict=True)))
    refusal = PreferenceRule(**rule).refusal(row)
    assert refusal is None if reason is None else reason in refusal


def test_finevision_has_its_columns(tmp_path):
    write(tmp_path / "rows", conversation("detail"))
    done = export_dataset(tmp_path / "rows", tmp_path / "out", format="finevision")
    (record,) = records_of(tmp_path / "out")
    assert done.format.features == FINEVISION_FEATURES and list(record) == list(FINEVISION_FEATURES)
    assert record["texts"] == [
        {"user": "What is it?", "assistant": "A cat."},
        {"user": "Where?", "assistant": "On a mat."},
    ]
    assert record["source"] == "photos" and record["relevance_ratings"] is record["formatting_min"] is None


FINE = {
    "images": [{"bytes": b"x", "path": None}],
    "texts": [{"user": "a?", "assistant": "b"}, {"user": "c?", "assistant": "d"}],
    "source": "ai2d",
    "relevance_ratings": [5, 4],
    "relevance_min": 4,
    "image_correspondence_ratings": [1, None],
    "image_correspondence_min": 1,
    "visual_dependency_ratings": None,
    "visual_dependency_min": None,
    "formatting_ratings": [3, 3],
    "formatting_min": 3,
}


def test_finevision_and_back():
    rows = rows_from_finevision(FINE, conversation_id="f/0", type="conversation", license="y")
    assert [(row["question"], row["answers"], row["turn"]) for row in rows] == [("a?", ["b"], 0), ("c?", ["d"], 1)]
    assert {tuple(sorted(row)) for row in rows} == {tuple(sorted(TRAIN_FEATURES))}
    assert finevision_record(rows) == FINE
    corrected = finevision_record([rows[0], {**rows[1], "answer": "other"}])
    assert corrected["relevance_ratings"] == [5, None] and corrected["relevance_min"] == 5
    with pytest.raises(LayoutError, match="it has 2 images"):
        rows_from_finevision({**FINE, "images": [1, 2]}, conversation_id="f", type="detail")
    with pytest.raises(LayoutError, match="'texts' is"):
        rows_from_finevision({"images": [], "texts": []}, conversation_id="f", type="detail")


def test_trl_and_back(tmp_path):
    rows = conversation("detail")
    write(tmp_path / "rows", rows)
    for layout in ("trl-sft", "trl-dpo"):
        export_dataset(tmp_path / "rows", tmp_path / layout, format=layout)
    (chat,), (pair,) = (records_of(tmp_path / layout) for layout in ("trl-sft", "trl-dpo"))
    back = rows_from_trl(chat, conversation_id="c")
    assert [(row["question"], row["answers"][0]) for row in back] == [(row["question"], row["answer"]) for row in rows]
    assert [row["turn"] for row in back] == [0, 1] and back[0]["image"] == rows[0]["image"]
    assert sft_record(back) == chat
    (row,) = rows_from_trl(pair, conversation_id="c")
    assert (row["question"], row["draft"], row["answer"]) == ("What is it?", "A dog.", "A cat.")
    parts = [{"type": "image"}, {"type": "text", "text": "What?"}]
    typed = {"image": 1, "prompt": [said("system", "Be brief."), said("user", parts)], "completion": "A cat."}
    (row,) = rows_from_trl(typed, conversation_id="c", type="detail")
    assert (row["question"], row["answers"], row["image"], row["type"]) == ("What?", ["A cat."], 1, "detail")
    assert sft_record([row])["messages"] == [*typed["prompt"][:1], said("user", "What?"), said("assistant", "A cat.")]
    with pytest.raises(LayoutError, match="it has 'text', but 'messages'"):
        rows_from_trl({"text": "x"}, conversation_id="c")
    with pytest.raises(LayoutError, match=r"its turns have the roles \['user', 'user'\]"):
        rows_from_trl({"messages": [said("user", "a"), said("user", "b")]}, conversation_id="c")


# The folder


def test_an_export_loads_in_another_process_and_its_card_is_true(tmp_path):
    rows = [generated(index, license="cc0-1.0" if index else None) for index in range(5)]
    write(tmp_path / "rows", rows)
    result = call("export", tmp_path / "rows", "--format", "trl-dpo", "--output", tmp_path / "pairs")
    assert result.exit_code == 0, result.output
    assert "5 records from 5 rows" in result.output
    code = "import sys; from datasets import load_dataset; d = load_dataset(sys.argv[1], split='train'); "
    code += "print(len(d), *d.column_names, d[0]['images'][0].size)"
    found = forks.run("-c", code, tmp_path / "pairs")
    assert found.stdout.split() == ["5", *DPO_FEATURES, "(48,", "32)"]
    card = (tmp_path / "pairs" / "README.md").read_text(encoding="utf-8")
    assert "license: unknown" in card and "| 4 | cc0-1.0 |" in card and "| 1 | unknown |" in card
    assert "exceeds that of the draft by more than 0.0" in card and "num_examples: 5" in card
    for layout in ("llava", "trl-sft", "finevision"):
        call("export", tmp_path / "rows", "--format", layout, "--output", tmp_path / layout)
        card = (tmp_path / layout / "README.md").read_text(encoding="utf-8")
        assert "5 records from 5 rows" in card and ("conversations.json" in card) == (layout == "llava")


def call(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--format", "poem"), "format 'poem' is not known: use one of trl-sft"),
        (("--format", "trl-dpo", "--score", "luck"), "score 'luck' is not known: use one of logprob"),
        (("--format", "trl-dpo", "--min-words", "0"), "min_words=0 is too small"),
        (("--format", "trl-dpo", "--min-gain", "9"), "none of 2 rows makes a preference pair (2 the logprob score"),
        (("--format", "llava", "--types", "poem"), "has no rows of type poem"),
        (("--format", "llava", "-o", "{rows}"), "exists: give a new or empty folder"),
    ],
)
def test_mistakes_cost_one_sentence(options, reason, tmp_path):
    write(tmp_path / "rows", [generated(0), generated(1)])
    options = [option.format(rows=tmp_path / "rows") for option in options]
    result = call("export", tmp_path / "rows", "-o", tmp_path / "out", *options)
    assert result.exit_code == 2 and reason in result.stderr and result.stderr.count("\n") == 1, result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rows"]


def test_folders_that_hold_no_rows_are_refused(tmp_path):
    with pytest.raises(ExportError, match="is not a folder"):
        export_dataset(tmp_path / "no", tmp_path / "out", format="llava")
    (tmp_path / "rows").mkdir()
    with pytest.raises(ExportError, match="has no parquet files"):
        export_dataset(tmp_path / "rows", tmp_path / "out", format="llava")
    pq.write_table(pa.table({"a": [1]}), tmp_path / "rows" / "x.parquet")
    with pytest.raises(ExportError, match="has the columns a: 'image', 'question'"):
        export_dataset(tmp_path / "rows", tmp_path / "out", format="llava")
    (tmp_path / "rows" / "x.parquet").write_bytes(b"broken")
    with pytest.raises(ExportError, match=r"x.parquet' cannot be read"):
        export_dataset(tmp_path / "rows", tmp_path / "out", format="llava")


def test_conversations_out_of_order_are_refused(tmp_path):
    write(tmp_path / "rows", conversation("detail")[::-1])
    with pytest.raises(ExportError, match=r"has the turns \[1, 0\]: sort its rows by 'turn'"):
        export_dataset(tmp_path / "rows", tmp_path / "out", format="trl-sft")


def test_pictures_that_rows_only_name(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(picture("red"))
    write(tmp_path / "rows", [generated(0, image={"bytes": None, "path": "a.png"})])
    job = {"format": "trl-sft", "image_root": tmp_path / "photos"}
    export_dataset(tmp_path / "rows", tmp_path / "out", **job)
    assert records_of(tmp_path / "out")[0]["images"] == [{"bytes": picture("red"), "path": None}]
    with pytest.raises(ExportError, match=r"a.png' cannot be read.*--image-root"):
        export_dataset(tmp_path / "rows", tmp_path / "bare", format="trl-sft")
    export_dataset(tmp_path / "rows", tmp_path / "bare", format="llava", pictures=False)
    assert json.loads((tmp_path / "bare" / "conversations.json").read_text())[0]["image"] == "a.png"
    write(tmp_path / "rows", [generated(0, image={"bytes": None, "path": "../photos/a.png"})])
    with pytest.raises(ExportError, match="is a path out of the folder"):
        export_dataset(tmp_path / "rows", tmp_path / "up", format="trl-sft")


@pytest.mark.parametrize("layout", EXPORTS)
def test_a_picture_that_is_gone_sets_its_rows_aside(layout, tmp_path):
    """A conversation goes as a whole: without one of its turns it would be another."""
    talk = [row | {"image": {"bytes": None, "path": "gone.png"}} for row in conversation("detail")]
    other = generated(2, image={"bytes": None, "path": "cut.png"})
    (tmp_path / "cut.png").write_bytes(picture("red")[:40])
    write(tmp_path / "rows", [generated(0), *talk, generated(1), other])
    asked = ("export", tmp_path / "rows", "-f", layout, "--image-root", tmp_path)
    result = call(*asked, "-o", tmp_path / "out")
    assert result.exit_code == 3 and "2 records from 5 rows" in result.output, result.output
    assert "2 skipped: its image cannot be read (No such file or directory)" in result.output
    assert "1 skipped: its image is a PNG file that is truncated or corrupt" in result.output
    assert "First error: image 'gone.png'" in result.stderr
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "| 2 | cannot be read (No such file or directory) |" in card and "| 2 | cc0-1.0 |" in card
    if layout == "llava":  # which may name pictures without reading them
        assert call(*asked, "-o", tmp_path / "named", "--no-pictures").exit_code == 0
        entries = json.loads((tmp_path / "named" / "conversations.json").read_text())
        assert len(entries) == 4 and entries[3]["image"] == "cut.png"
    else:
        rows = load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))
        assert rows[1]["images"][0].size == (48, 32)


def test_what_a_killed_export_left_is_removed_and_a_living_one_is_let_be(tmp_path):
    """Told by its lock: in a container every export may have the same process number."""
    write(tmp_path / "rows", [generated(0)])
    code = """
import os, signal, sys
from pathlib import Path
from vigc.exports.export import export_dataset
def card(folder, done):
    print("writing", flush=True)
    signal.pause()
export_dataset(sys.argv[1], sys.argv[2], format="llava", card=card)
"""
    asked = ("export", tmp_path / "rows", "-f", "llava", "-o", tmp_path / "out")
    with forks.popen("-c", code, tmp_path / "rows", tmp_path / "out", stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == "writing\n"
        result = call(*asked)
        assert result.exit_code == 5 and "is being written by another process" in result.stderr
        assert (tmp_path / ".out.tmp" / "conversations.json").exists()
        process.kill()
    assert (tmp_path / ".out.tmp").exists()
    assert call(*asked).exit_code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "rows"]


def test_a_machine_in_trouble_sets_no_row_aside(tmp_path, monkeypatch):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(picture("red"))
    write(tmp_path / "rows", [generated(0), generated(1, image={"bytes": None, "path": "a.png"})])

    def fail(path):
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(Path, "read_bytes", fail)
    options = ("-f", "trl-sft", "-o", tmp_path / "out", "--image-root", tmp_path / "photos")
    result = call("export", tmp_path / "rows", *options)
    assert result.exit_code == 75 and "Too many open files" in result.stderr
    assert not (tmp_path / "out").exists()


def test_large_exports_are_several_files(tmp_path, monkeypatch):
    from vigc.exports import export

    monkeypatch.setattr(export, "_FILE_BYTES", 1)
    rows = [generated(index) for index in range(150)]
    write(tmp_path / "rows", rows)
    done = export_dataset(tmp_path / "rows", tmp_path / "out", format="trl-sft")
    assert len(list((tmp_path / "out" / "data").iterdir())) == 3 and done.records == 150
    assert [record["id"] for record in records_of(tmp_path / "out")] == [row["id"] for row in rows]
    assert len(load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))) == 150


@pytest.mark.parametrize("large", [24, pytest.param(40, marks=pytest.mark.slow)])
def test_memory_does_not_grow_with_the_rows(tmp_path, large):
    code = """
import resource, sys
from vigc.exports.export import export_dataset
export_dataset(sys.argv[1], sys.argv[2], format="trl-sft")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
    noise = Image.effect_noise((256, 256), 90).convert("RGB")
    buffer = io.BytesIO()
    noise.save(buffer, "PNG")
    rows = [generated(index, image={"bytes": buffer.getvalue(), "path": None}) for index in range(100)]
    peaks = []
    for name, parts in (("small", 4), ("large", large)):
        for part in range(parts):
            write(tmp_path / name, rows, part=part)
        command = [sys.executable, "-c", code, str(tmp_path / name), str(tmp_path / f"{name}-out")]
        peaks.append(int(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    written = len(buffer.getvalue()) * 100 * large / 1024
    assert peaks[1] - peaks[0] < written / 4, (
        f"{peaks} KiB for 400 and {100 * large:,} rows, {written:.0f} KiB of pictures"
    )


@pytest.mark.parametrize("layout", EXPORTS)
def test_an_interrupted_export_leaves_nothing(layout, tmp_path, monkeypatch):
    from vigc.exports import export

    def fail(file):
        raise OSError(28, "No space left on device")

    write(tmp_path / "rows", [generated(0)])
    monkeypatch.setattr(export, "_sync", fail)
    result = call("export", tmp_path / "rows", "-f", layout, "-o", tmp_path / "out")
    assert result.exit_code == 75 and "No space left on device" in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rows"]
