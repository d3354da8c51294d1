"""The parts of benchmarks/mutation that need no cosmic-ray, which the tests do not install."""

import json
import subprocess
import sys
from importlib import import_module

import pytest
from conftest import ROOT

FOLDER = ROOT / "benchmarks" / "mutation"
SOURCE = """\
LIMIT = 3
def f(a, b=LIMIT + 1):
    if a and b:
        return a + (
            b
        )
    return -1
"""


@pytest.fixture
def load(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    names = {path.stem for path in FOLDER.glob("*.py")} - {"__main__"}
    yield import_module
    for name in names & sys.modules.keys():
        del sys.modules[name]


@pytest.mark.parametrize(
    ("place", "lines", "at_import"),
    [
        ((1, 1), {1}, True),
        ((2, 2), {2}, True),  # a default is evaluated with the import
        ((3, 3), {3}, False),
        ((5, 5), {4, 5, 6}, False),  # any line of the statement
        ((7, 7), {7}, False),
    ],
)
def test_the_statement_around_a_place_is_found(load, place, lines, at_import):
    assert load("mutants").executed_lines(SOURCE, place) == (lines, at_import)


def test_places_that_no_test_sees(load):
    source = (
        'X = int | str\n__all__ = ["X"]\ndef f(a: int = 1) -> str:\n    logger.info("%d", 1 + 2)\n    return a + 1\n'
    )
    spans = load("mutants").unseen_spans(source)
    lines = source.splitlines()
    texts = {lines[start[0] - 1][start[1] : end[1]] for start, end in spans}
    assert texts == {"int | str", '__all__ = ["X"]', "int", "str", '"%d"', "1 + 2"}


def test_shares_add_up(load):
    shares = load("mutants").shares
    assert shares({"a": 1, "b": 1, "c": 1}, 10) == {"a": 4, "b": 3, "c": 3}
    assert shares({"a": 997, "b": 3}, 300) == {"a": 299, "b": 1}
    assert shares({"a": 0, "b": 0}, 0) == {"a": 0, "b": 0}


def test_a_half_written_result_is_run_again(load, tmp_path, monkeypatch):
    runner = load("runner")
    monkeypatch.setattr(runner, "RESULTS", tmp_path / "results.jsonl")
    assert runner.read_results() == {}
    first, second, third = (runner.Result(name, "killed", tests=2) for name in "abc")
    runner.append_result(first)
    runner.append_result(second)
    text = runner.RESULTS.read_text(encoding="utf-8")
    for length in range(len(text)):
        runner.RESULTS.write_text(text[:length], encoding="utf-8")
        kept = set(runner.read_results())
        runner.append_result(third)
        assert set(runner.read_results()) == {*kept, "c"} and kept <= {"a", "b"}
    again = runner.Result("a", "survived")
    runner.RESULTS.write_text(text, encoding="utf-8")
    runner.append_result(again)
    assert runner.read_results() == {"a": again, "b": second}


def test_intervals_of_shares(load):
    interval = load("report").interval
    assert interval(0, 0) == (0.0, 1.0)
    low, high = interval(90, 100)
    assert (round(low, 4), round(high, 4)) == (0.8256, 0.9448)  # Wilson's, as published tables have it


@pytest.mark.parametrize("text", ["{", "[]", '{"a": 1}', '{"a": {"equivalent": true}}', None])
def test_reasons_that_cannot_be_read_are_one_line(load, tmp_path, text):
    path = tmp_path / "reasons.json"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    with pytest.raises(SystemExit, match=r"reasons\.json (cannot be read|has another form)") as caught:
        load("report").read_reasons(path)
    assert "\n" not in str(caught.value)
    path.write_text(json.dumps({"a": {"reason": "the same"}}), encoding="utf-8")
    assert load("report").read_reasons(path) == {"a": {"reason": "the same"}}


@pytest.mark.parametrize("part", ["0/2", "3/2", "x", "1/", "1/0"])
def test_a_part_that_there_is_not_is_refused(part):
    done = subprocess.run([sys.executable, FOLDER, "run", "--part", part], capture_output=True, text=True)
    assert done.returncode == 2 and "give K/N, such as 1/2" in done.stderr and "Traceback" not in done.stderr
