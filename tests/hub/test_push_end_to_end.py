"""What was pushed serves people without vigc: cards whose code runs, one-line loading, growth, a cache for offline."""

import io
import json
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import datasets
import pyarrow.parquet as pq
import pytest
from conftest import SUPPORT
from hub_server import WRITE, Hub
from huggingface_hub import DatasetCard, ModelCard
from PIL import Image
from safetensors.torch import load

from vigc.trainer import load_trained

CLIENT = SUPPORT / "hub_client.py"
MODEL, DATASET = "ada/vigc-parity", "ada/vigc-shapes"


def client(pusher, home, work, mode, **more):
    """A process without vigc (without `site`, no .pth file is read) on the same Hub."""
    packages = str(Path(datasets.__file__).parent.parent)
    environment = {**pusher.environment, "PYTHONPATH": packages, "HF_HOME": str(home), **more}
    for name in ("HF_MODULES_CACHE", "HF_DATASETS_CACHE"):
        environment.pop(name, None)
    command = [sys.executable, "-S", str(CLIENT), MODEL, DATASET, mode]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    errors = (work / f"{mode}.log").open("w")
    return subprocess.Popen(command, env=environment, cwd=work, text=True, stderr=errors, **pipes)


def answer(process, work, mode):
    line = process.stdout.readline()
    assert line, (work / f"{mode}.log").read_text()[-3000:]
    return json.loads(line)


def ids(folder, kind="*"):
    return sorted(
        name for path in folder.glob(f"{kind}/train-*.parquet") for name in pq.read_table(path)["id"].to_pylist()
    )


