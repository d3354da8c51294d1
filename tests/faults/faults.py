"""A process that runs small jobs and kills them: before every write step, at random, on a full or broken disk.

It imports everything once and forks a child for each run, so that a run costs a fraction of a second.

    python tests/faults/faults.py '{"action": "sweep", "folder": "...", "job": "generate", "bug": null}'
"""

import errno
import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false")
sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "support")]

import bugs
import numpy as np
import seams
import torch
from dataset_rows import content
from PIL import Image
from scripted import ScriptedModel, ScriptedProcessor

from vigc.errors import VigcError, is_transient
from vigc.generation import correct_dataset, generate_dataset

torch.set_num_threads(1)
DIED, PLENTY = 77, 10_000


def make_inputs(folder, count=9):
    """Pictures, one of them twice, one broken, one empty, one from elsewhere; and conversations about some of them."""
    root = folder / "pictures"
    (root / "sub").mkdir(parents=True)
    for index in range(count):
        Image.new("RGB", (6, 5), (index * 25 % 256, 40, 255 - index)).save(root / f"p{index}.png")
    shutil.copy(root / "p1.png", root / "sub" / "p1 again.png")
    (root / "p3.png").write_bytes((root / "p2.png").read_bytes()[:40])
    (root / "zero.jpg").touch()
    entries = [
        {
            "id": index,
            "image": f"p{index}.png",
            "conversations": [
                {"from": "human", "value": "<image>\nWhat is this?"},
                {"from": "gpt", "value": "A thing. It is grey."},
                {"from": "human", "value": f"Why {index}?"},
                {"from": "gpt", "value": "Nobody knows."},
            ],
        }
        for index in range(count)
    ]
    del entries[-1]["image"]
    (folder / "llava.json").write_text(json.dumps(entries))
    return root


def make_choice(folder):
    """Pictures that do not look alike, with copies and an empty one; of others an id and a picture, to be left out."""
    root, theirs, draw = folder / "patterns", folder / "theirs", np.random.default_rng(0)
    for index in range(10):
        path = root / f"p{index}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(draw.integers(0, 255, (24, 24, 3), dtype=np.uint8)).save(path)
    for copied, name in ((1, "copy.png"), (7, "zz.png")):
        shutil.copy(root / f"p{copied}.png", root / name)
    (root / "zero.jpg").touch()
    theirs.mkdir()
    shutil.copy(root / "p4.png", theirs / "test.png")
    (folder / "ids.txt").write_text("p5\n")
    seams.HASH_PIECE.replace(4)
    seams.perceptual_hash(Image.new("RGB", (8, 8)))  # its imports, once and not in every child


def run(folder, out, job, log=None, **more):
    """One run in this process; returns the exit code that the command would have."""
    own = {name: more.pop(name) for name in ("delay", "hold", "free") if name in more}
    model = ScriptedModel(log=log, **own)
    common = {"model": model, "processor": ScriptedProcessor(), "shard_size": 4, "batch_size": 2, **more}
    try:
        if job == "correct":
            summary = correct_dataset(folder / "llava.json", out, image_root=folder / "pictures", **common)
        elif job == "choosy":
            left_out = {"exclude_ids": [folder / "ids.txt"], "exclude_images": [folder / "theirs"]}
            summary = generate_dataset(folder / "patterns", out, types=["detail"], dedup=True, **left_out, **common)
            assert (summary.images, summary.duplicates, sum(summary.excluded.values())) == (8, 2, 2)
        else:
            summary = generate_dataset(folder / "pictures", out, types=["conversation", "detail"], **common)
    except VigcError as error:
        return error.exit_code
    except OSError as error:
        return 75 if is_transient(error) else 1
    return 3 if summary.set_aside else 0


