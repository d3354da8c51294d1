"""Progress: by image and inside a shard, a bar on a terminal, else a line every 30 seconds, rates of this run alone."""

import contextlib
import io
import json
import pty
import re
import subprocess
import termios
from functools import partial

import forks
import pytest
from conftest import FAULTS, SUPPORT
from faults import make_inputs
from scripted import ScriptedModel, ScriptedProcessor

from vigc.generation import generate_dataset
from vigc.jobs import run as jobs_run
from vigc.jobs.progress import Progress, duration


class Clock:
    """Stands still until it is moved."""

    seconds = 0.0

    def __call__(self):
        return self.seconds


class Ticking(ScriptedModel):
    """Every call takes 20 seconds of a clock; the call of a number, if one is given, is interrupted."""

    def __init__(self, clock, interrupted=None):
        super().__init__(malformed=0)
        self.clock, self.left = clock, interrupted

    def generate(self, *given, **more):
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt
        self.clock.seconds += 20
        return super().generate(*given, **more)


@pytest.fixture
def log(monkeypatch):
    """What a job shows where no terminal is, by the returned clock."""
    clock, stream = Clock(), io.StringIO()
    monkeypatch.setattr(jobs_run, "Progress", partial(Progress, clock=clock, stream=stream))
    return clock, lambda: stream.getvalue().splitlines()


def job(pictures, out, clock, **more):
    settings = {"types": ["detail"], "batch_size": 2, "shard_size": 8, **more}
    return generate_dataset(pictures, out, processor=ScriptedProcessor(), **{"model": Ticking(clock), **settings})


def test_off_a_terminal_there_is_a_line_every_30_seconds_by_image(tmp_path, log):
    clock, lines = log
    summary = job(make_inputs(tmp_path), tmp_path / "out", clock)
    # 12 inputs: 8 readable ones of one shard, two at a time, so that four calls make it; the broken ones cost no call.
    told = [re.fullmatch(r"images (\d+)/11, rows (\d+), ([\d.]+) rows/s(, about \d+ s left)?", one) for one in lines()]
    assert told and all(told), lines()
    images, rows = [int(one[1]) for one in told], [int(one[2]) for one in told]
    assert images[0] < 8 and images == sorted(images), "inside of the first shard"
    assert rows == sorted(rows) and rows[-1] == summary.rows == summary.rows_made
    assert len(told) <= clock.seconds / 30 + 1
    assert told[0][4] and not told[-1][4] and images[-1] == 11


def test_a_short_job_shows_nothing_in_a_log(tmp_path, log):
    clock, lines = log
    job(make_inputs(tmp_path), tmp_path / "out", clock, limit=2)
    assert clock.seconds == 20 and lines() == []


def test_what_was_done_before_counts_in_the_total_and_not_in_the_rate(tmp_path, log):
    clock, lines = log
    pictures, out = make_inputs(tmp_path), tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        job(pictures, out, clock, model=Ticking(clock, interrupted=3), shard_size=4)
    before = len(lines())
    clock.seconds = 10_000.0
    summary = job(pictures, out, clock, shard_size=4)
    assert summary.resumed and 0 < summary.rows_made < summary.rows
    first, *_, last = lines()[before:]
    done = int(re.match(r"images (\d+)/11", first)[1])
    assert 4 < done < 11, "the shard of before is in it"
    rows = int(re.search(r"rows (\d+)", last)[1])
    assert rows == summary.rows_made
    assert f"{rows / (clock.seconds - 10_000):.2g} rows/s" in last


def test_each_rank_counts_its_own_share(tmp_path, log):
    clock, lines = log
    job(make_inputs(tmp_path), tmp_path / "out", clock, shard_size=4, rank=0, world_size=2)
    assert lines()[-1].startswith("rank 0 of 2: images 7/7, rows "), lines()


def test_what_another_process_makes_is_in_no_rate():
    clock = Clock()
    with Progress("images", 30, made="rows", stream=io.StringIO(), clock=clock) as progress:
        clock.seconds = 100.0  # loading the model
        progress.within(0, 0)
        assert progress.text() == "images 0/30, rows 0"
        clock.seconds = 110.0
        progress.within(5, 20)
        assert progress.text() == "images 5/30, rows 20, 2.0 rows/s, about 50 s left"
        progress.add(10, 40)
        progress.skip(10)
        assert progress.text() == "images 20/30, rows 40, 4.0 rows/s, about 10 s left"
        clock.seconds = 510.0
        assert progress.text() == "images 20/30, rows 40, 0.098 rows/s, about 7 min left"


def test_without_a_total_there_is_a_count_and_a_rate():
    clock, stream = Clock(), io.StringIO()
    with Progress("images", None, label="hashes", stream=stream, clock=clock) as progress:
        clock.seconds = 40.0
        progress.add(80_000)
    assert stream.getvalue() == "hashes: images 80,000, 2,000.0 images/s\n"


def test_quiet_shows_nothing():
    clock, stream = Clock(), io.StringIO()
    with Progress("images", 2, quiet=True, stream=stream, clock=clock) as progress:
        clock.seconds = 100.0
        progress.add(2)
    assert stream.getvalue() == ""


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (99, "99 s"), (240, "4 min"), (7500, "2 h 5 min"), (273_600, "3 days 4 h")]
)
def test_times_are_in_a_unit_that_suits_them(seconds, text):
    assert duration(seconds) == text


def test_on_a_terminal_a_bar_moves_inside_a_shard(tmp_path):
    make_inputs(tmp_path)
    code = f"""
import sys
sys.path[:0] = [{str(FAULTS)!r}, {str(SUPPORT)!r}]
from scripted import ScriptedModel, ScriptedProcessor
from vigc.generation import generate_dataset
generate_dataset({str(tmp_path / "pictures")!r}, {str(tmp_path / "out")!r}, types=["detail"], batch_size=2,
                 model=ScriptedModel(delay=0.15), processor=ScriptedProcessor())
"""
    (tmp_path / "job.py").write_text(code)
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 120))
    with open(theirs, "w") as terminal:
        process = forks.popen(tmp_path / "job.py", stderr=terminal, stdout=subprocess.DEVNULL)
    shown = read_all(ours)
    assert process.wait(120) == 0, shown
    told = [int(number) for number in re.findall(r"images (\d+)/11, rows \d+", shown)]
    assert told[0] == 0 and told[-1] == 11 and len(set(told)) > 3, shown
    assert told == sorted(told)
    plan = json.loads((tmp_path / "out" / "_vigc" / "plan.json").read_text())
    assert plan["inputs"]["shards"] == 1
    assert re.search(r"100%\|[^|]+\| images 11/11, rows \d+, [\d.]+ rows/s", shown), shown


def read_all(number):
    """What comes through a terminal until its other side is closed, which Linux reports as an error."""
    parts = []
    with open(number, "rb", buffering=0) as terminal, contextlib.suppress(OSError):
        while part := terminal.read(1 << 16):
            parts.append(part)
    return b"".join(parts).decode()
