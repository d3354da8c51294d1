"""Run by test_hub_source.py: jobs over a dataset on a Hub that goes away, in a process of their own.

It starts the Hub itself, since a client must know its address before it imports anything. Prints a line of JSON.
"""

import contextlib
import functools
import io
import json
import os
import sys
from pathlib import Path

from hub_server import Fault, File, Hub, Repo, _add_commit

place, hub = Path(sys.argv[1]), Hub().__enter__()
for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
    os.environ.pop(name, None)
os.environ.update(HF_ENDPOINT=hub.endpoint, HF_HUB_DISABLE_XET="1", HF_HUB_DISABLE_PROGRESS_BARS="1")

import huggingface_hub.hf_file_system as hub_files  # noqa: E402
from dataset_rows import content  # noqa: E402
from datasets import Dataset, Features, Image  # noqa: E402
from job_codes import exit_code_of  # noqa: E402
from PIL import Image as Pictures  # noqa: E402
from scripted import ScriptedModel, ScriptedProcessor  # noqa: E402

from vigc.generation import GenerateJob  # noqa: E402

# As often, but not as slowly: what is left of the half minute that a client waits for the Hub is not ours to test.
hub_files.http_backoff = functools.partial(hub_files.http_backoff, base_wait_time=0.01, max_wait_time=0.01)


def parquet(number):
    rows = []
    for index in range(2):
        buffer = io.BytesIO()
        Pictures.new("RGB", (6, 5), (number * 30, index * 90, 7)).save(buffer, "PNG")
        rows.append({"image": {"bytes": buffer.getvalue(), "path": None}})
    file = io.BytesIO()
    Dataset.from_list(rows, features=Features({"image": Image()})).to_parquet(file)
    return file.getvalue()


repo = hub.repos["datasets", "ada/pictures"] = Repo("ada/pictures", False, {"main": []})
_add_commit(repo, "main", "data", {f"data/train-{n:05d}-of-00006.parquet": File(parquet(n), True) for n in range(6)})


def run(out, images="ada/pictures"):
    """A job; returns its exit code and what it says."""
    scripted = {"model": ScriptedModel(malformed=0), "processor": ScriptedProcessor(), "batch_size": 1}
    given = {"images": images, "format": "dataset", "types": ["detail"], "shard_size": 2, **scripted}
    with contextlib.redirect_stderr(io.StringIO()) as said, contextlib.redirect_stdout(io.StringIO()):
        code = exit_code_of(lambda: GenerateJob(**given), out)
    return code, said.getvalue()


hub.play()
first = run(place / "one" / "data")
requests, results = len(hub.log), []
shards = place / "two" / "data" / "_vigc" / "shards"
for kind in ("busy", "gone", "refused"):
    # Near the end, where rows are read; from there on nothing else is answered.
    if kind == "gone":
        hub.play({number: Fault("reset") for number in range(requests - 4, requests + 200)})
    else:
        hub.play(deny_from=requests - 4, deny=503 if kind == "busy" else 403)
    code, said = run(place / "two" / "data")
    done = len(list(shards.glob("*.json")))
    hub.play()
    results.append([kind, code, said, done, run(place / "two" / "data")[0]])
    same = content(place / "one" / "data") == content(place / "two" / "data")
    results[-1].append(same)
    (place / "two").rename(place / f"two-{kind}")

# Datasets that are downloaded: pictures as files, and a list that names files of this machine.
hub.play()
os.chdir(place)
for secret in ("secret.png", "ada/secret.png"):
    (place / secret).parent.mkdir(exist_ok=True)
    Pictures.new("RGB", (6, 5), "red").save(place / secret)
picture = (place / "secret.png").read_bytes()
files = {f"train/{n}.png": File(picture + bytes(n), True) for n in range(2)} | {"train/2.png": File(picture[:40], True)}
names = [str(place / "secret.png"), "secret.png", "../secret.png", "own.png"]
lines = "".join(json.dumps({"image": name}) + "\n" for name in names).encode()
settings = b"---\nconfigs:\n- config_name: default\n  data_files: train.jsonl\n---\n"
listed = {"train.jsonl": File(lines, False), "own.png": File(picture, True), "README.md": File(settings, False)}
(place / "secret.parquet").write_bytes(parquet(1))
# What a repository's settings may name that is not its own.
outside = [
    str(place / "secret.parquet"),
    f"file://{place}/secret.parquet",
    "../secret.parquet",
    f"{hub.endpoint}/a.csv",
]
outside += ["hf://datasets/ada/pictures/data/*.parquet", f"zip://*::{hub.endpoint}/a.zip"]
settings = {
    f"outside-{number}": {
        "README.md": File(
            f"""---
configs:
- config_name: default
  data_files: ["train.parquet", "{name}"]
---
""".encode(),
            False,
        ),
        "train.parquet": File(parquet(2), True),
    }
    for number, name in enumerate(outside)
}
loaded = []
for name, content_of in (("folder", files), ("names", listed), *settings.items()):
    repo = hub.repos["datasets", f"ada/{name}"] = Repo(f"ada/{name}", False, {"main": []})
    _add_commit(repo, "main", "data", content_of)
    code, said = run(place / name, f"ada/{name}")
    aside = [json.loads(line) for file in (place / name).glob("quarantine/*") for line in file.open()]
    loaded.append([code, said, [record["reason"] for record in aside]])
print(json.dumps([first, requests, results, loaded]), flush=True)
os._exit(0)
