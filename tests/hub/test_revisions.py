"""What a model of the Hub is: one commit, recorded; its code runs only where that was asked for."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import SUPPORT
from huggingface_hub import DatasetCard
from PIL import Image
from typer.testing import CliRunner

from vigc import VigcForConditionalGeneration, VigcProcessor
from vigc.cli.root import app
from vigc.errors import GenerationError
from vigc.evaluation import load_answerer
from vigc.hub_cards import write_trained_model_card
from vigc.inference.loading import load_model
from vigc.jobs import ledger
from vigc.processing.model_folder import folder_fingerprint
from vigc.scenes import VIGC_TINY
from vigc.trainer import VigcTrainingArguments, load_trained
from vigc.trainer.checkpoints import save_trained
from vigc.trainer.train import load_model as load_for_training

FIRST, SECOND = "1" * 40, "2" * 40


def cache(repo, commit, source, branch=None):
    """Puts a folder into the Hub's cache as a commit of a repository; returns its snapshot."""
    home = Path(os.environ["HF_HUB_CACHE"]) / f"models--{repo.replace('/', '--')}"
    shutil.copytree(source, home / "snapshots" / commit)
    if branch:
        (home / "refs").mkdir(exist_ok=True)
        (home / "refs" / branch).write_text(commit)
    # What `from_pretrained` asks for and learns not to be there, when it fills a cache.
    absent = home / ".no_exist" / commit / "qformer_tokenizer" / "config.json"
    absent.parent.mkdir(parents=True)
    absent.touch()
    return home / "snapshots" / commit


@pytest.fixture(scope="module")
def repo():
    """A model with code of its own in two commits; `main` is the first, `next` the second, whose code says so."""
    name = "someone/vigc-tiny"
    source = Path(os.environ["HF_HOME"]) / "vigc-tiny-with-code"
    VigcForConditionalGeneration.from_pretrained(VIGC_TINY).save_pretrained(source)
    VigcProcessor.from_pretrained(VIGC_TINY).save_pretrained(source)
    cache(name, FIRST, source, "main")
    second = cache(name, SECOND, source, "next")
    with (second / "modeling_vigc.py").open("a") as file:
        file.write("\nVigcForConditionalGeneration.came_along = True\n")
    return name


@pytest.fixture
def pictures(tmp_path):
    (tmp_path / "pictures").mkdir()
    Image.new("RGB", (96, 96), "navy").save(tmp_path / "pictures" / "a.png")
    return tmp_path / "pictures"


def generate(pictures, output, repo, *more):
    command = ["generate", str(pictures), "--output", str(output), "--model", repo, "--types", "detail"]
    return CliRunner().invoke(app, [*command, "--iqf-steps", "1", "--max-new-tokens", "20", "--retries", "0", *more])


def test_the_commit_is_in_plan_card_and_fingerprint(repo, pictures, tmp_path):
    done = generate(pictures, tmp_path / "set", repo)
    assert done.exit_code in (0, 3), done.output
    plan = ledger.read_plan(tmp_path / "set")
    assert plan.configuration["model"] == repo and plan.configuration["revision"] == FIRST
    assert "remote_code" not in plan.configuration
    assert f"revision `{FIRST}`" in DatasetCard.load(tmp_path / "set" / "README.md").text
    other = generate(pictures, tmp_path / "set", repo, "--revision", "next")
    assert other.exit_code == 4 and f'revision was "{FIRST}", now "{SECOND}"' in other.output
    assert generate(pictures, tmp_path / "set", repo, "--revision", FIRST).exit_code == done.exit_code


def test_code_of_a_repository_runs_only_when_asked_for(repo, pictures, tmp_path):
    assert type(load_model(repo, revision="next").model) is VigcForConditionalGeneration
    loaded = load_model(repo, revision="next", trust_remote_code=True)
    assert loaded.model.came_along and (loaded.facts.revision, loaded.facts.remote_code) == (SECOND, True)
    for instance in (loaded.model, loaded.processor):
        assert SECOND in type(instance).__module__
    done = generate(pictures, tmp_path / "set", repo, "--trust-remote-code")
    assert done.exit_code in (0, 3), done.output
    assert ledger.read_plan(tmp_path / "set").configuration["remote_code"] is True
    assert "with its own code" in (tmp_path / "set" / "README.md").read_text()
    assert generate(pictures, tmp_path / "set", repo).exit_code == 4


def test_code_from_another_repository_is_never_run(repo, tmp_path):
    snapshot = Path(os.environ["HF_HUB_CACHE"]) / "models--someone--vigc-tiny" / "snapshots" / FIRST
    config = json.loads((snapshot / "config.json").read_text())
    name = "AutoModelForImageTextToText"
    config["auto_map"][name] = f"elsewhere/code--{config['auto_map'][name]}"
    elsewhere = cache("someone/borrowed", FIRST, snapshot, "main")
    (elsewhere / "config.json").write_text(json.dumps(config))
    with pytest.raises(GenerationError, match=r"is in 'elsewhere/code'.*remove --trust-remote-code"):
        load_model("someone/borrowed", trust_remote_code=True)
    assert type(load_model("someone/borrowed").model) is VigcForConditionalGeneration


def test_a_cache_in_which_the_second_tokenizer_cannot_be_found_is_told(repo):
    snapshots = Path(os.environ["HF_HUB_CACHE"]) / "models--someone--vigc-tiny" / "snapshots"
    snapshot = cache("someone/downloaded", FIRST, snapshots / FIRST, "main")
    shutil.rmtree(snapshot.parents[1] / ".no_exist")
    with pytest.raises(GenerationError, match=r"qformer_tokenizer/ was not found.*snapshot_download"):
        load_model("someone/downloaded")
    assert load_model(snapshot).processor.qformer_tokenizer.cls_token == "[CLS]"


