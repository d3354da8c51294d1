"""`vigc custom-generate`: a stock InstructBLIP, without vigc, writes what our own class writes, token for token."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT, SUPPORT, run_without_vigc
from huggingface_hub import ModelCard
from PIL import Image
from stock_vlm import save_stock_instructblip
from transformers.dynamic_module_utils import get_relative_import_files
from typer.testing import CliRunner

from vigc import VigcForConditionalGeneration, VigcProcessor
from vigc.cli.root import app
from vigc.custom_generate.folder import sibling_imports
from vigc.custom_generate.generate import generate
from vigc.scenes import write_scenes

SCRIPT = SUPPORT / "custom_generate_runs.py"
COMMIT = "0123456789abcdef0123456789abcdef01234567"

COUNT = 5
QUESTIONS = ["What is there?", "Describe the picture.", "Is there a dog?", "How many trees are there?", "What is red?"]
DRAWN = {"do_sample": True, "temperature": 1.3, "top_p": 0.95}
RUNS = {
    "vig": {"task": "detail"},
    "vig, a type for each": {"task": ["detail", "complex", "conversation", "vqav2", "okvqa"]},
    "vic": {"questions": QUESTIONS},
    "vic, with its type": {"questions": QUESTIONS, "task": "aokvqa"},
    "released": {"task": "conversation", "iqf_preset": "original", "max_new_tokens": 40},
    "released, greedy": {"task": "complex", "iqf_preset": "original", "num_beams": 1},
    "one-shot": {"questions": QUESTIONS, "iqf_steps": 0},
    "to the end": {"task": "detail", "iqf_steps": -1, "repetition_penalty": 1.2},
    "paragraphs": {"task": "detail", "iqf_unit": "paragraph", "iqf_steps": 2, "iqf_prompt": "instruction"},
    "drawn": {"task": "detail", **DRAWN, "row_seeds": [3, 1, 4, 1, 5]},
    "drawn, by torch's seed": {"questions": QUESTIONS, **DRAWN},
}


@pytest.fixture(scope="module")
def stock(tmp_path_factory):
    """The embedded model's weights as a checkpoint of transformers' own classes."""
    return save_stock_instructblip(tmp_path_factory.mktemp("stock") / "instructblip")


@pytest.fixture(scope="module")
def iqf_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("iqf") / "vigc-iqf"
    done = CliRunner().invoke(app, ["custom-generate", "--output", str(folder)])
    files = len(list(ROOT.glob("*/*_vigc.py"))) + len(("generate.py", "requirements.txt", "README.md"))
    assert done.exit_code == 0 and f"{files} files" in done.output, done.output
    return folder


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes") / "scenes"
    write_scenes(folder, 3 * COUNT, 11)
    assert len(list((folder / "images").glob("*.png"))) == COUNT
    return folder / "images"


@pytest.fixture(scope="module")
def result(stock, iqf_folder, scenes, tmp_path_factory):
    tmp = tmp_path_factory.mktemp("without-vigc")
    own = tmp / "with-code"
    shutil.copytree(stock, own)
    shutil.copytree(iqf_folder / "custom_generate", own / "custom_generate")
    snapshots = tmp / "home" / "hub" / "models--someone--vigc-iqf" / "snapshots"
    shutil.copytree(iqf_folder, snapshots / COMMIT)
    return run_without_vigc(SCRIPT, stock, scenes, iqf_folder, own, json.dumps(RUNS), home=tmp / "home")


@pytest.fixture(scope="module")
def ours(stock, scenes):
    """Our own class on the same weights: for a run's settings, all that it writes."""
    model = VigcForConditionalGeneration.from_pretrained(stock, dtype=torch.float32).eval()
    processor = VigcProcessor.from_pretrained(stock)
    images = [Image.open(path) for path in sorted(scenes.glob("*.png"))]

    def write(given):
        given = dict(given)
        what = {"task": given.pop("task", None), "text": given.pop("questions", None)}
        inputs = processor(images=images, **what, return_tensors="pt")
        torch.manual_seed(5)
        out = model.generate(**inputs, processor=processor, **given, return_dict_in_generate=True)
        ids = out.sequences[:, inputs["input_ids"].shape[1] :].tolist()
        return json.loads(json.dumps({**{name: out[name] for name in out if name != "sequences"}, "ids": ids}))

    return write


@pytest.mark.parametrize("name", RUNS)
def test_a_stock_model_writes_what_our_class_writes(name, result, ours):
    theirs = result["runs"][name]
    assert theirs == ours(RUNS[name])
    assert len(theirs["answers"]) == COUNT and any(theirs["answers"])


def test_the_runs_are_worth_comparing(result):
    runs = result["runs"]
    assert any(step["changed"] for row in runs["vig"]["trace"] for step in row)
    assert max(len(row) for row in runs["vig"]["trace"]) > 2
    assert runs["drawn"]["answers"] != runs["vig"]["answers"]
    assert runs["released, greedy"]["answers_given_question"][0]


def test_by_folder_by_name_and_as_the_model_s_own(result, ours):
    expected = ours({"task": "detail", "iqf_steps": 1})["ids"]
    assert result["bare"] == result["named"] == result["own"] == expected
    assert result["prompt_kept"]


def test_plain_decoding_is_the_stock_model_s_and_nothing_stays_behind(result):
    assert result["plain"] == [True, True] and result["untouched"] == [True, True, True]


def test_refusals_say_what_to_do(result):
    said = result["refused"]
    assert "trust_remote_code=True" in said["no trust"]
    assert "task='detail'" in said["nothing said"] and "questions=" in said["nothing said"]
    assert "needs the processor" in said["no processor"]
    t5 = SimpleNamespace(is_encoder_decoder=True, model_type="t5")
    flan = SimpleNamespace(qformer=None, language_model=SimpleNamespace(config=t5))
    with pytest.raises(ValueError, match="decoder-only language model, but this InstructBLIP has 't5'"):
        generate(model=flan, task="detail")
    assert said["no InstructBLIP"] == "IQF needs an InstructBLIP, but this is a LlamaForCausalLM."


def test_the_folder_is_made_of_the_package_s_files(iqf_folder):
    home = iqf_folder / "custom_generate"
    travelling = {path.name: path.read_bytes() for path in ROOT.glob("*/*_vigc.py")}
    source = (ROOT / "src" / "vigc" / "custom_generate" / "generate.py").read_text(encoding="utf-8")
    written = {path.name: path.read_bytes() for path in home.glob("*.py")}
    assert written == {**travelling, "generate.py": sibling_imports(source).encode()}
    assert "from vigc" not in written["generate.py"].decode()
    needed = {Path(path).name for path in get_relative_import_files(home / "generate.py")}
    assert needed == set(travelling), "transformers copies what the imports reach"


def test_a_folder_with_a_card_keeps_it(tmp_path):
    (tmp_path / "README.md").write_text("mine")
    assert CliRunner().invoke(app, ["custom-generate", "--output", str(tmp_path)]).exit_code == 0
    assert (tmp_path / "README.md").read_text() == "mine"
    assert (tmp_path / "custom_generate" / "generate.py").exists()


def test_the_card_is_found_on_the_hub_and_its_example_runs(iqf_folder, result):
    card = ModelCard.load(iqf_folder / "README.md")
    assert {"custom_generate", "vigc"} <= set(card.data.tags) and card.data.license == "apache-2.0"
    by_the_card, expected = result["card"]
    assert by_the_card == expected and any(expected)
