"""The job loses nothing: killed before any write step or at any moment, on a full disk, shared, or asked otherwise."""

import json
import os
import re
import shutil
import subprocess
import tempfile
import threading
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import forks
import pytest
from bugs import BUGS
from conftest import FAULTS, SUPPORT
from dataset_rows import content
from faults import make_inputs
from job_codes import exit_code_of
from PIL import Image
from scripted import ScriptedModel, ScriptedProcessor

from vigc.errors import BusyError, ConflictError, GenerationError, TransientError
from vigc.generation import CorrectJob, GenerateJob, correct_dataset, generate_dataset, write_report
from vigc.generation import finalize as finish
from vigc.generation.rollouts.checks import is_endless, is_same_question
from vigc.generation.sources.base import Files
from vigc.jobs import ledger, locks, resume
from vigc.modeling_vigc import VigcForConditionalGeneration


@pytest.fixture
def place():
    """A folder in memory where there is one: these tests write and sync thousands of files."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory, prefix="vigc-") as folder:
        yield Path(folder)


def faults(place, **order):
    result = forks.run(FAULTS / "faults.py", json.dumps({"folder": str(place), **order}))
    assert result.returncode == 0, result.stderr[-2000:]
    return json.loads(result.stdout)


@pytest.fixture
def start():
    """Starts a job of scripted rows in a process of its own; none outlives the test."""
    processes = []

    def run(place, out, **more):
        code = f"""
