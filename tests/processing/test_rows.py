"""The columns of our datasets, and ids that depend on the right things."""

import io
import shutil
from functools import partial

import pyarrow as pa
import pytest
from datasets import Dataset, Features
from PIL import Image

from vigc.exports.mix import Source
from vigc.formats.hf_datasets import load_rows
from vigc.processing import GENERATED_FEATURES, TRAIN_FEATURES, row_id
from vigc.processing.rows import is_edited, to_messages


def test_columns_are_the_agreed_ones():
    assert list(TRAIN_FEATURES) == [
        *("image", "image_id", "type", "question", "answers", "weights", "source", "license"),
        *("conversation_id", "turn", "extra"),
    ]
    assert list(GENERATED_FEATURES) == [
        *("id", "image", "image_id", "type", "question_index", "instruction", "question", "draft", "answer"),
        *("messages", "trace", "scores", "answers", "weights", "objects", "conversation_id", "turn", "extra"),
        *("source", "license", "model", "config_hash"),
    ]


def test_a_parquet_file_with_our_schema_is_read_with_our_features(tmp_path):
    buffer = io.BytesIO()
    Image.new("RGB", (3, 2), "red").save(buffer, "PNG")
    row = {name: None for name in GENERATED_FEATURES}
    row |= {
        "image": {"bytes": buffer.getvalue(), "path": None},
        "messages": to_messages("What?", "This."),
        "trace": [{"sentence": "This.", "changed": None, "logprob": -0.5, "stop": "eos"}],
        "scores": {"draft_logprob": -1.0, "answer_logprob": -0.5, "visual_dependency": None},
    }
    table = pa.Table.from_pylist([row], schema=GENERATED_FEATURES.arrow_schema)
    assert Features.from_arrow_schema(table.schema) == GENERATED_FEATURES
    read = Dataset(table)[0]
    assert read["image"].size == (3, 2)
    assert read["messages"] == [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "This."}]
    assert read["trace"] == row["trace"] and read["scores"] == row["scores"]


def test_an_id_depends_on_picture_type_settings_and_index_alone():
    same = row_id(b"picture", "detail", "0" * 16, 0)
    assert same == row_id(b"picture", "detail", "0" * 16, 0) == "da9035648333ea201bf84740cc6ad564"
    assert len(same) == 32 and set(same) <= set("0123456789abcdef")
    others = {
        row_id(b"another", "detail", "0" * 16, 0),
        row_id(b"picture", "complex", "0" * 16, 0),
        row_id(b"picture", "detail", "1" * 16, 0),
        row_id(b"picture", "detail", "0" * 16, 1),
        row_id(b"picture", 'detail","', "0" * 16, 0),
    }
    assert len(others | {same}) == 6


def test_white_space_is_no_edit():
    assert not is_edited("One. Two.\n\nThree.", "One. Two. Three. ")
    assert is_edited("One. Two.", "One. Three.")
    assert not is_edited(None, "One.")
    assert not is_edited(None, "")


README = """---
configs:
- config_name: default
  data_files: "*/train.parquet"
- config_name: detail
  data_files: detail/train.parquet
---
"""


def dataset_folder(folder, *answers):
    """As others publish them: configurations, and nothing about sizes."""
    for kind, answer in zip(("conversation", "detail"), answers, strict=True):
        (folder / kind).mkdir(parents=True)
        row = {name: None for name in TRAIN_FEATURES} | {"type": kind, "question": "What?", "answers": [answer]}
        Dataset.from_list([row], features=TRAIN_FEATURES).to_parquet(folder / kind / "train.parquet")
    (folder / "README.md").write_text(README, encoding="utf-8")
    return str(folder)


@pytest.mark.parametrize("reader", [load_rows, lambda path: Source((path,)).read()], ids=["load_rows", "vigc mix"])
def test_no_folder_is_read_for_another_or_as_it_was(tmp_path, reader):
    def read(folder):
        return [answer for answers in reader(folder)["answers"] for answer in answers]

    one = dataset_folder(tmp_path / "one" / "rows", "A", "B")
    other = dataset_folder(tmp_path / "other" / "rows", "C", "D")
    assert (read(one), read(other)) == (["A", "B"], ["C", "D"])
    detail = partial(load_rows, name="detail")
    assert [detail(folder)["answers"][0] for folder in (one, other)] == [["B"], ["D"]]
    shutil.rmtree(one)
    assert read(dataset_folder(tmp_path / "one" / "rows", "E", "F")) == ["E", "F"]
    assert read(one) == ["E", "F"]
    with pytest.raises(ValueError, match="nothing"):
        load_rows(one, "nothing")
