"""Several answers with weights: decoded as the settings say, presets included, and VIC's alone."""

import pyarrow.parquet as pq
import pytest

from vigc.errors import GenerationError
from vigc.generation import generate_dataset
from vigc.jobs import ledger


def test_a_preset_decodes_questions_and_answers(parity_dir, model, processor, tmp_path, monkeypatch):
    calls = []
    generate = type(model).generate

    def noted(self, **given):
        calls.append((given["num_beams"], given["repetition_penalty"], given.get("num_return_sequences", 1)))
        return generate(self, **given)

    monkeypatch.setattr(type(model), "generate", noted)
    job = {"model": model, "processor": processor, "types": ["okvqa"], "answers": 2, "limit": 2, "retries": 0}
    given = {"iqf_preset": "original", "max_new_tokens": 20, "iqf_draft": False}
    summary = generate_dataset(parity_dir / "images", tmp_path / "out", settings=given, **job)
    decoding = ledger.read_plan(tmp_path / "out").configuration["decoding"]
    assert (decoding["num_beams"], decoding["repetition_penalty"]) == (5, 1.5)
    (file,) = (tmp_path / "out").glob("okvqa/*.parquet")
    rows = pq.read_table(file).to_pylist()
    assert all(row["draft"] is None and row["scores"]["draft_logprob"] is None for row in rows), "as was asked for"
    assert summary.rows and set(calls) == {(5, 1.5, 1), (5, 1.5, 5)}, "questions, and the answers to them"


def test_answers_without_correction_are_refused(parity_dir, model, processor, tmp_path):
    job = {"model": model, "processor": processor, "types": ["okvqa"], "answers": 2, "correct": False}
    with pytest.raises(GenerationError, match="Several answers are VIC's: drop --answers, or let answers be corrected"):
        generate_dataset(parity_dir / "images", tmp_path / "out", **job)
    assert not (tmp_path / "out").exists()
