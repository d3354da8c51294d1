"""The folder that `vigc convert` writes serves those who have no vigc."""

import json
import os
import site
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

SCRIPT = Path(__file__).with_name("remote_code.py")


@pytest.fixture(scope="module")
def result(vigc_folder, parity_dir, tmp_path_factory):
    tmp = tmp_path_factory.mktemp("remote")
    # Without `site`, no .pth file is read, so that an editable vigc stays out of sight.
    environment = {**os.environ, "PYTHONPATH": site.getsitepackages()[0], "HF_HOME": str(tmp / "home")}
    environment.pop("HF_MODULES_CACHE", None)
    done = subprocess.run(
        [sys.executable, "-S", SCRIPT, vigc_folder, parity_dir / "images", tmp / "again"],
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return {**json.loads(done.stdout.splitlines()[-1]), "folder": tmp / "again"}


def test_the_same_tokens_with_and_without_vigc(result, model, processor, parity_dir):
    images = [Image.open(path) for path in sorted((parity_dir / "images").glob("*.png"))]
    inputs = processor(images=images, task="detail", return_tensors="pt")
    out = model.generate(**inputs, processor=processor, return_dict_in_generate=True)
    assert result["loaded"] == {"ids": out.sequences.tolist(), "answers": out.answers}


def test_saved_again_and_loaded_again(result):
    assert result["reloaded"] == result["loaded"]
    assert {path.name for path in result["folder"].glob("*_vigc.py")} == {
        "backbone_vigc.py",
        "beams_vigc.py",
        "cache_vigc.py",
        "configuration_vigc.py",
        "decoding_vigc.py",
        "drafts_vigc.py",
        "engine_vigc.py",
        "generation_vigc.py",
        "instructions_vigc.py",
        "modeling_vigc.py",
        "outputs_vigc.py",
        "processing_vigc.py",
        "sentences_vigc.py",
    }


def test_pipeline(result, model, processor, parity_dir):
    image = Image.open(parity_dir / "images" / "img_0.png")
    inputs = processor(images=image, text="What can you see?", return_tensors="pt")
    answer = model.generate(**inputs, processor=processor, return_dict_in_generate=True).answers[0]
    for name in ("pipeline", "pipeline_of_two", "pipeline_chat"):
        assert result[name].strip() == answer
    assert [text.strip() for text in result["pipeline_batch"]] == [answer, answer]
    plain = processor.decode_texts(model.generate(**inputs, correct=False)[:, inputs["input_ids"].shape[1] :])[0]
    assert result["pipeline_plain"].strip() == plain


def test_bf16(result):
    assert result["bf16_loaded"] == result["bf16_reloaded"]
    assert all(answer.startswith("The image shows two shapes") for answer in result["bf16_loaded"]["answers"])