import sys
sys.path[:0] = [{str(FAULTS)!r}, {str(SUPPORT)!r}]
import faults
from pathlib import Path
sys.exit(faults.run(Path({str(place)!r}), Path({str(out)!r}), "generate", **{more!r}))
"""
        processes.append(forks.popen("-c", code, stderr=subprocess.DEVNULL))
        return processes[-1]

    yield run
    for process in processes:
        process.kill()
        process.wait()


def until(happened, *processes):
    """Waits for an event in processes that are at work, however long a busy machine takes."""
    deadline = time.monotonic() + 600
    while not happened():
        assert all(process.poll() is None for process in processes), "ended before"
        assert time.monotonic() < deadline
        time.sleep(0.01)


def waits(hold):
    """Whether a scripted model waits for this file."""
    return Path(f"{hold}.waiting").exists()


def has_shards(out):
    return any((out / ledger.SHARDS).glob("*.json"))


def generate(place, out, **given):
    job = {"model": ScriptedModel(), "processor": ScriptedProcessor(), "types": ["conversation", "detail"]}
    return generate_dataset(place / "pictures", out, **{**job, "shard_size": 4, "batch_size": 2, **given})


def rows_of(folder):
    import pyarrow.parquet as pq

    return [row for file in sorted(folder.glob("*/train-*.parquet")) for row in pq.read_table(file).to_pylist()]


class Repeating(ScriptedModel):
    """Answers without end what holds these words."""

    def __init__(self, words=""):
        super().__init__(malformed=0)
        self.words = words

    def generate(self, *given, **named):
        output = super().generate(*given, **named)
        for row, question in enumerate(output["questions"]):
            if self.words in question:
                output["answers"][row] = "It is " + "the cat " * 30
        return output


# Dying


@pytest.mark.parametrize(
    ("job", "count", "every"),
    [
        ("generate", 4, 3),
        ("correct", 5, 4),
        pytest.param("generate", 9, 1, marks=pytest.mark.slow),
        pytest.param("correct", 9, 1, marks=pytest.mark.slow),
    ],
)
def test_dying_before_any_write_step_costs_nothing(place, job, count, every):
    found = faults(place, action="sweep", job=job, count=count, every=every)
    assert found["failures"] == [] and found["points"] == -(-found["steps"] // every) and found["steps"] > 40


@pytest.mark.parametrize(("every", "harms"), [(13, ["die"]), pytest.param(1, ["die", 28, 5], marks=pytest.mark.slow)])
def test_dying_in_the_hash_pass_costs_nothing(place, every, harms):
    found = faults(place, action="sweep", job="choosy", every=every, harms=harms)
    assert found["failures"] == [] and found["steps"] > 80


def test_a_full_broken_or_read_only_disk_never_passes_for_success(place):
    found = faults(place, action="sweep", job="generate", harms=[28, 5, 30], every=17)
    assert found["failures"] == []


@pytest.mark.slow
@pytest.mark.parametrize("job", ["generate", "correct"])
def test_a_full_or_broken_disk_at_every_step(place, job):
    assert faults(place, action="sweep", job=job, harms=[28, 5, 30])["failures"] == []


@pytest.mark.parametrize(
    ("job", "times"),
    [
        ("generate", 8),
        pytest.param("generate", 200, marks=pytest.mark.slow),
        pytest.param("correct", 200, marks=pytest.mark.slow),
    ],
)
def test_killed_at_random(place, job, times):
    found = faults(place, action="kill", job=job, times=times, seed=11)
    assert found["kills"] >= times and found["failures"] == []
    usual = min(rows for _, rows in found["calls"])
    # What a kill costs: at most one shard, second attempts included.
    assert 0 < found["shard"] < usual
    for died, rows in found["calls"]:
        assert rows <= usual + died * found["shard"], (died, rows, found["shard"])


# Where each mistake shows, so that the sample needs few points; the full sweep below is not told.
PLACES = {
    "counts_rows_of_the_process": {"start": 40},
    "trusts_torn_records": {"start": 41},
    "leaves_unfinished_files": {"start": 5},
    "takes_the_first_plan": {"start": 8},
    "writes_in_place": {"start": 31},
    "marks_too_early": {"start": 24},
    "swallows_errors_of_writing": {"harms": [28], "start": 68},
    "leaves_shards_out_after_an_error": {"harms": [5], "start": 30},
    "appends_to_the_quarantine": {"start": 38},
    "says_finished_first": {"start": 97},
    "trusts_torn_hashes": {"job": "choosy"},
}


@pytest.mark.parametrize("bug", sorted(BUGS.keys() - {"locks_nothing"}))
def test_mistakes_of_writers_are_noticed(place, bug):
    found = faults(place, action="sweep", bug=bug, stop=True, **{"job": "generate", **PLACES.get(bug, {})})
    assert found["failures"], f"{bug} went unnoticed"


@pytest.mark.slow
@pytest.mark.parametrize("bug", sorted(BUGS.keys() - {"locks_nothing"}))
def test_mistakes_of_writers_are_noticed_without_knowing_where(place, bug):
    job = PLACES.get(bug, {}).get("job", "generate")
    found = faults(place, action="sweep", job=job, bug=bug, stop=True, harms=["die", 28, 5])
    print(f"{bug}: point {found['points']} of {3 * found['steps']}, {found['failures'][:1]}")
    assert found["failures"], f"{bug} went unnoticed"


# Sharing


@pytest.mark.parametrize("rounds", [5, pytest.param(50, marks=pytest.mark.slow)])
def test_of_two_writers_that_begin_at_once_one_wins(place, rounds):
    found = faults(place, action="race", job="generate", rounds=rounds)
    assert found == {"rounds": rounds, "failures": []}
    assert faults(place / "unlocked", action="race", job="generate", rounds=1, bug="locks_nothing")["failures"]


def test_who_comes_later_is_told_what_to_do(place, start):
    make_inputs(place)
    go = place / "go"
    first = start(place, place / "out", hold=str(go))
    until(lambda: waits(go), first)
    with pytest.raises(BusyError, match=r"written by another process of rank 0 .of 1.*--rank"):
        generate(place, place / "out")
    go.touch()
    assert first.wait() == 3
    assert generate(place, place / "out").idle


def test_two_writers_from_the_command_line(place, vigc_folder, parity_dir):
    out = place / "out"
    out.mkdir()
    with locks.hold(out, "rank-0-of-1") as free:
        assert free
        result = forks.run("-m", "vigc", "generate", parity_dir / "images", "-o", out, "-m", vigc_folder)
    assert result.returncode == 5 and "another process" in result.stderr


def test_three_ranks_write_what_one_does(place, start):
    make_inputs(place, count=30)
    generate(place, place / "one" / "data", batch_size=2)
    out = place / "three" / "data"
    never = place / "never"
    held = ({}, {"hold": str(never), "free": 6}, {})
    ranks = [start(place, out, rank=rank, world_size=3, **more) for rank, more in enumerate(held)]
    until(lambda: waits(never), ranks[1])
    ranks[1].kill()
    assert [rank.wait() in (0, 3) for rank in ranks] == [True, False, True]
    assert not (out / ledger.FINISHED).exists(), "a share is missing"
    assert start(place, out, rank=1, world_size=3).wait() == 3
    assert content(out) == content(place / "one" / "data")


def test_ranks_compare_their_plans_side_by_side(place):
    make_inputs(place)
    generate(place, place / "out", rank=0, world_size=2)
    found = []
    second = threading.Thread(target=lambda: found.append(generate(place, place / "out", rank=1, world_size=2)))
    second.daemon = True
    with locks.hold(place / "out", "plan"):  # by a rank that is at it
        second.start()
        second.join(120)
        assert found and found[0].missing == 0
    with pytest.raises(ConflictError, match="seed was 0, now 1"), locks.hold(place / "out", "plan"):
        generate(place, place / "out", seed=1)
    # What is torn is mended by one at a time.
    before = {name: digest for name, digest in content(place / "out").items() if locks.LOCKS not in name}
    (place / "out" / ledger.PLAN).write_bytes(b"{")
    with locks.hold(place / "out", "plan"):
        third = threading.Thread(target=lambda: found.append(generate(place, place / "out")))
        third.start()
        third.join(1)
        assert len(found) == 1
    third.join()
    assert found[1].idle and content(place / "out") == before


def test_a_share_that_is_not_the_last_says_what_is_missing(place):
    make_inputs(place)
    summary = generate(place, place / "out", rank=1, world_size=2)
    assert summary.missing == 2 and not (place / "out" / "README.md").exists()
    assert generate(place, place / "out", rank=0, world_size=2).missing == 0
    assert (place / "out" / "README.md").exists()


def test_a_shard_that_another_process_holds_is_no_success(place, capsys):
    make_inputs(place)
    out = place / "out"
    generate(place, out, rank=1, world_size=3)
    job = GenerateJob(
        **{"images": place / "pictures", "model": ScriptedModel(), "processor": ScriptedProcessor()},
        **{"types": ["conversation", "detail"], "shard_size": 4, "batch_size": 2},
    )
    with locks.hold(out, "shard-00002") as free:
        assert free and exit_code_of(lambda: job, out) == 5
        told = capsys.readouterr()
        assert (
            "another process is writing 1 shard of this rank" in told.err and "1 shard still to be written" in told.out
        )
        assert not (out / ledger.CARD).exists()
        # A rank answers for its own share alone.
        assert exit_code_of(lambda: replace(job, rank=0, world_size=2), out) == 5
        assert exit_code_of(lambda: replace(job, rank=1, world_size=2), out) == 3
    assert exit_code_of(lambda: job, out) == 3 and (out / ledger.CARD).exists()


# Asking again


def test_a_finished_job_is_left_alone(place):
    make_inputs(place)
    summary = generate(place, place / "out")
    before = content(place / "out")
    log = place / "calls"
    again = generate(place, place / "out", model=ScriptedModel(log=log))
    assert again.idle and not log.exists() and content(place / "out") == before
    assert (again.rows, again.set_aside, again.images) == (summary.rows, summary.set_aside, summary.images)


def spoil(path, how):
    """Deletes a file, empties it, or turns one of its bits over; returns what it held."""
    data = path.read_bytes()
    if how == "deleted":
        path.unlink()
    elif how == "emptied":
        path.write_bytes(b"")
    else:
        place = len(data) // 2
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
    return data


@pytest.mark.parametrize("how", ["deleted", "emptied", "bit"])
def test_a_finished_folder_is_verified_and_mended(place, capsys, how):
    root, out = make_inputs(place), place / "out" / "data"
    (place / "ids.txt").write_text("p5\n")
    job = GenerateJob(
        **{
            "images": root,
            "model": ScriptedModel(),
            "processor": ScriptedProcessor(),
            "exclude_ids": [place / "ids.txt"],
        },
        **{"types": ["conversation", "detail"], "shard_size": 4, "batch_size": 2},
    )
    assert exit_code_of(lambda: job, out) == 3
    before = content(out)
    (sample, *_) = sorted(path.relative_to(out).as_posix() for path in out.glob("samples/*"))
    state = [ledger.PLAN, ledger.INPUTS, ledger.EXCLUDED, ledger.FINISHED]
    late, rows = [ledger.CARD, ledger.REPORT, sample], ["detail/train-00001.parquet", ledger.quarantine_file(0)]
    for name in (*state, *late, *rows, ledger.record_name(1)):
        log = place / "calls"
        log.unlink(missing_ok=True)
        spoil(out / name, how)
        capsys.readouterr()
        # A changed bit is only found by reading all, which --verify does. What is read anyway is checked anyway.
        ask = how == "bit" and name not in (*state[:2], ledger.FINISHED, ledger.record_name(1), ledger.EXCLUDED)
        if ask:
            assert exit_code_of(lambda: job, out) == 3 and content(out) != before, name
            assert "Nothing to do" in capsys.readouterr().out
        checked = replace(job, verify=ask, model=ScriptedModel(log=log))
        damaged = content(out)
        assert exit_code_of(partial(replace, checked), out, dry_run=True) == 0 and content(out) == damaged
        assert f"to be written again, 1 file:\n  {name} " in capsys.readouterr().out, name
        log.unlink(missing_ok=True)
        assert exit_code_of(partial(replace, checked), out) == 3
        told = capsys.readouterr().out
        assert f"Missing or damaged, and written again, 1 file:\n  {name} " in told, (name, told)
        assert content(out) == before, name
        assert log.exists() == (name in (*rows, ledger.record_name(1))), "the model is only needed for rows"
    assert exit_code_of(lambda: replace(job, verify=True), out) == 3
    # No hash counts the file that says so, nor that of the options.
    assert f"Verified: {len(before) - 2} files, all unchanged" in capsys.readouterr().out
    assert content(out) == before


def test_a_correction_is_verified_too(place, capsys):
    root, out = make_inputs(place), place / "out"
    job = CorrectJob(
        dataset=place / "llava.json", image_root=root, model=ScriptedModel(), processor=ScriptedProcessor(), verify=True
    )
    assert exit_code_of(lambda: job, out) == 3
    before = content(out)
    # Half of the file, so that the columns that a resumed job reads anyway are among what is damaged.
    rows = out / "corrected" / "train-00000.parquet"
    data = rows.read_bytes()
    rows.write_bytes(data[:4] + bytes(byte ^ 1 for byte in data[4 : len(data) // 2]) + data[len(data) // 2 :])
    assert exit_code_of(lambda: replace(job, verify=False), out) == 2
    assert "A file of rows is damaged" in (told := capsys.readouterr().err) and "with --verify finds it" in told
    assert exit_code_of(lambda: job, out) == 3
    assert "train-00000.parquet has other bytes than were written" in capsys.readouterr().out
    assert content(out) == before


def test_a_report_that_was_drawn_again_is_no_damage(place):
    make_inputs(place)
    generate(place, place / "out")
    write_report(place / "out", max_rows=2)
    drawn = content(place / "out")
    again = generate(place, place / "out", verify=True)
    assert again.idle and again.inspection.damaged == [] and content(place / "out") == drawn
    with pytest.raises(GenerationError, match="--verify keeps the files of the folder"):
        generate(place, place / "out", verify=True, overwrite=True)


def test_a_folder_of_an_older_version_is_verified_by_its_sizes(place):
    make_inputs(place)
    generate(place, place / "out")
    for path in (place / "out" / ledger.SHARDS).glob("*.json"):
        record = json.loads(path.read_text())
        del record["sha256"]
        record["files"] = {name: mark["size"] for name, mark in record["files"].items()}
        path.write_text(json.dumps(record))
    finished = json.loads((place / "out" / ledger.FINISHED).read_text())
    del finished["sha256"], finished["files"]
    (place / "out" / ledger.FINISHED).write_text(json.dumps(finished))
    again = generate(place, place / "out", verify=True)
    rows = len(list((place / "out").glob("*/train-*"))) + len(list((place / "out" / ledger.QUARANTINE).glob("*")))
    assert again.idle and again.inspection.damaged == [] and again.inspection.unhashed == rows + 2
    (place / "out" / ledger.CARD).unlink()
    spoil(place / "out" / "detail" / "train-00000.parquet", "emptied")
    assert [damage.name for damage in generate(place, place / "out").inspection.damaged] == [
        ledger.CARD,
        "detail/train-00000.parquet",
    ]
    assert (place / "out" / ledger.CARD).exists() and "files" in ledger.read_finished(place / "out")


def test_other_inputs_are_refused(place):
    root = make_inputs(place)
    generate(place, place / "out")
    Image.new("RGB", (3, 3)).save(root / "new.png")
    with pytest.raises(ConflictError, match=r"inputs\.listed was 11, now 12"):
        generate(place, place / "out")


@pytest.mark.parametrize("part", ["rows", "rejects", "skipped"])
@pytest.mark.parametrize("kind", ["generate", "correct"])
def test_a_shard_that_lost_a_text_is_not_committed(place, monkeypatch, kind, part):
    root = make_inputs(place)
    commit = resume.commit

    def lossy(folder, plan, shard, sources, output, schema):
        if lost := getattr(output, part):
            lost.pop()
        return commit(folder, plan, shard, sources, output, schema)

    def run():
        if kind == "generate":
            return generate(place, place / "out", model=ScriptedModel(malformed=2))
        given = {"model": Repeating("Why 1"), "processor": ScriptedProcessor(), "shard_size": 4}
        return correct_dataset(place / "llava.json", place / "out", image_root=root, **given)

    monkeypatch.setattr(resume, "commit", lossy)
    unit = "inputs" if part == "skipped" else "requested texts"
    with pytest.raises(RuntimeError, match=rf"Shard \d has \d+ {unit}, but \d+ are accounted for"):
        run()
    monkeypatch.undo()
    assert run().set_aside


def test_a_conversation_that_is_set_aside_is_named(place):
    root = make_inputs(place)
    given = {"model": ScriptedModel(), "processor": ScriptedProcessor(), "shard_size": 4}
    correct_dataset(place / "llava.json", place / "out", image_root=root, **given)
    (record,) = ledger.read_quarantine(place / "out")
    assert (record["path"], record["conversation_id"], record["pairs"]) == ("p3.png", "3", 2)


def test_a_picture_that_changed_under_its_name_is_refused_by_name(place, start):
    root = make_inputs(place, count=30)
    generate(place, place / "one" / "data")
    out = place / "two" / "data"
    never = place / "never"
    process = start(place, out, hold=str(never), free=14)
    until(lambda: waits(never), process)
    assert has_shards(out) and not (out / ledger.FINISHED).exists()
    process.kill()
    process.wait()
    locks.clear(out, "")
    before, kept = (root / "p9.png").read_bytes(), content(out)
    Image.new("RGB", (60, 50), "red").save(root / "p9.png")
    now = (root / "p9.png").stat().st_size
    with pytest.raises(ConflictError, match=rf'the size of "p9\.png" was {len(before)}, now {now}'):
        generate(place, out)
    assert content(out) == kept, "what is there stays as it is"
    (root / "p9.png").write_bytes(before)
    generate(place, out)
    assert content(out) == content(place / "one" / "data")


def test_a_picture_that_changes_while_the_job_runs_is_set_aside(place):
    root = make_inputs(place)
    model = ScriptedModel()
    before, write = (root / "p8.png").read_bytes(), model.generate

    def change(*given, **more):
        (root / "p8.png").write_bytes(before + b"more")
        return write(*given, **more)

    model.generate = change
    generate(place, place / "out", model=model, batch_size=1, shard_size=2)
    (record,) = [record for record in ledger.read_quarantine(place / "out") if record["path"] == "p8.png"]
    assert record["reason"] == f"was changed since the job was planned ({len(before)} bytes, now {len(before) + 4})"


def test_torn_state_is_made_again(place):
    make_inputs(place)
    generate(place, place / "out")
    before = content(place / "out")
    for name in (ledger.PLAN, ledger.INPUTS, ledger.FINISHED, f"{ledger.SHARDS}/00001.json"):
        for torn in (b"", b"{", b"[]", (place / "out" / name).read_bytes()[:30]):
            (place / "out" / name).write_bytes(torn)
            assert generate(place, place / "out").set_aside, name
            assert content(place / "out") == before, name
    (place / "out" / "detail" / "train-00001.parquet").unlink()
    generate(place, place / "out")
    assert content(place / "out") == before


def test_a_list_of_inputs_that_was_cut_or_altered_is_written_again(place):
    make_inputs(place)
    generate(place, place / "out")
    before = content(place / "out")
    listed = place / "out" / ledger.INPUTS
    whole = listed.read_bytes()
    for torn in (whole[:-40], whole[:-1], whole.replace(b"p8.png", b"p0.png")):
        listed.write_bytes(torn)
        (place / "out" / ledger.SHARDS / "00002.json").unlink()
        assert not generate(place, place / "out").idle
        assert content(place / "out") == before


def test_what_a_killed_job_left_out_does_not_stay(place, monkeypatch):
    make_inputs(place)
    (place / "ids.txt").write_text("p5\n")

    def die(folder, plan):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(ledger, "write_plan", die)
        generate(place, place / "out", exclude_ids=[place / "ids.txt"])
    assert "p5.png" in (place / "out" / ledger.EXCLUDED).read_text()
    assert generate(place, place / "out").excluded == {}
    assert not (place / "out" / ledger.EXCLUDED).exists()


def listed_pictures(place, count=8):
    """A COCO file of pictures, one of which is missing: its bytes, and what a job takes."""
    (place / "root").mkdir()
    names = [f"{index:06d}.png" for index in range(count)]
    for index, name in enumerate(names):
        Image.new("RGB", (6, 5), (index * 25, 40, 255 - index)).save(place / "root" / name)
    images = [{"id": index, "file_name": name} for index, name in enumerate(names)]
    (place / "coco.json").write_text(json.dumps({"images": images, "annotations": [], "categories": []}))
    missing = place / "root" / names[1]
    data = missing.read_bytes()
    missing.unlink()
    job = {"images": place / "coco.json", "format": "coco", "image_root": place / "root", "types": ["detail"]}
    job |= {"model": ScriptedModel(malformed=0), "processor": ScriptedProcessor(), "shard_size": 4}
    return missing, data, job


def test_a_shard_done_again_after_the_end_is_on_the_card(place):
    missing, data, job = listed_pictures(place)
    out = place / "out" / "data"
    assert generate_dataset(output=out, **job).set_aside == 1
    missing.write_bytes(data)
    (out / ledger.quarantine_file(0)).unlink()
    again = generate_dataset(output=out, **job)
    assert (again.rows, again.set_aside, again.resumed) == (8, 0, True)
    generate_dataset(output=place / "whole" / "data", **job)
    assert content(out) == content(place / "whole" / "data")
    code = "import sys; from datasets import load_dataset; print(len(load_dataset(sys.argv[1], split='train')))"
    told = forks.run("-c", code, out)
    assert told.stdout.split() == ["8"], told.stderr


@pytest.mark.parametrize("before", ["write_shard", "write_finished"])
def test_what_a_killed_attempt_set_aside_and_the_next_one_did_not_is_gone(place, monkeypatch, before):
    missing, data, job = listed_pictures(place)
    out = place / "out" / "data"

    def die(*given):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(ledger, before, die)
        generate_dataset(output=out, **job)
    assert [record["path"] for record in ledger.read_quarantine(out)] == [missing.name]
    missing.write_bytes(data)
    if before == "write_finished":  # the shard is finished, and asked for again
        (out / "detail" / "train-00000.parquet").unlink()
    again = generate_dataset(output=out, **job)
    assert (again.rows, again.set_aside, ledger.read_quarantine(out)) == (8, 0, [])
    generate_dataset(output=place / "whole" / "data", **job)
    assert content(out) == content(place / "whole" / "data")


def test_overwriting_goes_on_with_the_same_job(place):
    make_inputs(place)
    generate(place, place / "out", rank=0, world_size=2)
    log = place / "calls"
    generate(place, place / "out", overwrite=True, model=ScriptedModel(log=log))
    finished = sum(int(line.split()[1]) for line in log.read_text().splitlines())
    log.unlink()
    generate(place, place / "out", overwrite=True, model=ScriptedModel(log=log))
    assert sum(int(line.split()[1]) for line in log.read_text().splitlines()) > finished


# Memory, machines, retries


def test_too_little_memory_halves_the_batch_and_keeps_the_rows(place):
    make_inputs(place)
    generate(place, place / "a", batch_size=4)
    generate(place, place / "b", batch_size=4, model=ScriptedModel(fits=1))
    files = [sorted(path.glob("*/train-*.parquet")) for path in (place / "a", place / "b")]
    assert [path.read_bytes() for path in files[0]] == [path.read_bytes() for path in files[1]]
    assert [record.halved for record in ledger.shard_records(place / "b")] == [2, 2, 2], "4 to 2 to 1, in every shard"
    resumed, whole = place / "resumed" / "data", place / "whole" / "data"
    generate(place, whole, batch_size=4, model=ScriptedModel(fits=1))
    for share in ({"rank": 1, "world_size": 3}, {}):
        generate(place, resumed, batch_size=4, model=ScriptedModel(fits=1), **share)
    assert content(resumed) == content(whole)
    with pytest.raises(TransientError, match="Not enough memory for one image"):
        generate(place, place / "c", model=ScriptedModel(fits=0))


@pytest.mark.parametrize(
    "text",
    [
        "CUDA error: out of memory\nCompile with `TORCH_USE_CUDA_DSA` to enable device-side assertions.\n",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "MPS backend out of memory (MPS allocated: 8.00 GB, max allowed: 9.07 GB).",
        "[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to",
        "could not create a primitive",
        "std::bad_alloc",
        MemoryError(),
    ],
)
def test_too_little_memory_is_known_however_it_is_said(place, text):
    make_inputs(place, count=4)
    generate(place, place / "a", batch_size=4)
    full = text if isinstance(text, MemoryError) else RuntimeError(text)
    generate(place, place / "b", batch_size=4, model=ScriptedModel(fits=1, full=full))
    assert rows_of(place / "a") == rows_of(place / "b") != []
    assert sum(record.halved for record in ledger.shard_records(place / "b")) > 0
    with pytest.raises(RuntimeError, match="device-side assert"):
        generate(place, place / "c", model=ScriptedModel(fits=1, full=RuntimeError("device-side assert triggered")))


@pytest.mark.parametrize("full", [MemoryError(), RuntimeError("could not create a primitive")])
@pytest.mark.parametrize("where", ["model", "picture", "pixels", "rows", "report"])
def test_too_little_memory_anywhere_ends_in_a_sentence(place, monkeypatch, capsys, vigc_folder, full, where):
    make_inputs(place, count=4)

    def fail(*given, **more):
        raise full

    job = {
        "images": place / "pictures",
        "model": ScriptedModel(),
        "processor": ScriptedProcessor(),
        "types": ["detail"],
    }
    if where == "model":
        monkeypatch.setattr(VigcForConditionalGeneration, "from_pretrained", fail)
        job |= {"model": vigc_folder, "processor": None}
    place_of = {"picture": (Files, "open"), "pixels": (ScriptedProcessor, "__call__"), "rows": (resume, "commit")}
    if where != "model":
        monkeypatch.setattr(*place_of.get(where, (finish, "write_report")), fail)
    assert exit_code_of(lambda: GenerateJob(**job), place / "out") == 75
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and (
        "Out of memory" in told or "Not enough memory" in told or "does not fit into memory" in told
    )
    if where == "rows":
        assert ("(MemoryError)" if isinstance(full, MemoryError) else "(could not create a primitive)") in told
    monkeypatch.undo()
    if where != "model":
        assert exit_code_of(lambda: GenerateJob(**job), place / "out") == 3


def test_an_operation_that_a_library_lacks_is_no_want_of_memory(place):
    make_inputs(place, count=4)
    lacking = RuntimeError("could not create a primitive descriptor for a convolution")
    with pytest.raises(RuntimeError, match="primitive descriptor"):
        generate(place, place / "out", model=ScriptedModel(fits=0, full=lacking))


@pytest.mark.parametrize(("number", "said"), [(30, "read-only: mount it for writing"), (13, "permission denied")])
def test_a_folder_that_must_not_be_written_is_said_on_one_line(place, monkeypatch, capsys, number, said):
    make_inputs(place)
    generate(place, place / "out", rank=0, world_size=2)

    def fail(*given, **more):
        raise OSError(number, os.strerror(number), str(place / "out"))

    job = GenerateJob(
        **{"images": place / "pictures", "model": ScriptedModel(), "processor": ScriptedProcessor()},
        **{"types": ["conversation", "detail"], "shard_size": 4, "batch_size": 2},
    )
    for function in ("mkdir", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, function, fail)
            assert exit_code_of(lambda: job, place / function) == 2
            told = capsys.readouterr().err
            assert told.count("\n") == 1 and said in told and "give another --output" in told
    assert exit_code_of(lambda: job, place / "out") == 3


def test_too_little_memory_costs_a_correction_nothing_but_time(place):
    root = make_inputs(place)
    job = {"image_root": root, "processor": ScriptedProcessor(), "batch_size": 4}
    for name, fits in (("a", None), ("b", 1)):
        correct_dataset(place / "llava.json", place / name, model=ScriptedModel(fits=fits), **job)
    files = [sorted(path.glob("*/train-*.parquet")) for path in (place / "a", place / "b")]
    assert [path.read_bytes() for path in files[0]] == [path.read_bytes() for path in files[1]] != []
    assert sum(record.halved for record in ledger.shard_records(place / "b")) > 0
    with pytest.raises(TransientError, match="Not enough memory for one image"):
        correct_dataset(place / "llava.json", place / "c", model=ScriptedModel(fits=0), **job)


def test_the_machine_s_trouble_sets_no_picture_aside(place, monkeypatch):
    make_inputs(place)
    read_bytes = Path.read_bytes

    def fail(path):
        if path.name == "p6.png":
            raise OSError(24, "Too many open files")
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", fail)
    with pytest.raises(TransientError, match=r"Too many open files.*run the same command again"):
        generate(place, place / "out")
    monkeypatch.undo()
    generate(place, place / "whole")


@pytest.mark.parametrize("leaves", ["nothing", "an empty folder", "another file"])
def test_a_share_that_goes_away_sets_no_picture_aside(place, monkeypatch, leaves):
    root = make_inputs(place)
    read_bytes = Path.read_bytes

    def vanish(path):
        if path.name == "p6.png":
            shutil.rmtree(root)
            if leaves != "nothing":
                root.mkdir()
            if leaves == "another file":
                (root / "not mounted").touch()
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", vanish)
    with pytest.raises(TransientError, match="the folder of the images is missing or empty"):
        generate(place, place / "out")


def coco_job(place, names, **given):
    """The pictures of those names as COCO lists them, each of them different, and a job over them."""
    for index, name in enumerate(names):
        path = place / "root" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (6, 5), (index * 20, 40, 90)).save(path)
    listed = {"images": [{"id": index, "file_name": name} for index, name in enumerate(names)], "annotations": []}
    (place / "coco.json").write_text(json.dumps({**listed, "categories": []}))
    scripted = {"model": ScriptedModel(malformed=0), "processor": ScriptedProcessor(), "types": ["detail"]}
    paths = {"images": place / "coco.json", "image_root": place / "root", "format": "coco"}
    return GenerateJob(**paths, **scripted, shard_size=4, **given)


@pytest.mark.parametrize("left", ["nothing", "another file", "a part"])
def test_a_mount_point_without_its_pictures_sets_none_aside(place, capsys, left):
    job = coco_job(place, [f"{part}/{index}.png" for part in "ab" for index in range(8)])
    root, saved, out = place / "root", place / "saved", place / "out" / "data"
    assert exit_code_of(lambda: job, place / "whole" / "data") == 0
    assert exit_code_of(lambda: replace(job, rank=0, world_size=4), out) == 0
    shutil.copytree(root, saved)
    shutil.rmtree(root)
    root.mkdir()
    if left == "another file":
        (root / "not mounted").touch()
    if left == "a part":
        shutil.copytree(saved / "a", root / "a")
        (root / "b").mkdir()
    capsys.readouterr()
    assert exit_code_of(lambda: job, out) == 75
    said = "the folder of the images is missing or empty" if left == "a part" else "None of 16 images can be read"
    assert said in (told := capsys.readouterr().err) and "run the same command again" in told
    assert ledger.read_quarantine(out) == [] and not (out / ledger.FINISHED).exists()
    shutil.copytree(saved, root, dirs_exist_ok=True)
    (root / "not mounted").unlink(missing_ok=True)
    assert exit_code_of(lambda: job, out) == 0 and content(out) == content(place / "whole" / "data")


@pytest.mark.parametrize("dedup", [False, True])
def test_an_entry_in_an_empty_folder_is_set_aside_and_blocks_nothing(place, capsys, dedup):
    missing = ["a/gone/1.png", "b/deeper/2.png", "b/x.png"]
    job = coco_job(place, [*(f"a/{index}.png" for index in range(8)), *missing], dedup=dedup)
    for name in missing:
        (place / "root" / name).unlink()
    (place / "root" / "b" / "deeper").rmdir()
    assert exit_code_of(lambda: job, place / "dry", dry_run=True) == 0, capsys.readouterr().err
    # Begun, and killed before its end: the beginning counts.
    assert exit_code_of(lambda: replace(job, rank=0, world_size=3), place / "out") == 0
    assert exit_code_of(lambda: job, place / "out") == 3, capsys.readouterr().err
    assert [record["path"] for record in ledger.read_quarantine(place / "out")] == missing
    assert json.loads((place / "out" / ledger.EMPTY_FOLDERS).read_text()) == ["a/gone", "b", "b/deeper"]
    assert exit_code_of(lambda: job, place / "out", dry_run=True) == 0
    # What another job replaces knows nothing of it.
    Image.new("RGB", (6, 5), "red").save(place / "root" / "b" / "x.png")
    assert exit_code_of(lambda: replace(job, overwrite=True), place / "out") == 3
    assert [record["path"] for record in ledger.read_quarantine(place / "out")] == missing[:2]
    assert json.loads((place / "out" / ledger.EMPTY_FOLDERS).read_text()) == ["a/gone"]


def test_pictures_that_are_missing_among_others_are_set_aside(place):
    job = coco_job(place, [f"{index}.png" for index in range(9)])
    missing = ["0.png", "4.png", "5.png", "6.png", "7.png"]  # one of the first shard, and the second
    for name in missing:
        (place / "root" / name).unlink()
    assert exit_code_of(lambda: job, place / "out") == 3
    assert [record["path"] for record in ledger.read_quarantine(place / "out")] == missing


def test_the_machine_s_trouble_in_the_hash_pass_is_not_kept(place, monkeypatch):
    root = make_inputs(place)
    for name in ("p5.png", "p6.png", "p7.png"):
        shutil.copy(root / "p4.png", root / name)
    path_open, troubles = Path.open, iter(range(3))

    def fail(path, *given, **more):
        if path.suffix == ".png" and next(troubles, None) is not None:
            raise OSError(24, "Too many open files")
        return path_open(path, *given, **more)

    with (
        monkeypatch.context() as patch,
        pytest.raises(TransientError, match=r"Too many open files.*same command again"),
    ):
        patch.setattr(Path, "open", fail)
        generate(place, place / "out", dedup=True)
    summary = generate(place, place / "out", dedup=True)
    assert (summary.duplicates, summary.repeated) == (4, 0)


def test_texts_that_are_no_pairs_are_tried_again_and_then_set_aside(place):
    make_inputs(place)
    few = generate(place, place / "few", model=ScriptedModel(malformed=2))
    none = generate(place, place / "none", model=ScriptedModel(malformed=2), retries=0)
    never = generate(place, place / "never", model=ScriptedModel(malformed=1))
    assert few.rows > none.rows > never.rows == 0
    records = [record for record in ledger.read_quarantine(place / "never") if record["kind"] == "text"]
    assert len(records) == never.images * 2
    assert all(record["attempts"] == 3 and record["text"] and record["reason"] for record in records)
    again = [json.loads(row["extra"]).get("attempt") for row in rows_of(place / "few") if row["extra"]]
    assert set(again) - {None} <= {2, 3} and any(again)


def test_an_answer_without_end_is_set_aside_with_what_it_says(place):
    make_inputs(place, count=4)
    summary = generate(place, place / "out", model=Repeating())
    records = [record for record in ledger.read_quarantine(place / "out") if record["kind"] == "text"]
    assert summary.rows == 0 and len(records) == summary.images * 2
    for record in records:
        assert record["reason"] == "the answer repeats itself without end"
        assert record["text"].startswith("Question: What is ")
        assert record["answer"] == ("It is " + "the cat " * 30).strip()
    assert "the cat the cat the cat" in (place / "out" / ledger.REPORT).read_text()


def test_questions_about_a_picture_are_all_different(place):
    make_inputs(place)
    summary = generate(place, place / "out", questions=4, dedup=True, model=ScriptedModel(malformed=0))
    by_picture = {}
    for row in rows_of(place / "out"):
        by_picture.setdefault((row["image_id"], row["type"]), []).append(row["question"])
    assert max(map(len, by_picture.values())) > 1
    for questions in by_picture.values():
        assert not any(is_same_question(text, questions[:index]) for index, text in enumerate(questions))
    assert summary.rows + summary.dropped == summary.images * 2 * 4
    assert len({row["id"] for row in rows_of(place / "out")}) == summary.rows


@pytest.mark.parametrize(
    ("text", "endless"),
    [
        ("the cat " * 20, True),
        ("A long way. " * 6, True),
        ("It begins well, " + "and then " * 30, True),
        ("the cat " * 20 + "the c", True),
        ("A dog. " * 30 + "A d", True),
        ("A word that is long, and then a few more words than that " * 5 + "A wo", True),
        ("ha" * 500, True),
        ("What a cat" + "!" * 400, True),
        ("\u732b\u304c\u3044\u308b\u3002" * 30 + "\u732b\u304c", True),
        ("no no no no", False),
        ("1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20", False),
        ("He shouts " + "ha" * 20 + "!", False),
        ("A sign says: " + "-" * 40, False),
        ("There are a red cat, a blue cat, a green cat and a large cat on the mat.", False),
        ("", False),
    ],
)
def test_endless_texts(text, endless):
    assert is_endless(text) is endless


def test_copies_are_worked_on_once_and_named(place):
    root = make_inputs(place)
    shutil.copy(root / "p5.png", root / "zz.png")
    near = generate(place, place / "near")
    assert near.duplicates == 0, "the copies lie in other shards"
    ids = [row["id"] for row in rows_of(place / "near")]
    assert near.repeated == len(ids) - len(set(ids)) > 0
    said = f"Rows with the same `id` as another row: {near.repeated}. Their images are exact copies. `--dedup` finds"
    assert said in (place / "near" / "README.md").read_text()
    far = generate(place, place / "far", dedup=True)
    assert far.duplicates == 2 and far.images == near.images - 2 and far.repeated == 0
    assert "as another row" not in (place / "far" / "README.md").read_text()
    named = {
        name
        for row in rows_of(place / "far")
        if row["extra"]
        for name in json.loads(row["extra"]).get("same_picture", [])
    }
    assert named == {"sub/p1 again.png", "zz.png"}
    hashes = sorted((place / "far" / ledger.HASHES).glob("*"))
    assert hashes and "copies" in (place / "far" / "README.md").read_text()
    one = generate(place, place / "one", shard_size=100)
    assert one.duplicates == 2 and one.rows == far.rows
    assert len({row["id"] for row in rows_of(place / "far")}) == far.rows


def test_interrupted_by_a_signal(place):
    make_inputs(place, count=40)
    code = f"""
