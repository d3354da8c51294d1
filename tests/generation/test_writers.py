"""Jobs know no kind of model: whatever has the members of `Writer` writes rows."""

import json
from dataclasses import replace

import pyarrow.parquet as pq
import pytest
from transformers import GenerationConfig

from vigc.errors import GenerationError
from vigc.generation import GenerateJob, correct_dataset, generate_dataset
from vigc.inference import FoundModel, ModelFacts, ScriptedGenerator
from vigc.jobs import ledger
from vigc.processing import parse_pair
from vigc.scenes import render, sample_scenes


class Prompts:
    """What a model without a processor of its own is asked."""

    answer_mark = "Answer:"

    def instruction(self, task):
        return f"Write a {task} pair."

    def vic_prompt(self, question, task=None, style="question"):
        return question

    def parse_pair(self, text):
        return parse_pair(text)


class ScriptedWriter(ScriptedGenerator):
    """Says how wide the image is, which is all that it encodes; like a server it has no weights here."""

    facts = ModelFacts("scripted", None, None, None, GenerationConfig())
    prompts, scorer, halved = Prompts(), None, 0

    def prepare(self, image):
        if image.width < 10:
            raise ValueError("too narrow")
        return image.convert("L")

    def encode_batch(self, prepared):
        assert all(image.mode == "L" for image in prepared)
        return [image.width for image in prepared]


def reply(request):
    (width,) = request.images
    if request.prompt == "Write a detail pair.":
        return f"Question: How wide is it? Answer: It has {width} pixels."
    return f"The answer to {request.prompt!r} is {width}."


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    picture = render(*sample_scenes(seed=5, count=1)).image
    for width in (40, 60, 9):
        picture.resize((width, 40)).save(folder / f"{width}.png")
    return folder


@pytest.fixture(autouse=True)
def scripted(monkeypatch):
    writer = ScriptedWriter(reply)
    monkeypatch.setattr(
        "vigc.inference.loading.find_model", lambda *_, **__: FoundModel(writer.facts, lambda _: writer)
    )


def rows_of(folder):
    return [row for file in sorted(folder.glob("*/train-*.parquet")) for row in pq.read_table(file).to_pylist()]


def test_any_writer_writes_pairs(images, tmp_path):
    out = tmp_path / "out"
    summary = generate_dataset(
        images, out, model="m", types=["detail"], corrector="one_shot", settings={"iqf_steps": 0}
    )
    asked = "The answer to 'How wide is it?' is"
    assert sorted((row["draft"], row["answer"]) for row in rows_of(out)) == [
        (f"It has {width} pixels.", f"{asked} {width}.") for width in (40, 60)
    ]
    assert "too narrow" in str(summary)
    plan, card = ledger.read_plan(out), (out / "README.md").read_text()
    assert (plan.configuration["model"], plan.configuration.dtype, plan.job["device"]) == ("scripted", None, None)
    assert "- Model: scripted.\n" in card and "--model scripted" in card and "--dtype" not in card


def test_any_writer_corrects(images, tmp_path):
    turns = [{"from": "human", "value": "How high?"}, {"from": "gpt", "value": "Very."}]
    talk = tmp_path / "talk.json"
    talk.write_text(json.dumps([{"id": "1", "image": "40.png", "conversations": turns}]))
    correct_dataset(talk, tmp_path / "out", image_root=images, model="m", corrector="one_shot")
    (row,) = rows_of(tmp_path / "out")
    assert (row["draft"], row["answer"]) == ("Very.", "The answer to 'How high?' is 40.")


def test_a_writer_without_scores_is_not_asked_for_them(images, tmp_path):
    with pytest.raises(GenerationError, match="The model 'scripted' cannot score given answers: remove --score"):
        generate_dataset(images, tmp_path / "out", model="m", types=["detail"], correct=False, score=True)
    assert not (tmp_path / "out").exists()
    job = GenerateJob(images=images, model="m", types=["detail"], correct=False, score=True)
    assert job.plan(replace(ScriptedWriter.facts, scores=True), job.selection()).configuration["score"]
