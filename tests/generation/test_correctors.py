"""Correctors are chosen by name: a new one works in both commands, and the old flags are the same jobs as before."""

import json

import pyarrow.parquet as pq
import pytest

from vigc.errors import GenerationError
from vigc.generation import CorrectJob, GenerateJob, correct_dataset, generate_dataset
from vigc.generation.correctors import CORRECTORS, Corrector
from vigc.generation.rollouts.generate import draft_then_correct
from vigc.jobs import ledger
from vigc.modeling_vigc import IqfSettings
from vigc.modeling_vigc.requests_vigc import Completion, Request, Sample
from vigc.modeling_vigc.rollout_vigc import RolloutSettings, vig_alone, vig_then_iqf

PAIR = "Question: What is there? Answer: There is a red circle."


def quoting(image, question, draft, settings, task=None, seed=0):
    """Asks the model once, and quotes the draft behind its answer."""
    prompt = settings.processor.vic_prompt(question, task)
    completion = yield Request(prompt, (image,), sampling=settings.sampling(seed, 1))
    return Sample(task, question, draft, f"{completion.text} It was: {draft}")


@pytest.fixture
def job(model, processor, monkeypatch):
    monkeypatch.setitem(CORRECTORS, "quoting", Corrector(quoting))
    return {"model": model, "processor": processor, "settings": {"max_new_tokens": 16}, "retries": 0, "limit": 2}


def rows_of(folder):
    return [row for file in sorted(folder.glob("*/train-*.parquet")) for row in pq.read_table(file).to_pylist()]


def test_a_corrector_of_its_own_works_in_both_commands(parity_dir, job, tmp_path):
    images, talk = parity_dir / "images", tmp_path / "talk.json"
    names = sorted(path.name for path in images.iterdir())[:2]
    turns = [{"from": "human", "value": "What is it?"}, {"from": "gpt", "value": "A mere guess."}]
    talk.write_text(json.dumps([{"id": name, "image": name, "conversations": turns} for name in names]))
    job["corrector"] = "quoting"
    generate_dataset(images, tmp_path / "made", types=["detail"], **job)
    correct_dataset(talk, tmp_path / "corrected", image_root=images, **job)
    for folder in (tmp_path / "made", tmp_path / "corrected"):
        rows = rows_of(folder)
        assert rows and all(row["answer"].endswith(f"It was: {row['draft']}") for row in rows)
        assert ledger.read_plan(folder).configuration["corrector"] == "quoting"
        card = (folder / "README.md").read_text()
        assert "with the corrector `quoting`" in card and "--corrector quoting" in card
    assert {row["draft"] for row in rows_of(tmp_path / "corrected")} == {"A mere guess."}


def test_names_and_flags_of_older_commands_are_the_same_job(parity_dir, job, tmp_path):
    job["types"] = ["detail"]
    for folder, flags, name in (("drafts", {"correct": False}, "none"), ("iqf", {}, "iqf")):
        generate_dataset(parity_dir / "images", tmp_path / folder, **job, **flags)
        assert generate_dataset(parity_dir / "images", tmp_path / folder, **job, corrector=name).idle
        assert "corrector" not in ledger.read_plan(tmp_path / folder).configuration
    job["settings"]["iqf_steps"] = 0
    generate_dataset(parity_dir / "images", tmp_path / "steps", **job)
    del job["settings"]["iqf_steps"]
    generate_dataset(parity_dir / "images", tmp_path / "one shot", **job, corrector="one_shot")
    texts = [[(row["draft"], row["answer"]) for row in rows_of(tmp_path / name)] for name in ("steps", "one shot")]
    assert texts[0] and texts[0] == texts[1]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"corrector": "magic"}, "Corrector 'magic' is not known: use one of none, one_shot, iqf, quoting"),
        ({"corrector": "iqf", "correct": False}, "correct=False contradicts the corrector 'iqf'"),
        ({"corrector": "one_shot", "settings": {"iqf_steps": 2}}, "iqf_steps=2 contradicts the corrector 'one_shot'"),
        ({"corrector": "quoting", "settings": {"iqf_draft": False}}, "iqf_draft=False contradicts the corrector"),
        ({"corrector": "none", "settings": {"iqf_steps": 2}}, "Without correction iqf_steps has no effect"),
        ({"corrector": "none", "types": ["okvqa"], "answers": 2}, "--answers needs a correction: remove --answers"),
    ],
)
def test_contradictions_are_refused(given, message, job, tmp_path):
    with pytest.raises(GenerationError, match=message):
        GenerateJob(images=tmp_path, **{**job, **given})
    if "correct" not in given and "types" not in given and "iqf_draft" not in given.get("settings", {}):
        with pytest.raises(GenerationError, match=message):
            CorrectJob(dataset=tmp_path, **{**job, **given})


def played(rollout, texts):
    """The requests of a rollout, what would be asked ahead of each, and the sample."""
    asked, ahead = [], []
    try:
        request = next(rollout)
        for text in texts:
            begun = Completion(text, "", [0], [-1.0])
            hint = request.lookahead and request.lookahead.follow
            asked.append(request)
            ahead.append(hint(begun) if hint else None)
            request = rollout.send(Completion(text, "eos", [0], [-1.0]))
    except StopIteration as end:
        return asked, ahead, end.value
    raise AssertionError("there are more requests than texts")


@pytest.mark.parametrize("settings", [{}, {"iqf_draft": False}, {"iqf_steps": 0}, {"iqf_ahead": False}])
def test_drafts_handed_to_iqf_are_asked_as_the_paper_s_rollout(settings, processor):
    asked = RolloutSettings(processor, IqfSettings(**settings))
    texts = [PAIR, "There is a circle.", "It is red.", ""]
    image = object()
    ours, ahead, sample = played(draft_then_correct(CORRECTORS["iqf"], image, "detail", asked, 7), texts)
    theirs, expected_ahead, expected = played(vig_then_iqf(image, "detail", asked, 7), texts)
    assert len(ours) > 1 and all(one.same_as(two) for one, two in zip(ours, theirs, strict=True))
    for one, two in zip(ahead, expected_ahead, strict=True):
        assert (one is None) == (two is None) and (one is None or one.same_as(two))
    assert (ahead[0] is not None) == settings.get("iqf_ahead", True), "VIC begins beside VIG"
    assert sample == expected


def test_no_corrector_asks_as_vig_alone(processor):
    asked, image = RolloutSettings(processor), object()
    ours, ahead, sample = played(draft_then_correct(CORRECTORS["none"], image, "detail", asked, 7), [PAIR])
    theirs, _, expected = played(vig_alone(image, "detail", asked, 7), [PAIR])
    assert ours[0].same_as(theirs[0]) and ours[0].lookahead is None and ahead == [None]
    assert (sample.draft, sample.answer, sample.reason) == (expected.draft, expected.answer, None)
