"""Where shards are made must not matter: a Ray cluster writes the folder that one process does, kills and all."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import forks
import psutil
import pytest
from choices import also
from dataset_rows import content
from faults import make_inputs
from scripted import ScriptedModel, ScriptedProcessor

from vigc.errors import GenerationError
from vigc.generation import GenerateJob, correct_dataset, generate_dataset
from vigc.jobs import executors, ledger, locks

try:
    import ray
except ImportError:
    ray = None

needs_ray = pytest.mark.skipif(ray is None, reason="Ray is not installed: pip install 'vigc[ray]'")


@pytest.fixture
def home(monkeypatch):
    """A place for Ray's own files, of a short name (sockets lie there), and out of sight of other clusters."""
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
    monkeypatch.setenv("RAY_TMPDIR", folder)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def cluster(home):
    """A cluster that is there before the job and after it."""
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield ray.get_runtime_context().gcs_address
    ray.shutdown()


@pytest.fixture
def pictures(parity_dir, tmp_path):
    folder = tmp_path / "pictures"
    shutil.copytree(parity_dir / "images", folder)
    (folder / "broken.png").write_bytes(b"broken")
    return folder


def start(*arguments, **environment):
    environment = {**os.environ, **environment}
    return forks.popen("-m", "vigc", *arguments, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def workers_below(process):
    """The processes of a cluster that work for a job."""
    found = []
    for child in psutil.Process(process).children(recursive=True):
        try:
            if child.cmdline()[:1] and child.cmdline()[0].startswith("ray::ShardWorker"):
                found.append(child)
        except psutil.NoSuchProcess:
            continue
    return found


@needs_ray
def test_a_killed_worker_costs_a_shard_and_changes_nothing(home, pictures, vigc_folder, tmp_path):
    job = {"types": ["conversation", "detail"], "shard_size": 1}
    generate_dataset(pictures, tmp_path / "local" / "data", model=vigc_folder, **job)
    out = tmp_path / "ray" / "data"
    options = ("--types", "conversation,detail", "--shard-size", 1, "--engine", "ray", "--workers", 2)
    with locks.hold(out, "finish"):  # before which the job waits, so that it is at work however slow this process is
        process = start("generate", pictures, "-o", out, "-m", vigc_folder, *options)
        while not list((out / ledger.SHARDS).glob("*.json")):
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        victim = workers_below(process.pid)[0]
        victim.send_signal(signal.SIGKILL)
        assert not (out / ledger.FINISHED).exists(), "killed in the middle"
    said, complaints = process.communicate()
    assert process.returncode == 3 and "from 6 images" in said, complaints
    assert content(out) == content(tmp_path / "local" / "data")


@needs_ray
def test_an_existing_cluster_is_used_and_left_alone(cluster, vigc_folder, pictures, tmp_path):
    entry = '{{"id": {0}, "image": "img_{0}.png", "conversations": [{{"from": "human", "value": "<image>\\nWhat?"}}, '
    entry += '{{"from": "gpt", "value": "A thing. It is grey."}}]}}'
    conversations = tmp_path / "llava.json"
    conversations.write_text(f"[{', '.join(entry.format(index) for index in range(3))}]")
    correct_dataset(conversations, tmp_path / "local" / "data", image_root=pictures, model=vigc_folder, shard_size=2)
    out = tmp_path / "ray" / "data"
    options = ("--image-root", pictures, "--shard-size", 2, "--engine", "ray")
    seen = set()
    with locks.hold(out, "finish"):  # before which the job waits, with its workers
        process = start("correct", conversations, "-o", out, "-m", vigc_folder, *options, RAY_ADDRESS=cluster)
        while len(list((out / ledger.SHARDS).glob("*.json"))) < 2:
            assert process.poll() is None, process.communicate()
            seen.add(len(workers_below(os.getpid())))
            time.sleep(0.1)
        seen.add(len(workers_below(os.getpid())))
    _, complaints = process.communicate()
    assert process.returncode == 0, complaints
    assert seen - {0} == {1}, "one worker for the one CPU of this cluster"
    assert content(out) == content(tmp_path / "local" / "data")
    # What goes wrong in a worker is said as if it had gone wrong here, and claims no folder.
    broken = shutil.copytree(vigc_folder, tmp_path / "broken")
    (broken / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(GenerationError, match=r"The model .*broken' cannot be loaded") as caught:
        generate_dataset(pictures, tmp_path / "none", model=broken, engine="ray")
    assert "Traceback" not in str(caught.value) and not (tmp_path / "none").exists()
    assert ray.is_initialized() and [node["Alive"] for node in ray.nodes()] == [True]


def test_without_ray_it_is_said_how_to_get_it(pictures, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(GenerationError, match=r"not installed: pip install 'vigc\[ray\]'"):
        generate_dataset(pictures, tmp_path / "out", model="any", engine="ray")
    assert not (tmp_path / "out").exists()


def test_another_executor_is_a_class_and_a_line(tmp_path, monkeypatch):
    class Backwards(executors.LocalExecutor):
        """Makes the last shard first."""

        def run(self, folder, plan, shards, report):
            yield from super().run(folder, plan, reversed(list(shards)), report)

    monkeypatch.setitem(executors.EXECUTORS, "backwards", Backwards)
    also(monkeypatch, GenerateJob, "engine", "backwards")
    make_inputs(tmp_path)
    job = {"model": ScriptedModel(), "processor": ScriptedProcessor(), "types": ["detail"], "shard_size": 4}
    summary = generate_dataset(tmp_path / "pictures", tmp_path / "one" / "data", engine="backwards", **job)
    generate_dataset(tmp_path / "pictures", tmp_path / "other" / "data", **job)
    assert content(tmp_path / "one" / "data") == content(tmp_path / "other" / "data")
    told = json.loads(json.dumps(summary.to_json()))
    assert (told["rows"], told["skipped"], told["types"]["detail"]["rows"]) == (summary.rows, 2, summary.rows)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"engine": "spark"}, "engine 'spark' is not known: use one of local, ray"),
        ({"workers": 2}, "workers=2 needs --engine ray"),
        pytest.param({"engine": "ray"}, "every process loads the model: give its folder", marks=needs_ray),
        pytest.param({"engine": "ray", "model": "any", "device": "cuda:1"}, "Ray chooses", marks=needs_ray),
    ],
)
def test_what_no_executor_can_do_is_refused(pictures, tmp_path, given, reason):
    job = {"model": ScriptedModel(), "processor": ScriptedProcessor(), **given}
    with pytest.raises(GenerationError, match=reason):
        generate_dataset(pictures, tmp_path / "out", **job)
    assert not (tmp_path / "out").exists()