def test_what_was_trained_names_the_commit_below_it(repo, tmp_path):
    # No branch names this commit: it is found only by its digits.
    snapshots = Path(os.environ["HF_HUB_CACHE"]) / "models--someone--vigc-tiny" / "snapshots"
    cache("someone/base", FIRST, snapshots / FIRST)
    arguments = VigcTrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none")
    model = load_for_training("someone/base", arguments, FIRST)
    save_trained(tmp_path, model, {"query_tokens": model.query_tokens}, base="someone/base", lora=None)
    VigcProcessor.from_pretrained(VIGC_TINY).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "trained_weights.json").read_text())["base_revision"] == FIRST
    again, _ = load_trained(tmp_path)
    assert again.query_tokens.equal(model.query_tokens)
    figures = {"data": [], "settings": {}, "trained_parameters": 9, "steps": 1, "epochs": 1, "figures": {}}
    card = write_trained_model_card(
        tmp_path, base="someone/base", base_revision=FIRST, whole=False, image_use=None, **figures
    )
    assert f"revision `{FIRST}`" in card.read_text(encoding="utf-8")


def test_a_folder_stands_for_itself():
    assert load_model(VIGC_TINY).facts.revision == folder_fingerprint(VIGC_TINY)


def test_an_evaluation_names_the_commit_too(repo):
    assert load_answerer(repo).revision == FIRST
    assert load_answerer(repo, revision="next").revision == SECOND
    assert load_answerer(VIGC_TINY).revision == folder_fingerprint(VIGC_TINY)


MOVING = """
import io, json, os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from hub_server import File, Hub, Repo, _add_commit
place, hub = Path(sys.argv[1]), Hub().__enter__()
os.environ.update(HF_ENDPOINT=hub.endpoint, HF_HOME=str(place / "home"), HF_HUB_DISABLE_XET="1")
from datasets import Dataset, Features, Image, List, Value
from PIL import Image as Pictures
from scripted import ScriptedModel, ScriptedProcessor
from vigc.errors import VigcError
from vigc.generation import CorrectJob, GenerateJob, preview_job, run_job
from vigc.jobs import ledger
from dataset_rows import rows_of

chat = List({"role": Value("string"), "content": Value("string")})
features = {"image": Image(), "image_id": Value("string"), "messages": chat}
repo = hub.repos["datasets", "ada/pictures"] = Repo("ada/pictures", False, {"main": []})
def commit(word):
    rows = []
    for number in range(4):
        buffer = io.BytesIO()
        Pictures.new("RGB", (9, 9), (number * 40, len(word) * 20, 7)).save(buffer, "png")
        chat = [{"role": "user", "content": "What?"}, {"role": "assistant", "content": word}]
        rows.append({"image": {"bytes": buffer.getvalue()}, "image_id": f"{word}-{number}", "messages": chat})
    file = io.BytesIO()
    Dataset.from_list(rows, features=Features(features)).to_parquet(file)
    return _add_commit(repo, "main", word, {"data/train-0.parquet": File(file.getvalue(), True)})

scripted = {"model": ScriptedModel(malformed=0), "processor": ScriptedProcessor(), "shard_size": 2}
generate = {"images": "ada/pictures", "format": "dataset", "types": ["detail"], **scripted}
correct = {"dataset": "ada/pictures", **scripted}
def ids(name):
    return sorted({row["image_id"] for row in rows_of(place / name)})
first = commit("first")
run_job(GenerateJob(**generate, rank=0, world_size=2), place / "one")
run_job(CorrectJob(**correct, rank=0, world_size=2), place / "corrected")
second = commit("second")
said = {"first": first, "second": second}
said["goes on"] = preview_job(GenerateJob(**generate), place / "one").shards_done
said["missing"] = [
    run_job(GenerateJob(**generate, rank=1, world_size=2), place / "one").missing,
    run_job(CorrectJob(**correct, rank=1, world_size=2), place / "corrected").missing,
]
said["ids"] = [ids("one"), ids("corrected")]
said["pinned"] = ledger.read_plan(place / "one").job["data_revision"]
said["card"] = (place / "one" / "README.md").read_text()
try:
    run_job(GenerateJob(**generate, data_revision="main"), place / "one")
except VigcError as error:
    said["refused"] = [str(error), error.exit_code]
try:
    run_job(GenerateJob(**{**generate, "images": place, "format": "folder"}, data_revision="main"), place / "two")
except VigcError as error:
    said["none"] = str(error)
run_job(GenerateJob(**generate, data_revision=first), place / "three")
run_job(GenerateJob(**generate, overwrite=True), place / "one")
said["after"] = [ids("three"), ids("one")]
print(json.dumps(said))
"""


def test_a_dataset_that_moves_on_is_read_at_one_commit(tmp_path):
    removed = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_HUB_CACHE", "HF_DATASETS_CACHE")
    environment = {name: value for name, value in os.environ.items() if name not in removed}
    command = [sys.executable, "-c", MOVING, str(tmp_path), str(SUPPORT)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    said = json.loads(done.stdout)
    first, second = ([f"{word}-{number}" for number in range(4)] for word in ("first", "second"))
    assert said["goes on"] == 1 and said["missing"] == [0, 0] and said["ids"] == [first, first]
    assert said["pinned"] == said["first"] and f"--data-revision {said['first']}" in said["card"]
    assert f'data_revision was "{said["first"]}", now "{said["second"]}"' in said["refused"][0]
    assert said["refused"][1] == 4 and "data_revision='main' only applies to a dataset on the Hub" in said["none"]
    assert said["after"] == [first, second]
