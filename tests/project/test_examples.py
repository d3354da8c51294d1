"""The programs in examples/, each run as it is written, in an empty folder."""

import json
import os
import shutil
import subprocess
import sys
import tempfile

import forks
import pyarrow.parquet as pq
import pytest
import torch
from conftest import ROOT
from datasets import load_dataset

from vigc import VigcForConditionalGeneration
from vigc.scenes import VIGC_TINY, write_scenes

EXAMPLES = ROOT / "examples"
MOST_LINES = 60


def run(name, folder, **environment):
    done = forks.run(EXAMPLES / name, cwd=folder, env={**os.environ, **environment})
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_they_are_short_and_all_are_run_here():
    programs = sorted(EXAMPLES.iterdir())
    text = (ROOT / "tests" / "project" / "test_examples.py").read_text(encoding="utf-8")
    for path in programs:
        assert len(path.read_text(encoding="utf-8").splitlines()) < MOST_LINES, path.name
        assert f'"{path.name}"' in text, f"{path.name} is not run"


def test_images_to_rows(tmp_path):
    printed = run("images_to_rows.py", tmp_path)
    assert "4 rows about 2 images" in printed and "answer" in printed
    assert load_dataset(str(tmp_path / "example-rows"), split="train").num_rows == 4
    assert (tmp_path / "example-rows" / "report" / "index.html").is_file()


def test_correct_llava_file(tmp_path):
    printed = run("correct_llava_file.py", tmp_path)
    assert printed.count("was 'It is black.'") == 2
    given = json.loads((tmp_path / "example-llava-scenes" / "wrong_answers.json").read_text(encoding="utf-8"))
    corrected = json.loads((tmp_path / "example-llava" / "conversations.json").read_text(encoding="utf-8"))
    for old, new in zip(given, corrected, strict=True):
        assert {**new, "conversations": None} == {**old, "conversations": None}
        assert new["conversations"][0] == old["conversations"][0]
        assert new["conversations"][1]["value"] not in ("", "It is black.")


def test_train_from_rows(tmp_path):
    assert "after 2 steps, model in example-trained" in run("train_from_rows.py", tmp_path)
    before = VigcForConditionalGeneration.from_pretrained(VIGC_TINY).state_dict()
    after = VigcForConditionalGeneration.from_pretrained(tmp_path / "example-trained").state_dict()
    changed = {name.split(".")[0] for name, weight in after.items() if not torch.equal(weight, before[name])}
    assert changed == {"query_tokens", "qformer", "language_projection"}, changed


@pytest.fixture
def cluster_programs(tmp_path):
    """`vigc`, and what Slurm brings: `srun` runs its command once for each task and exits with the highest code."""
    folder = tmp_path / "bin"
    folder.mkdir()
    forks.write_program(folder / "vigc", forks.everything(), "-m", "vigc")
    for name, text in {
        "srun": "highest=0; for SLURM_PROCID in $(seq 0 $((SLURM_NTASKS - 1))); do export SLURM_PROCID\n"
        '"$@" || { code=$?; [ $code -gt $highest ] && highest=$code; }\ndone; exit $highest',
        "scontrol": 'echo "$@" >> requeued',
    }.items():
        (folder / name).write_text(f"#!/bin/bash\n{text}\n", encoding="utf-8")
        (folder / name).chmod(0o755)
    return folder


def sbatch(folder, programs, **environment):
    """Runs the script as Slurm would, in an allocation of two tasks."""
    slurm = {"SLURM_NTASKS": "2", "SLURM_JOB_ID": "7", "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
    command = ["bash", EXAMPLES / "slurm.sbatch"]
    return subprocess.run(
        command, cwd=folder, env={**os.environ, **slurm, **environment}, capture_output=True, text=True
    )


def test_slurm(tmp_path, cluster_programs):
    write_scenes(tmp_path / "scenes", rows=6, seed=1)
    job = {"IMAGES": "scenes/images", "TYPES": "conversation", "SHARD_SIZE": "1", "OUTPUT": "rows"}
    done = sbatch(tmp_path, cluster_programs, **job)
    assert done.returncode == 0, done.stderr
    files = sorted((tmp_path / "rows" / "conversation").glob("*.parquet"))
    assert [pq.read_metadata(path).num_rows for path in files] == [1, 1]  # a shard of each rank
    assert (tmp_path / "rows" / "README.md").is_file() and not (tmp_path / "requeued").exists()


def test_slurm_requeues_after_a_transient_error_and_reports_another(tmp_path, cluster_programs):
    for code, wanted, requeued in ((75, 0, "requeue 7\n"), (3, 0, None), (2, 2, None), (4, 4, None)):
        (cluster_programs / "vigc").unlink()
        (cluster_programs / "vigc").write_text(f"#!/bin/bash\nexit {code}\n", encoding="utf-8")
        (cluster_programs / "vigc").chmod(0o755)
        done = sbatch(tmp_path, cluster_programs)
        found = tmp_path / "requeued"
        assert done.returncode == wanted, (code, done.stderr)
        assert (found.read_text(encoding="utf-8") if found.exists() else None) == requeued, code
        found.unlink(missing_ok=True)


def test_ray_cluster(tmp_path):
    pytest.importorskip("ray")
    home = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # of a short name: sockets lie there
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    environment |= {"RAY_TMPDIR": home, "WORKERS": "1"}
    try:
        done = subprocess.run(
            [sys.executable, EXAMPLES / "ray_cluster.py"], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
    finally:
        shutil.rmtree(home, ignore_errors=True)
    assert done.returncode == 0 and "4 rows about 4 images" in done.stdout, done.stderr[-3000:]
