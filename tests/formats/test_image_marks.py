"""Image marks in texts: an unchanged text comes back verbatim, a changed or new one is marked once per image."""

import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, Features, Image, List, Value
from PIL import Image as Pictures
from scripted import ScriptedModel, ScriptedProcessor

from vigc.exports.export import export_dataset
from vigc.formats import source_records
from vigc.formats.finevision import finevision_record, rows_from_finevision
from vigc.formats.image_marks import around, filled, unmarked
from vigc.formats.llava import llava_entry, rows_from_llava
from vigc.formats.preferences import PreferenceRule
from vigc.formats.stable_llava import read_stable_llava
from vigc.formats.trl import dpo_records, rows_from_trl, sft_record
from vigc.formats.vqa import read_vigc
from vigc.generation import correct_dataset
from vigc.processing import GENERATED_FEATURES, TRAIN_FEATURES

# By where the marks are: the texts of a conversation's turns, human and gpt in turn.
TALKS = {
    "front": ["<image>\nWhat?", "A cat.", "Why?", "It sleeps."],
    "end": ["What?\n<image>", "A cat."],
    "later": ["Hello.", "Hi.", "<image>\nWhat?", "A cat."],
    "amid": ["In <image> what?", "A cat."],
    "two": ["<image><image>What?", "A cat."],
    "both ends": ["<image> What? <image>", "A cat."],
    "every turn": ["<image>\nWhat?", "A cat.", "Why?\n<image>", "It sleeps."],
    "answer": ["<image>\nWhat?", "<image> A cat.", "Why?", "It <image> sleeps."],
    "answer alone": ["What?", "A cat. <image>"],
    "none": ["What?", "A cat."],
    "name": ["<image>\nimage", "image"],
}
QUESTIONS = {name: [unmarked(text) for text in talk[::2]] for name, talk in TALKS.items()}
RULE = PreferenceRule(score="none")


def entry(name, talk, image="a.png"):
    turns = [{"from": ("human", "gpt")[index % 2], "value": text} for index, text in enumerate(talk)]
    return {"id": name, **({"image": image} if image else {}), "conversations": turns}


def values(entry):
    return [turn["value"] for turn in entry["conversations"]]


def marks(texts):
    return sum(text.count("<image>") for text in texts)


@pytest.fixture(scope="module")
def png():
    buffer = io.BytesIO()
    Pictures.new("RGB", (24, 16), "red").save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def corrected(png, tmp_path_factory):
    """A LLaVA file with all talks, a text without image behind them, as `vigc correct` answers it again."""
    folder = tmp_path_factory.mktemp("marks")
    (folder / "a.png").write_bytes(png)
    entries = [entry(name, talk) for name, talk in TALKS.items()]
    entries.append(entry("no image", ["What is <image> in a chat?", "A <image> mark."], None))
    (folder / "chats.json").write_text(json.dumps(entries))
    job = {"model": ScriptedModel(malformed=0), "processor": ScriptedProcessor()}
    correct_dataset(folder / "chats.json", folder / "out", **job)
    return folder / "out"


def rows_of(folder):
    return [row for file in sorted(folder.glob("*/train-*.parquet")) for row in pq.read_table(file).to_pylist()]


def test_questions_and_answers_hold_no_mark(corrected):
    rows = rows_of(corrected)
    assert [row["question"] for row in rows][:-1] == [text for texts in QUESTIONS.values() for text in texts]
    said = [row["draft"] for row in rows][:-1]
    assert said == [unmarked(text) for talk in TALKS.values() for text in talk[1::2]]
    assert not any("<image>" in turn["content"] for row in rows for turn in row["messages"])


def test_corrected_llava_keeps_unchanged_turns_and_marks_each_image_once(corrected, tmp_path):
    export_dataset(corrected, tmp_path / "out", format="llava")
    back = {item["id"]: values(item) for item in json.loads((tmp_path / "out" / "conversations.json").read_text())}
    assert back.pop("no image") == ["What is <image> in a chat?", "A <image> mark."]
    for name, talk in TALKS.items():
        assert back[name][::2] == talk[::2], f"{name}: the questions were not changed"
        assert all(unmarked(text).startswith("It is ") for text in back[name][1::2])
        assert marks(back[name][1::2]) == (name == "answer alone"), name


def test_other_layouts_hold_no_mark_beside_their_images(corrected, tmp_path):
    for layout in ("trl-sft", "trl-dpo", "finevision"):
        export_dataset(corrected, tmp_path / layout, format=layout, rule=RULE)
        text = json.dumps([{**row, "images": len(row["images"])} for row in rows_of(tmp_path / layout)])
        assert "<image>" not in text and '"images": 1' in text