@pytest.fixture(scope="module")
def served(pusher, versions, vigc_folder, parity_dir, tmp_path_factory):
    """A user's session: a first look, again after the dataset grew, and once more without network."""
    pusher.hub.repos.clear()
    pusher.hub.objects.clear()
    assert pusher(vigc_folder, MODEL)["exit_code"] == pusher(versions[0], DATASET)["exit_code"] == 0
    work, home = tmp_path_factory.mktemp("user"), tmp_path_factory.mktemp("home")
    Image.open(parity_dir / "images" / "img_0.png").convert("RGB").save(work / "photo.jpg", quality=100)
    first = client(pusher, home, work, "again")
    found = {"first": answer(first, work, "again")}
    assert pusher(versions[1], DATASET)["exit_code"] == 0
    first.stdin.write("go\n")
    first.stdin.flush()
    found["grown"] = answer(first, work, "again")
    requests = len(pusher.hub.log)
    offline = client(pusher, home, work, "once", HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1")
    found["offline"] = answer(offline, work, "once")
    assert len(pusher.hub.log) == requests
    for process in (first, offline):
        process.communicate()
    found["files"] = pusher.hub.repo(DATASET).states()[-1]
    found["photo"] = work / "photo.jpg"
    return found


def test_the_model_s_card_runs_and_answers_as_here(served, model, processor):
    first, image = served["first"], Image.open(served["photo"])
    asked = {"images": [image], "text": ["What is in the picture?"], "return_tensors": "pt"}
    here = model.generate(**processor(**asked), processor=processor, return_dict_in_generate=True).answers
    assert first["model_blocks"] == 1 and first["answers"] == here == [first["pipeline"]]


def test_rows_load_whole_by_type_and_streamed(served, versions):
    first = served["first"]
    assert first["dataset_blocks"] == 1 and first["picture"] == [24, 16] and "messages" in first["columns"]
    assert first["all"] == first["streamed"] == ids(versions[0])
    assert first["detail"] == ids(versions[0], "detail") and len(first["detail"]) < len(first["all"])


def test_added_shards_are_seen_and_the_cache_serves_offline(served, versions):
    assert served["grown"]["all"] == served["grown"]["streamed"] == ids(versions[1]) != served["first"]["all"]
    offline = served["offline"]
    assert offline["answers"] == served["first"]["answers"] and offline["pipeline"] == served["first"]["pipeline"]
    assert offline["all"] == ids(versions[1])


def test_cards_parse_and_the_viewer_finds_what_they_declare(served):
    assert served["first"]["model_data"]["library_name"] == "transformers"
    assert served["first"]["dataset_data"]["license"] == "cc0-1.0"
    files = served["files"]
    card = DatasetCard(files["README.md"].decode())
    infos = {info["config_name"]: info for info in card.data.dataset_info}
    assert (
        [config["config_name"] for config in card.data.configs] == list(infos) == ["default", "conversation", "detail"]
    )
    for config in card.data.configs:
        (declared,) = config["data_files"]
        patterns = [declared["path"]] if isinstance(declared["path"], str) else declared["path"]
        matched = [[name for name in files if fnmatch(name, pattern)] for pattern in patterns]
        assert all(matched)
        listed = [name for names in matched for name in names]
        info = infos[config["config_name"]]
        rows = sum(pq.read_metadata(io.BytesIO(files[name])).num_rows for name in listed)
        assert info["splits"][0]["num_examples"] == rows
        assert info["download_size"] == sum(len(files[name]) for name in listed)
    pictures = [line.split("](")[1].split(")")[0] for line in card.text.splitlines() if line.startswith("| ![")]
    assert len(pictures) == 4 and all(Image.open(io.BytesIO(files[name])).size == (24, 16) for name in pictures)


def test_model_and_trainer_push_the_card_of_vigc_push(pusher, vigc_folder, parity_dir, tmp_path):
    hub = pusher.hub
    hub.repos.clear()
    assert pusher(vigc_folder, "ada/one")["exit_code"] == 0
    assert pusher(vigc_folder, "ada/two", how="model") == {"exit_code": 0}
    one, two = (hub.repo(f"ada/{name}", "models").states()[-1] for name in ("one", "two"))
    assert one["README.md"].replace(b"ada/one", b"ada/two") == two["README.md"] and b'("ada/two"' in two["README.md"]
    weights = [load(files["model.safetensors"]) for files in (one, two)]
    assert weights[0].keys() == weights[1].keys()
    assert all((weight == weights[1][name]).all() for name, weight in weights[0].items())

    output = tmp_path / "three"
    done = pusher(vigc_folder, "ada/three", how="trainer", images=str(parity_dir / "images"), output=str(output))
    assert done["private"] and done["left"] == ["training_args.bin"]
    three = hub.repo("ada/three", "models").states()[-1]
    assert pusher(output, "ada/four")["exit_code"] == 0
    four = hub.repo("ada/four", "models").states()[-1]
    assert three["README.md"].replace(b"ada/three", b"ada/four") == four["README.md"]
    assert three.keys() == four.keys() and not any(name.startswith("checkpoint") for name in three)
    card = ModelCard(three["README.md"].decode())
    assert "small-detail" in card.text and card.data.get("model-index") is None  # nothing was measured

    settings = {"images": str(parity_dir / "images"), "output": str(tmp_path / "five"), "final_weights": "trained"}
    done = pusher(vigc_folder, "ada/five", how="trainer", **settings)
    assert done["same"] and not any(name == "model.safetensors" for name in hub.repo("ada/five", "models").states()[-1])
    with pytest.raises(ValueError, match="neither a local folder nor a model on the Hub"):
        load_trained("ada/absent")


def test_a_training_run_publishes_its_end(pusher, vigc_folder, parity_dir, tmp_path):
    hub = pusher.hub
    hub.repos.clear()
    pictures = sorted((parity_dir / "images").glob("*.png"))
    turns = [{"from": "human", "value": "<image>\nWhat is this?"}, {"from": "gpt", "value": "A shape."}]
    entries = [{"id": str(index), "image": path.name, "conversations": turns} for index, path in enumerate(pictures)]
    (tmp_path / "detail_23k.json").write_text(json.dumps(entries), encoding="utf-8")
    layout = {"layout": "llava", "files": str(tmp_path / "detail_23k.json"), "images": str(pictures[0].parent)}
    settings = {
        "data": [layout], "output_dir": str(tmp_path / "run"), "eval_strategy": "no", "load_best_model_at_end": False,
        "num_train_epochs": 2, "warmup_steps": 0, "use_cpu": True, "report_to": "none", "disable_tqdm": True,
        "per_device_train_batch_size": 4, "hub_token": WRITE,
    }  # fmt: skip
    (tmp_path / "recipe.yaml").write_text(json.dumps(settings), encoding="utf-8")
    done = pusher(vigc_folder, "ada/six", how="training", recipe=str(tmp_path / "recipe.yaml"))
    assert done["exit_code"] == 0, done["output"]
    repo = hub.repo("ada/six", "models")
    assert repo.private and len([state for state in repo.states() if state]) == 1  # once, and no checkpoint before
    files = repo.states()[-1]
    assert not {"training_args.bin", "trainer_state.json"} & files.keys() and b"A VIGC model" in files["README.md"]
    assert not any(WRITE.encode() in data for data in files.values())
    weights, written = load(files["model.safetensors"]), (tmp_path / "run" / "model.safetensors").read_bytes()
    assert files["model.safetensors"] == written and "query_tokens" in weights


def test_the_hub_answers_in_parts():
    import urllib.request

    from hub_server import File, Repo, _add_commit

    with Hub() as hub:
        hub.repos["models", "ada/x"] = repo = Repo("ada/x", False, {"main": []})
        _add_commit(repo, "main", "x", {"a.bin": File(b"0123456789", True)})
        request = urllib.request.Request(f"{hub.endpoint}/ada/x/resolve/main/a.bin", headers={"Range": "bytes=2-4"})
        with urllib.request.urlopen(request) as response:
            assert response.status == 206 and response.read() == b"234"
            assert response.headers["Content-Range"] == "bytes 2-4/10"
            assert response.headers["X-Repo-Commit"] == repo.branches["main"][-1].sha
