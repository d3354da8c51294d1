"""The study of VIG, VIC and IQF: its whole command in small, and its statistics where the answer is known."""

import json
import sys
from importlib import import_module

import forks
import numpy as np
import pytest
import torch
from conftest import ROOT

FOLDERS = [str(ROOT / "recipes" / "tiny"), str(ROOT / "benchmarks")]
COMMAND = [ROOT / "benchmarks" / "study_scenes.py", "--quick", "--lineage", "base-0"]


@pytest.fixture(scope="module")
def study():
    """The study's files, which are scripts beside each other and no package."""
    before = set(sys.modules)
    sys.path[:0] = FOLDERS
    try:
        yield {
            name: import_module(name) for name in ("study_statistics", "study_measure", "study_report", "study_scenes")
        }
    finally:
        del sys.path[: len(FOLDERS)]
        for name in set(sys.modules) - before:
            if str(getattr(sys.modules[name], "__file__", "")).startswith(tuple(FOLDERS)):
                del sys.modules[name]


def run(tmp_path, *options):
    command = [*COMMAND, "--work", tmp_path / "work", "--output", tmp_path / "docs", "--processes", "1"]
    return forks.run(*command, *options)


def test_the_command_runs_and_does_nothing_twice(tmp_path, study):
    first = run(tmp_path, "--scenes", "3")
    assert first.returncode == 0, first.stderr
    page = (tmp_path / "docs" / "study.md").read_text(encoding="utf-8")
    plots = sorted(path.name for path in (tmp_path / "docs").glob("*.png"))
    assert plots and all(plot in page for plot in plots)
    assert "IQF likewise:\n  base, next sentence " in page

    results = sorted((tmp_path / "work" / "results").glob("*.json"))
    assert [path.name for path in results] == [f"base-0-{name}.json" for name in ("next-sentence", "paper", "prefix")]
    counts = {path.name: json.loads(path.read_text(encoding="utf-8")) for path in results}
    times = {path.name: path.stat().st_mtime_ns for path in results}
    # As it was when one condition less was measured, and the plan had one field less.
    before = json.loads(results[0].read_text(encoding="utf-8"))
    for split in ("typical", "unusual"):
        del before[split]["descriptions"]["IQF, wrong"]
    del before["plan"]["longer"]
    results[0].write_text(json.dumps(before), encoding="utf-8")
    page = study["study_report"].write_report(results[0].parent, tmp_path / "before").read_text(encoding="utf-8")
    assert "IQF likewise, where it was measured:\n  base, paper " in page and "| paper | IQF, wrong |" in page
    assert "base, next sentence " not in page.split("IQF likewise")[1].split("Mean of")[0]
    results[-1].unlink()
    again = run(tmp_path, "--scenes", "3")
    assert again.returncode == 0, again.stderr
    for path in results:
        redone = json.loads(path.read_text(encoding="utf-8"))
        assert (path.stat().st_mtime_ns == times[path.name]) == (path not in (results[0], results[-1]))
        for found in (redone, counts[path.name]):
            found.pop("cpu_seconds")
        assert redone == counts[path.name]

    scenes = study["study_scenes"]
    with pytest.raises(ValueError, match=r"paper\.json is of another study \(scenes was 3, now 4\): remove"):
        scenes.run(scenes.LINEAGES[0], tmp_path / "work", 4, quick=True)


def test_intervals_hold_the_truth_and_differences_are_paired(study):
    statistics = study["study_statistics"]
    rng = np.random.default_rng(3)
    wholes = rng.integers(2, 5, size=(3, 400))
    parts = rng.binomial(wholes, 0.2)
    found = statistics.share(parts, wholes)
    estimate = found.estimate()
    assert estimate.value == pytest.approx(100 * (parts.sum(1) / wholes.sum(1)).mean())
    assert estimate.low < 20 < estimate.high
    assert estimate.high - estimate.low < 10
    same = (found - statistics.share(parts, wholes)).estimate()
    assert (same.value, same.low, same.high, same.clear) == (0, 0, 0, False)
    # One more mistake in every tenth scene is seen at once, though the intervals of the two overlap.
    more = statistics.share(parts + (np.arange(400) % 10 == 0), wholes)
    assert (more - found).estimate().low > 0
    assert more.estimate().low < estimate.high


def test_a_difference_is_said_with_its_sign_and_not_made_up(study):
    statistics, said = study["study_statistics"], study["study_report"].said
    wholes = np.ones((2, 200), dtype=int)
    rare, often = (np.arange(200) % 10 == 0) * wholes, (np.arange(200) % 2 == 0) * wholes
    lower = statistics.share(rare, wholes) - statistics.share(often, wholes)
    assert said(lower).startswith("40.0 points less [")
    assert said(statistics.share(rare, wholes) - statistics.share(rare, wholes)).startswith("no clear difference")


def test_first_words_are_given_to_questions_only(study):
    model = import_module("model")
    measure = study["study_measure"]
    tokenizer = model.build_processor().tokenizer
    words = measure.FirstWords(tokenizer)
    start = tokenizer([" Question:", "The picture"], add_special_tokens=False)["input_ids"]
    scores = torch.rand(3, len(tokenizer))
    forced = words(torch.tensor([start[0], start[1], start[0]]), scores.clone())
    chosen = [tokenizer.decode([row.argmax()]).strip() for row in forced[[0, 2]]]
    assert chosen == [measure.FIRST_WORDS[0], measure.FIRST_WORDS[2]]
    assert forced[1].equal(scores[1])
    assert words(torch.tensor([[*start[0], 7]] * 3), scores.clone()).equal(scores)
