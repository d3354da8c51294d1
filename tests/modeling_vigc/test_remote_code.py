"""The folder that `vigc convert` writes serves those who have no vigc."""

import pytest
from conftest import ROOT, SUPPORT, run_without_vigc
from PIL import Image

from vigc.modeling_vigc import VigcForConditionalGeneration
from vigc.processing import VigcProcessor
from vigc.scenes import VIGC_TINY

SCRIPT = SUPPORT / "remote_code.py"


@pytest.fixture(scope="module")
def result(vigc_folder, parity_dir, tmp_path_factory):
    tmp = tmp_path_factory.mktemp("remote")
    done = run_without_vigc(SCRIPT, vigc_folder, parity_dir / "images", tmp / "again", VIGC_TINY, home=tmp / "home")
    return {**done, "folder": tmp / "again"}


def test_the_same_tokens_with_and_without_vigc(result, model, processor, parity_dir):
    images = [Image.open(path) for path in sorted((parity_dir / "images").glob("*.png"))]
    inputs = processor(images=images, task="detail", return_tensors="pt")
    out = model.generate(**inputs, processor=processor, return_dict_in_generate=True)
    assert result["loaded"] == {"ids": out.sequences.tolist(), "answers": out.answers}


def test_copies_of_it_write_the_same_offloaded_ones_too(result):
    copies = dict(result["pickled"])
    expected = copies.pop("expected")
    assert len(copies) == 7
    assert {name: ids == expected for name, ids in copies.items()} == dict.fromkeys(copies, True)


def test_a_stream_needs_no_class(result):
    assert result["streamed"] == result["loaded"]["answers"]


def test_saved_again_and_loaded_again(result):
    assert result["reloaded"] == result["loaded"]


def test_the_code_that_travels_is_the_package_s(result, vigc_folder):
    ours = {path.name: path.read_bytes() for path in ROOT.glob("*/*_vigc.py")}
    # Of the embedded model these are copies: `make format` (recipes/tiny/embed.py) brings them up to date.
    for folder in (vigc_folder, result["folder"], VIGC_TINY):
        assert {path.name: path.read_bytes() for path in folder.glob("*.py")} == ours


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


def test_the_embedded_model_s_folder_is_enough(result, parity_dir):
    model = VigcForConditionalGeneration.from_pretrained(VIGC_TINY, dtype="float32")
    processor = VigcProcessor.from_pretrained(VIGC_TINY)
    inputs = processor(images=Image.open(parity_dir / "images" / "img_0.png"), task="detail", return_tensors="pt")
    expected = model.generate(**inputs, processor=processor, max_new_tokens=5, iqf_steps=1)
    assert result["embedded"] == expected.tolist()