class Steps:
    """Counts every step of writing below a folder, and does harm at one of them.

    Args:
        folder: The dataset folder.
        at: The number of the step, from 1; 0 for none.
        harm: "die", or an errno: raised once (EIO) or from then on (ENOSPC, EROFS).
    """

    def __init__(self, folder, at=0, harm="die"):
        self.folder, self.at, self.harm, self.count = str(folder), at, harm, 0
        self.synced, self.unsynced = set(), []

    def step(self, path):
        if not str(path).startswith(self.folder) or "/locks/" in str(path) or str(path).endswith("/locks"):
            return
        self.count += 1
        if not self.at or self.count < self.at:
            return
        if self.harm == "die":
            if self.count == self.at:
                os._exit(DIED)
        elif self.count == self.at or self.harm in (errno.ENOSPC, errno.EROFS):
            raise OSError(self.harm, os.strerror(self.harm), str(path))

    def install(self):
        for name in ("mkdir", "unlink", "rmdir"):
            original = getattr(os, name)

            def wrapped(path, *rest, original=original, **more):
                self.step(path)
                return original(path, *rest, **more)

            setattr(os, name, wrapped)
        replace, fsync, path_open = os.replace, os.fsync, Path.open

        def checked_replace(source, target):
            self.step(target)
            if str(source) not in self.synced:
                self.unsynced.append(str(source))
            return replace(source, target)

        def checked_fsync(descriptor):
            path = os.readlink(f"/proc/self/fd/{descriptor}")
            self.step(path)
            self.synced.add(path)
            return fsync(descriptor)

        def checked_open(path, mode="r", *rest, **more):
            if "r" in mode and "+" not in mode:
                return path_open(path, mode, *rest, **more)
            self.step(path)
            return _Torn(path_open(path, mode, *rest, **more), self, path)

        os.replace, os.fsync, Path.open = checked_replace, checked_fsync, checked_open


class _Torn:
    """A file of which half a write arrives, if that is the step."""

    def __init__(self, file, steps, path):
        self.file, self.steps, self.path = file, steps, path

    def write(self, data):
        half = len(data) // 2
        self.file.write(data[:half])
        self.file.flush()
        self.steps.step(self.path)
        return self.file.write(data[half:])

    def __getattr__(self, name):
        return getattr(self.file, name)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.file.close()


def child(folder, out, job, at=0, harm="die", bug=None, **more):
    """A run in a child; returns (exit code, number of steps, files renamed before they were safe)."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            bugs.install(bug)
            steps = Steps(out, at, harm)
            steps.install()
            code = run(folder, out, job, **more)
            os.write(writer, json.dumps([steps.count, steps.unsynced]).encode())
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            code = 99
        os._exit(code)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        said = pipe.read()
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    count, unsynced = json.loads(said) if said else (None, [])
    return code, count, unsynced


def difference(expected, found):
    names = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    return ", ".join(names[:5])


def sweep(folder, job, bug=None, harms=("die",), start=1, every=1, stop=False):
    """Does each harm at every step of a job, runs the job again, and compares with a run that nothing happened to."""
    work = folder / "work"
    reference = folder / "reference" / "data"
    good = child(folder, reference, job, bug=bug)
    assert good[0] in (0, 3), good
    expected = content(reference)
    out = work / "data"
    failures, points = [], 0
    _, total, unsynced = child(folder, out, job, bug=bug)
    if unsynced:
        failures.append(f"renamed before it was safe on disk: {unsynced[0]}")
    if content(out) != expected:
        failures.append(f"undisturbed: {difference(expected, content(out))}")
    for harm in harms:
        for at in range(start, (total or 0) + 1, every):
            if failures and stop:
                return {"points": points, "failures": failures, "steps": total}
            points += 1
            shutil.rmtree(work, ignore_errors=True)
            code, _, _ = child(folder, out, job, at=at, harm=harm, bug=bug)
            if code in (0, 3) and content(out) != expected:
                failures.append(f"{harm} at {at}: ended with {code}, but {difference(expected, content(out))} differ")
            if harm == "die" and code != DIED:
                failures.append(f"{harm} at {at}: ended with {code}")
            if harm != "die" and code not in (2 if harm == errno.EROFS else 75, 0, 3):
                failures.append(f"{harm} at {at}: ended with {code}")
            code, _, _ = child(folder, out, job, bug=bug)
            if code != 3 or content(out) != expected:
                failures.append(f"{harm} at {at}: run again {code}, {difference(expected, content(out))} differ")
    return {"points": points, "failures": failures, "steps": total}


def kill(folder, job, times, seed):
    """Kills a job at random moments until it is done, again and again; counts what was written more than once."""
    draw = random.Random(seed)
    reference, out, log = folder / "reference" / "data", folder / "work" / "data", folder / "log"
    child(folder, reference, job)
    expected = content(reference)
    dearest = max(cost_of_shard(folder, job, shard, shards=3) for shard in range(3))
    failures, kills, calls = [], 0, []
    begun = time.monotonic()
    child(folder, folder / "timed" / "data", job, delay=0.004)
    usual = time.monotonic() - begun
    while kills < times:
        shutil.rmtree(folder / "work", ignore_errors=True)
        log.unlink(missing_ok=True)
        died = 0
        while True:
            pid = os.fork()
            if pid == 0:
                os._exit(run(folder, out, job, log=str(log), delay=0.004))
            # Longer from one time to the next: a machine that became busy since must get somewhere, too.
            deadline = time.monotonic() + draw.random() * usual * (1.2 + 0.1 * died)
            status = (0, 0)
            while status[0] == 0 and time.monotonic() < deadline:
                status = os.waitpid(pid, os.WNOHANG)
                time.sleep(0.001)
            if status[0] == 0:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                died += 1
                kills += 1
                continue
            if os.waitstatus_to_exitcode(status[1]) != 3:
                failures.append(f"after {died} kills: exit {os.waitstatus_to_exitcode(status[1])}")
            break
        if content(out) != expected:
            failures.append(f"after {died} kills: {difference(expected, content(out))} differ")
        calls.append((died, rows_of_log(log)))
    return {"kills": kills, "failures": failures, "calls": calls, "shard": dearest}


def cost_of_shard(folder, job, shard, shards):
    """Rows that are written for one of a job's shards, second attempts included."""
    log = folder / "log of a shard"
    log.unlink(missing_ok=True)
    child(folder, folder / "shards" / str(shard), job, rank=shard, world_size=shards, log=str(log))
    return rows_of_log(log)