import sys
sys.path[:0] = [{str(FAULTS)!r}, {str(SUPPORT)!r}]
import faults
from job_codes import exit_code_of
from pathlib import Path
from vigc.generation import GenerateJob
place = Path({str(place)!r})
model = faults.ScriptedModel(hold=place / "go", free=12)
job = GenerateJob(images=place / "pictures", types=["detail"], model=model,
                  processor=faults.ScriptedProcessor(), shard_size=4, batch_size=2)
sys.exit(exit_code_of(lambda: job, place / "out"))
"""
    process = forks.popen("-c", code, stderr=subprocess.PIPE)
    try:
        until(lambda: waits(place / "go"), process)
        assert has_shards(place / "out")
        process.terminate()
        _, told = process.communicate()
    finally:
        process.kill()
    assert process.returncode == 130 and "Run the same command again to resume" in told
    assert not (place / "out" / ledger.FINISHED).exists()
    (place / "go").touch()
    again = forks.run("-c", code)
    assert again.returncode == 3 and "Resumed an existing job" in again.stdout, again.stderr
    told = re.search(r"^(\d+) rows from \d+ images \((\d+) of them by this run, in \d+\.\d s\), ", again.stdout, re.M)
    assert told and 0 < int(told[2]) < int(told[1]), again.stdout
    idle = forks.run("-c", code)
    assert f"\n{told[1]} rows from" in idle.stdout and "Nothing to do" in idle.stdout
    assert not re.search(r" in \d+\.\d s", idle.stdout), "no time for what this run did not do"
