"""The benchmarks run on the smallest model, and what they compare is the same work."""

import gc
import json
import sys
from argparse import Namespace

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))

import bench_divergence
import bench_iqf
import bench_job
import bench_train


@pytest.fixture(autouse=True)
def frozen():
    """Benchmarks collect garbage before each run: what is there already is not looked through again and again."""
    gc.freeze()
    yield
    gc.unfreeze()


def measured(monkeypatch, tmp_path, benchmark, *options):
    """What a benchmark's command writes to its JSON file."""
    output = tmp_path / "figures.json"
    monkeypatch.setattr(sys, "argv", [benchmark.__name__, "--size", "tiny", *options, "--output", str(output)])
    benchmark.main()
    return json.loads(output.read_text())


def test_the_engine_s_ratios(monkeypatch, tmp_path, capsys):
    found = measured(
        monkeypatch, tmp_path, bench_iqf, "--images", "2", "--rounds", "1", "--batches", "2", "--seed", "1"
    )
    lines = found["figures"]
    assert len(lines) == 5 + 3 + 5, "five ways of greedy search, three of beams, and greedy search against beams"
    for line in lines:
        assert line["ViT"] == 2 and line["ViT loop"] == 10
        assert line["row-steps"] > 1 and line["times faster"] > 0
        assert line["other texts"] in (0, None)
    assert lines[1]["engine"] == "greedy, one call at a time" and lines[1]["eta_dec"] == pytest.approx(1, abs=0.02)
    assert capsys.readouterr().out.count("\n|") == len(lines) + 2


def test_a_job_s_share_of_the_engine(monkeypatch, tmp_path):
    found = measured(monkeypatch, tmp_path, bench_job, "--images", "3", "--open-ms", "20", "--rounds", "1")
    medians = found["medians"]
    assert 0 < medians["busy"] <= 1 and 0.02 < medians["start-up"] < medians["start-up"] + medians["seconds"]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_where_half_precision_differs(monkeypatch, tmp_path, dtype):
    options = ("--images", "4", "--slots", "3", "--seed", "1", "--dtype", dtype)
    gaps = measured(monkeypatch, tmp_path, bench_divergence, *options)["gaps"]
    assert len(gaps) <= (0 if dtype == "float32" else 2) and all(0 <= gap < 1 for gap in gaps)


def test_training_is_the_plain_trainer_s():
    losses = {}
    for setting in ("plain", "vigc, features kept, checkpointed"):
        options = Namespace(size="tiny", kind="detail", steps=2, batch=2, setting=setting)
        found = bench_train.train_once(options)
        assert found["tokens/s"] > 0 and found["peak"] > 0
        losses[setting] = found["losses"]
    first, second = losses.values()
    assert len(first) == 2 and first == pytest.approx(second, abs=bench_train.LOSSES_AGREE)
