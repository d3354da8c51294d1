"""The columns of our datasets, and ids that depend on the right things."""

import io

import pyarrow as pa
from datasets import Dataset, Features
from PIL import Image

from vigc.processing import GENERATED_FEATURES, TRAIN_FEATURES, row_id
from vigc.processing.rows import is_edited, to_messages


def test_columns_are_the_agreed_ones():
    assert list(TRAIN_FEATURES) == [
        *("image", "image_id", "type", "question", "answers", "source", "license"),
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
    assert is_edited(None, "One.")
    assert not is_edited(None, "")