def rows_of_log(log):
    return sum(int(line.split()[1]) for line in log.read_text().splitlines()) if log.exists() else 0


def race(folder, job, rounds, bug=None):
    """Two writers begin at once, and the one that is at work waits for the other's end; as often as asked for."""
    reference, out, log, go = folder / "reference" / "data", folder / "work" / "data", folder / "log", folder / "go"
    child(folder, reference, job)
    expected = content(reference)
    failures = []
    for number in range(rounds):
        for path in (log, go):
            path.unlink(missing_ok=True)
        shutil.rmtree(folder / "work", ignore_errors=True)
        ends = end_of_both(folder, out, job, log, go, bug)
        if sorted(ends) != [3, 5] or content(out) != expected:
            failures.append(f"round {number}: ended with {ends}, {difference(expected, content(out))} differ")
    return {"rounds": rounds, "failures": failures}


def end_of_both(folder, out, job, log, go, bug):
    """The exit codes of two writers; both may go on as soon as one has ended, or both are at work."""
    barrier, ready = os.pipe()
    pids = []
    for _ in range(2):
        pid = os.fork()
        if pid == 0:
            bugs.install(bug)
            os.close(ready)
            os.read(barrier, 1)  # returns when the other end is closed
            os._exit(run(folder, out, job, log=str(log), hold=str(go)))
        pids.append(pid)
    os.close(barrier)
    os.close(ready)
    ends = {}
    while len(ends) < 2:
        for pid in pids:
            if pid not in ends and (found := os.waitpid(pid, os.WNOHANG))[0]:
                ends[pid] = os.waitstatus_to_exitcode(found[1])
        at_work = {line.split()[0] for line in log.read_text().splitlines()} if log.exists() else set()
        if ends or len(at_work) == 2:
            go.touch()
        time.sleep(0.002)
    return list(ends.values())


def main():
    order = json.loads(sys.argv[1])
    folder = Path(order.pop("folder"))
    action = {"sweep": sweep, "kill": kill, "race": race}[order.pop("action")]
    make_inputs(folder, order.pop("count", 9))
    if order["job"] == "choosy":
        make_choice(folder)
    run(folder, folder / "first" / "data", order["job"])  # what a first run imports and compiles, once for all children
    print(json.dumps(action(folder, **order)))


if __name__ == "__main__":
    main()
