"""The table of layouts: each is one object, which reading, exports and cards take all they need from."""

import json

import pytest
from choices import also
from dataset_rows import generated, write
from typer.testing import CliRunner

from vigc.cli.root import app
from vigc.exports.settings import ExportSettings
from vigc.formats import FORMATS, Format
from vigc.formats.base import Writing
from vigc.formats.chats import CHAT_COLUMNS, TEXT_COLUMNS, rows_of_chat
from vigc.formats.preferences import PreferenceRule
from vigc.formats.table import EXPORTS, LAYOUTS

WRITING = Writing(image="a.png", rule=PreferenceRule(score="none"))


def test_names_are_those_of_the_options_in_their_order():
    assert list(EXPORTS) == ["trl-sft", "trl-dpo", "llava", "finevision"]
    assert list(LAYOUTS) == ["llava", "vigc", "vigc-aokvqa", "aokvqa", "stable-llava", "okvqa", "vqav2"]
    assert [one.name for one in FORMATS.values()] == list(FORMATS)
    assert len({one.title for one in FORMATS.values()}) == len(FORMATS)


def test_an_export_is_json_or_has_columns():
    for one in FORMATS.values():
        assert one.is_exported == (one.name in EXPORTS) and not (one.features and one.file)


@pytest.mark.parametrize("layout", [one for one in EXPORTS.values() if one.rows is not None], ids=lambda one: one.name)
def test_what_is_written_is_read_again_by_the_same_object(layout):
    row = generated(0, draft="A red cat.", answer="A grey cat.")
    (record,) = layout.write([row], WRITING)
    if layout.features is not None:
        assert set(record) == set(layout.features)
    (again,) = layout.rows(record, conversation_id="0", type="detail")
    assert (again["question"], again["answers"]) == (row["question"], ["A grey cat."])
    assert again.get("draft") == ("A red cat." if layout.prefers else None)
    assert list(layout.write([again], WRITING)) == [record]
    assert rows_of_chat(record, conversation_id="0", type="detail")[0]["question"] == row["question"]
    assert set(record) & set(TEXT_COLUMNS) <= set(CHAT_COLUMNS)


def test_a_layout_that_refuses_a_row_gives_the_reason():
    assert list(FORMATS["trl-dpo"].write([generated(0, draft=None)], WRITING)) == ["has no draft or no answer"]


def test_a_new_layout_is_one_object(tmp_path, monkeypatch):
    """Exported, with its own card, by nothing but its line in the table."""

    def pairs(rows, how):
        return [{"picture": how.image, "asked": row["question"], "said": row["answer"]} for row in rows]

    layout = Format("pairs", "plain pairs", pairs, file="pairs.json", note="A pair a question.")
    monkeypatch.setitem(EXPORTS, layout.name, layout)
    also(monkeypatch, ExportSettings, "format", layout.name)
    write(tmp_path / "rows", [generated(0), generated(1)])
    options = ["export", str(tmp_path / "rows"), "-f", "pairs", "-o", str(tmp_path / "out")]
    result = CliRunner().invoke(app, options)
    assert result.exit_code == 0, result.output
    entries = json.loads((tmp_path / "out" / "pairs.json").read_text())
    assert [entry["asked"] for entry in entries] == ["What is in picture 0?", "What is in picture 1?"]
    assert all((tmp_path / "out" / "images" / entry["picture"]).is_file() for entry in entries)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "as plain pairs: 2 records from 2 rows" in card and "\n\nA pair a question.\n" in card
