"""The model that comes with vigc: its name wherever a model is named, its card, and the Auto classes that know it."""

import json
import re
import subprocess
import sys

import pytest
import yaml
from conftest import ROOT
from PIL import Image
from transformers import AutoConfig, AutoModel, AutoProcessor, pipeline
from typer.testing import CliRunner

import vigc
from vigc.cli.root import app
from vigc.errors import JudgeError
from vigc.evaluation import LocalJudge, load_answerer
from vigc.inference.loading import find_model, load_model
from vigc.modeling_vigc import VigcConfig, VigcForConditionalGeneration
from vigc.processing import VigcProcessor
from vigc.processing.devices import find_device
from vigc.scenes import VIGC_TINY, model_name, write_scenes
from vigc.trainer.checkpoints import load_trained
from vigc.trainer.train import train

NAME = "vigc-tiny"
FEW = ("--max-new-tokens", "8", "--iqf-steps", "1")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Two scenes as LLaVA's files and COCO instances."""
    folder = tmp_path_factory.mktemp("embedded") / "scenes"
    write_scenes(folder, rows=6, seed=3)
    return folder


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Names are meant, not folders beside."""
    monkeypatch.chdir(tmp_path)


def call(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def test_a_name_is_its_folder_and_a_folder_its_name(tmp_path):
    assert vigc.model_folder(NAME) == str(VIGC_TINY) and model_name(VIGC_TINY) == NAME
    assert vigc.model_folder("ada/vigc-7b") == model_name("ada/vigc-7b") == "ada/vigc-7b"
    (tmp_path / NAME).mkdir()  # one's own comes first
    assert vigc.model_folder(NAME) == NAME == model_name(NAME)


def test_the_name_loads_and_is_recorded():
    facts = load_model(NAME).facts
    assert facts == find_model(VIGC_TINY, device=find_device("cpu")).facts and facts.name == NAME
    assert load_answerer(NAME).name == load_answerer(VIGC_TINY).name == NAME


def test_jobs_and_benchmarks_take_the_name(scenes, tmp_path):
    out, options = tmp_path / "out", ["--model", NAME, *FEW]
    done = call("generate", scenes / "images", "-o", out, "--types", "detail", "--limit", 1, *options)
    assert done.exit_code in (0, 3), done.output
    assert NAME in (out / "README.md").read_text(encoding="utf-8")
    given = [scenes / "detail.json", "--image-root", scenes / "images", "--limit", 1]
    done = call("correct", *given, "-o", tmp_path / "corrected", *options)
    assert done.exit_code in (0, 3), done.output
    asked = ["--data", scenes, "--limit", 1, "--max-new-tokens", 8, "--model", NAME]
    done = call("evaluate", "pope", *asked, "--output", tmp_path / "pope.json")
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "pope.json").read_text(encoding="utf-8"))["model"] == NAME


def test_weights_are_converted_back_by_name(tmp_path):
    done = call("convert", "--model", NAME, "--to-original", tmp_path / "back.safetensors")
    assert done.exit_code == 0, done.output


def test_a_judge_of_that_name_is_found_and_refused():
    with pytest.raises(JudgeError, match="'vigc-tiny' cannot be loaded as a causal language model: Unrecognized conf"):
        LocalJudge(NAME)


def test_a_recipe_takes_the_name_and_its_weights_are_laid_over_it(tmp_path):
    write_scenes(tmp_path / "rows", rows=6, seed=3, layout="dataset")
    values = {
        "model": NAME, "output_dir": str(tmp_path / "run"), "data": [{"dataset": str(tmp_path / "rows")}],
        "max_steps": 1, "warmup_steps": 0, "use_cpu": True, "bf16": False, "report_to": "none", "image_use_rows": 0,
        "eval_strategy": "no", "load_best_model_at_end": False, "final_weights": "trained",
        "dataloader_num_workers": 0, "per_device_train_batch_size": 2,
    }  # fmt: skip
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    assert train(tmp_path / "recipe.yaml").base == NAME
    assert NAME in (tmp_path / "run" / "README.md").read_text(encoding="utf-8")
    model, _ = load_trained(tmp_path / "run")
    assert model.num_parameters() == VigcForConditionalGeneration.from_pretrained(VIGC_TINY).num_parameters()


def test_the_name_is_pushed_with_its_code(push):
    done = push(NAME, "ada/tiny", how="command")
    assert done["exit_code"] == 0, done
    files = push.hub.repo("ada/tiny", "models").states()[-1]
    assert {path.name for path in VIGC_TINY.glob("*.py")} <= set(files)
    assert b'model_folder("ada/tiny")' in files["README.md"]


def test_the_card_s_code_runs_as_it_is_written(capsys):
    card = (VIGC_TINY / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    assert code in (ROOT / "recipes" / "tiny" / "card.md").read_text(encoding="utf-8")
    exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out.count("picture") > 1


def test_the_python_of_the_docs_runs_as_it_is_written():
    page = (ROOT / "docs" / "corrections.md").read_text(encoding="utf-8")
    section = page.split("\n## In Python\n")[1].split("\n## ")[0]
    names: dict = {}
    blocks = re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        exec(compile(block, "corrections.md", "exec"), names)
    assert "orange" in names["out"].answers[0]  # the clock's colour in that scene
    assert names["row"].answer and names["ids"].shape[0] == 1


def test_the_auto_classes_know_it_without_its_code():
    assert type(AutoConfig.from_pretrained(VIGC_TINY)) is VigcConfig
    assert type(AutoProcessor.from_pretrained(VIGC_TINY)) is VigcProcessor
    assert type(AutoModel.from_pretrained(VIGC_TINY)) is VigcForConditionalGeneration
    pipe = pipeline("image-text-to-text", model=str(VIGC_TINY))
    assert type(pipe.processor) is VigcProcessor
    text = pipe(images=Image.new("RGB", (96, 96)), text="What is there?", max_new_tokens=4)[0]["generated_text"]
    assert isinstance(text, str)


def test_importing_vigc_is_enough_whichever_part_comes_first():
    # The hardest order: transformers is imported by a part of vigc that the registration itself needs.
    code = """
import vigc, sys
assert "transformers" not in sys.modules
import vigc.modeling_vigc
from transformers import AutoProcessor, GenerationMixin
print(type(AutoProcessor.from_pretrained(vigc.model_folder("vigc-tiny"))).__module__)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.stdout.split() == ["vigc.processing.processing_vigc"], done.stderr[-2000:]