@pytest.mark.parametrize("name", TALKS)
def test_entries_come_back_verbatim(name):
    one = entry(name, TALKS[name])
    rows = rows_from_llava(one, conversation_id="c", type="detail", source="s")
    assert llava_entry(rows, None) == one
    text_only = entry(name, TALKS[name], None)
    assert llava_entry(rows_from_llava(text_only, conversation_id="c", type="", source=""), None) == text_only


@pytest.mark.parametrize(
    ("name", "edited"),
    [
        ("front", ["<image>\nA?", "B.", "A?", "B."]),
        ("end", ["A?\n<image>", "B."]),
        ("later", ["A?", "B.", "<image>\nA?", "B."]),
        ("amid", ["<image>\nA?", "B."]),
        ("two", ["<image>\nA?", "B."]),
        ("both ends", ["<image>\nA?", "B."]),
        ("every turn", ["<image>\nA?", "B.", "A?", "B."]),
        ("answer", ["<image>\nA?", "B.", "A?", "B."]),
        ("answer alone", ["A?", "B.\n<image>"]),
        ("none", ["A?", "B."]),
        ("name", ["<image>\nA?", "B."]),
    ],
)
@pytest.mark.parametrize(("question", "answer"), [("A?", "B."), ("<image> A?", "B. <image><image>")])
def test_texts_that_are_all_edited_are_marked_once(name, edited, question, answer):
    rows = rows_from_llava(entry(name, TALKS[name]), conversation_id="c", type="detail", source="s")
    changed = [{**row, "question": question, "answer": answer} for row in rows]
    assert values(llava_entry(changed, None)) == edited


def test_an_edited_turn_beside_a_turn_that_marks_the_image_gets_no_mark():
    rows = rows_from_llava(entry("x", TALKS["every turn"]), conversation_id="c", type="detail", source="s")
    later = [rows[0], {**rows[1], "question": "Where?"}]
    assert values(llava_entry(later, None)) == ["<image>\nWhat?", "A cat.", "Where?", "It sleeps."]


def test_a_mark_outlives_its_turn_wherever_that_was():
    rows = rows_from_llava(entry("x", TALKS["later"]), conversation_id="c", type="detail", source="s")
    assert values(llava_entry(rows[:1], None)) == ["<image>\nHello.", "Hi."]
    rows = rows_from_llava(entry("x", TALKS["every turn"]), conversation_id="c", type="detail", source="s")
    assert values(llava_entry(rows[1:], None)) == ["Why?\n<image>", "It sleeps."]


@pytest.mark.parametrize("features", [TRAIN_FEATURES, GENERATED_FEATURES])
@pytest.mark.parametrize("name", TALKS)
def test_new_entries_are_marked_once_in_front(name, features, png, tmp_path):
    """Rows of any origin, whose texts may hold marks themselves."""
    talk = TALKS[name]
    rows = [
        {
            "image": {"bytes": png, "path": None},
            "image_id": "1",
            "type": "detail",
            "question": asked,
            "answer": said,
            "answers": [said],
            "conversation_id": "c",
            "turn": turn,
        }
        for turn, (asked, said) in enumerate(zip(talk[::2], talk[1::2], strict=True))
    ]
    (tmp_path / "rows").mkdir()
    table = pa.Table.from_pylist(rows, schema=features.arrow_schema)
    pq.write_table(table, tmp_path / "rows" / "train-0.parquet")
    plain = [unmarked(text) for text in talk]
    export_dataset(tmp_path / "rows", tmp_path / "llava", format="llava")
    (made,) = json.loads((tmp_path / "llava" / "conversations.json").read_text())
    assert values(made) == [f"<image>\n{plain[0]}", *plain[1:]]
    for layout in ("trl-sft", "finevision"):
        export_dataset(tmp_path / "rows", tmp_path / layout, format=layout)
    (chat,), (fine,) = rows_of(tmp_path / "trl-sft"), rows_of(tmp_path / "finevision")
    assert [turn["content"] for turn in chat["messages"]] == plain
    assert [text for pair in fine["texts"] for text in (pair["user"], pair["assistant"])] == plain


def said(role, content):
    return {"role": role, "content": content}


def chat(name):
    roles = ("user", "assistant")
    return [said(roles[index % 2], text) for index, text in enumerate(TALKS[name])]


def pairs(name):
    return [
        {"user": talk, "assistant": answer} for talk, answer in zip(TALKS[name][::2], TALKS[name][1::2], strict=True)
    ]


