"""`vigc correct` over the datasets of others: what they say of their rows comes back, and what is odd is set aside."""

import io
import json

import pyarrow.parquet as pq
import pytest
from datasets import Dataset, Features, Image, List, Value
from PIL import Image as Pictures
from scripted import ScriptedModel, ScriptedProcessor

from vigc.errors import ExportError
from vigc.exports import export_dataset
from vigc.formats.preferences import PreferenceRule
from vigc.generation import correct_dataset

CHAT = List({"role": Value("string"), "content": Value("string")})


@pytest.fixture
def picture():
    buffer = io.BytesIO()
    Pictures.new("RGB", (24, 16), "red").save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def rows_of(folder):
    return [row for file in sorted(folder.glob("*/train-*.parquet")) for row in pq.read_table(file).to_pylist()]


def said(*turns):
    return [{"role": role, "content": text} for role, text in turns]


def corrected(tmp_path, name, records, columns):
    """The job's folder and what it set aside, from records that are written as parquet."""
    features = Features({"images": List(Image()), **columns})
    Dataset.from_list(records, features=features).to_parquet(tmp_path / f"{name}.parquet")
    settings = {"model": ScriptedModel(), "processor": ScriptedProcessor(), "type": "detail"}
    summary = correct_dataset(tmp_path / f"{name}.parquet", tmp_path / name, **settings)
    return tmp_path / name, [reason for _, reason in summary.skipped]


def exported(folder, layout, **given):
    return rows_of(export_dataset(folder, folder.with_name(f"{folder.name}-{layout}"), format=layout, **given).output)


def test_a_corrected_chat_is_given_back_with_what_it_came_with(picture, tmp_path):
    turns = said(
        ("system", "Be terse."), ("user", "What?"), ("assistant", "A cat."), ("user", "Why?"), ("assistant", "?!")
    )
    records = [
        {"images": [picture], "messages": turns, "id": "x7", "type": "okvqa", "source": "theirs"},
        {"images": [picture, picture], "messages": turns[1:], "id": "two", "type": None, "source": None},
        {"images": [picture], "messages": said(("user", "What?"), ("assistant", " ")), "id": "none"},
    ]
    text = Value("string")
    folder, aside = corrected(tmp_path, "chat", records, {"messages": CHAT, "id": text, "type": text, "source": text})
    assert aside == [
        "has 2 images, but VIC supports one: remove the row",
        "is no conversation: pair 0 has the text ' ', which is empty or not text",
    ]
    assert [row["type"] for row in rows_of(folder)] == ["detail"] * 2
    (chat,) = exported(folder, "trl-sft")
    assert (chat["id"], chat["type"], chat["source"]) == ("x7", "okvqa", "theirs")
    assert [turn["role"] for turn in chat["messages"]] == [turn["role"] for turn in turns]
    assert chat["messages"][0] == turns[0] and chat["messages"][2]["content"].startswith("It is ")


def test_preferences_and_ratings_are_corrected_or_set_aside(picture, tmp_path):
    asked, good, bad = said(("user", "What?")), said(("assistant", "A cat.")), said(("assistant", "A dog."))
    pairs = [
        {"images": [picture], "prompt": asked, "chosen": good, "rejected": rejected} for rejected in (bad, good + bad)
    ]
    folder, aside = corrected(tmp_path, "pairs", pairs, {name: CHAT for name in ("prompt", "chosen", "rejected")})
    assert len(aside) == 1 and "'rejected' has 2 messages" in aside[0]
    (row,) = rows_of(folder)
    assert row["draft"] == "A cat." and json.loads(row["extra"])["rejected"] == "A dog."
    texts = [{"user": "What?", "assistant": "A cat."}, {"user": "Where?", "assistant": "On a mat."}]
    fine = [
        {"images": [picture], "texts": texts, "source": "ai2d", "relevance_ratings": [5, 4]},
        {"images": [], "texts": texts, "source": "ai2d", "relevance_ratings": [5, 4]},
        {"images": [picture], "texts": texts, "source": "ai2d", "relevance_ratings": [5]},
    ]
    columns = {"texts": List({"user": Value("string"), "assistant": Value("string")}), "source": Value("string")}
    folder, aside = corrected(tmp_path, "fine", fine, {**columns, "relevance_ratings": List(Value("int64"))})
    assert aside == ["is no conversation: 'relevance_ratings' has 1 numbers for 2 texts"]
    edited, passed_on = exported(folder, "finevision")
    assert edited["relevance_ratings"] is None, "of texts that nobody rated"
    assert passed_on["texts"] == texts and (passed_on["relevance_ratings"], passed_on["relevance_min"]) == ([5, 4], 4)


def test_without_scores_an_export_of_pairs_says_what_gives_some(picture, tmp_path):
    records = [{"images": [picture], "messages": said(("user", "What?"), ("assistant", "A cat."))}]
    folder, _ = corrected(tmp_path, "chat", records, {"messages": CHAT})
    with pytest.raises(ExportError, match=r"1 has no logprob score.*`vigc correct --score` computes"):
        exported(folder, "trl-dpo")
    (pair,) = exported(folder, "trl-dpo", rule=PreferenceRule(score="none"))
    assert pair["rejected"][0]["content"] == "A cat." and pair["chosen"][0]["content"].startswith("It is ")