@pytest.mark.parametrize("name", TALKS)
def test_trl_and_finevision_come_back_verbatim_and_lose_marks_elsewhere(name):
    plain = [unmarked(text) for text in TALKS[name]]
    record = {"images": [1], "messages": chat(name)}
    rows = rows_from_trl(record, conversation_id="c", type="detail")
    assert [row["question"] for row in rows] == plain[::2] and [row["answers"][0] for row in rows] == plain[1::2]
    assert sft_record(rows)["messages"] == record["messages"]
    assert values(llava_entry([{**row, "image_id": "1"} for row in rows], "a.png")) == [
        f"<image>\n{plain[0]}",
        *plain[1:],
    ]
    fine = {"images": [1], "texts": pairs(name), "source": "s", "relevance_ratings": [5] * len(pairs(name))}
    rows = rows_from_finevision(fine, conversation_id="c", type="detail")
    assert [row["question"] for row in rows] == plain[::2]
    again = finevision_record(rows)
    assert again["texts"] == fine["texts"] and again["relevance_ratings"] == fine["relevance_ratings"]
    assert [turn["content"] for turn in sft_record(rows)["messages"]] == plain
    edited = finevision_record([{**row, "answer": "New."} for row in rows])
    assert [text["user"] for text in edited["texts"]] == TALKS[name][::2] and edited["relevance_ratings"] is None


def test_a_preference_pair_comes_back_verbatim():
    record = {
        "images": [1],
        "prompt": chat("front")[:3],
        "chosen": [said("assistant", "<image> It sleeps.")],
        "rejected": [said("assistant", "It <image> eats.")],
    }
    rows = rows_from_trl(record, conversation_id="c", type="detail")
    assert (rows[-1]["draft"], rows[-1]["answer"]) == ("It eats.", "It sleeps.")
    back = [made for made in dpo_records(rows, RULE) if not isinstance(made, str)]
    assert [{name: made[name] for name in record} for made in back] == [record]
    corrected = [*rows[:-1], {**rows[-1], "draft": "It sleeps.", "answer": "It runs <image>."}]
    made = list(dpo_records(corrected, RULE))[-1]
    assert made["prompt"] == record["prompt"] and made["chosen"] == [said("assistant", "It runs .")]
    assert made["rejected"] == record["chosen"], "the draft is the text that was read"


def test_chats_with_marks_are_corrected_in_trl_s_columns(png, tmp_path):
    """From parquet through `vigc correct` and back."""
    records = [{"images": [{"bytes": png, "path": None}], "messages": chat(name), "id": name} for name in TALKS]
    features = {"images": List(Image()), "messages": List({"role": Value("string"), "content": Value("string")})}
    Dataset.from_list(records, features=Features({**features, "id": Value("string")})).to_parquet(
        tmp_path / "c.parquet"
    )
    job = {"model": ScriptedModel(malformed=0), "processor": ScriptedProcessor()}
    correct_dataset(tmp_path / "c.parquet", tmp_path / "rows", **job)
    assert [row["question"] for row in rows_of(tmp_path / "rows")] == [
        text for texts in QUESTIONS.values() for text in texts
    ]
    export_dataset(tmp_path / "rows", tmp_path / "out", format="trl-sft")
    for record in rows_of(tmp_path / "out"):
        texts = [turn["content"] for turn in record["messages"]]
        assert texts[::2] == TALKS[record["id"]][::2]
        assert marks(texts[1::2]) == (record["id"] == "answer alone"), record["id"]


def test_stable_llava_and_vigc_files():
    talk = {"id": 1, "image": "a.png", "prompt": "p"}
    for asked, answer, edited in (
        ("<image>\nWhat?", "A cat.", ("<image>\nA?", "B.")),
        ("What?\n<image>", "A <image> cat.", ("A?\n<image>", "B.")),
        ("<image>What?<image>", "<image>", None),
        ("<image>What?<image>", "A cat.", ("<image>\nA?", "B.")),
    ):
        if edited is None:
            with pytest.raises(ValueError, match="'answer' is '<image>', which is empty"):
                list(read_stable_llava({**talk, "question": asked, "answer": answer}))
            continue
        (pair,) = read_stable_llava({**talk, "question": asked, "answer": answer})
        assert (pair.question, pair.answers) == (unmarked(asked), [unmarked(answer)])
        row = {"conversation_id": "c", "extra": json.dumps(pair.extra)}
        (back,) = source_records([{**row, "question": pair.question, "answers": pair.answers}])
        assert back == {**talk, "question": asked, "answer": answer}
        (back,) = source_records([{**row, "question": "A?", "answers": ["B."]}])
        assert (back["question"], back["answer"]) == edited
    flat = {"image": "a.png", "question": "<image> What?", "answer": ["A cat."]}
    (pair,) = read_vigc(flat)
    assert pair.question == "What?"
    row = {"conversation_id": "c", "extra": json.dumps(pair.extra), "answers": pair.answers}
    assert list(source_records([{**row, "question": "What?"}])) == [flat]
    assert [made["question"] for made in source_records([{**row, "question": "Why?"}])] == ["<image> Why?"]
    with pytest.raises(ValueError, match="'question' is ' <image>', which is empty"):
        list(read_vigc({**flat, "question": " <image>"}))


def test_frames_take_time_in_proportion_to_the_text():
    long = f"<image>{' ' * 10**6}What?{' ' * 10**6}is it"
    assert filled(around(long, unmarked(long)), unmarked(long)) == long
