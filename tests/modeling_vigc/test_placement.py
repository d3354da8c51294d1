"""Models whose weights accelerate keeps elsewhere until they are needed write what they write whole."""

import pytest
import torch
from accelerate import cpu_offload
from PIL import Image
from transformers import InstructBlipConfig, InstructBlipForConditionalGeneration

from vigc.modeling_vigc import VigcForConditionalGeneration
from vigc.modeling_vigc.placement_vigc import execution_device, loaded

PARTS = ("vision_model", "query_tokens", "qformer", "language_projection")
FEW = {"max_new_tokens": 4, "iqf_steps": 1}


@pytest.fixture(scope="module")
def inputs(processor, parity_dir):
    image = Image.open(parity_dir / "images" / "img_0.png")
    return processor(images=image, text="What can you see?", return_tensors="pt")


def split_by_from_pretrained(vigc_folder, tmp_path):
    places = {**dict.fromkeys(PARTS, "cpu"), "language_model": "disk"}
    return VigcForConditionalGeneration.from_pretrained(vigc_folder, device_map=places, offload_folder=tmp_path)


def all_offloaded(vigc_folder, tmp_path):
    return cpu_offload(VigcForConditionalGeneration.from_pretrained(vigc_folder), torch.device("cpu"))


@pytest.mark.parametrize("make", [split_by_from_pretrained, all_offloaded])
def test_an_offloaded_model_writes_the_same(make, vigc_folder, model, processor, inputs, tmp_path):
    away = make(vigc_folder, tmp_path).eval()
    assert next(away.language_model.parameters()).is_meta
    assert away.device == execution_device(away.language_model) == torch.device("cpu")
    for settings in ({"processor": processor, **FEW}, {"processor": processor, "num_beams": 2, **FEW}):
        assert torch.equal(away.generate(**inputs, **settings), model.generate(**inputs, **settings))
    plain = {"correct": False, "max_new_tokens": 4}
    assert torch.equal(away.generate(**inputs, **plain), model.generate(**inputs, **plain))
    with torch.no_grad():
        assert torch.equal(away(**inputs).logits, model(**inputs).logits)
    assert next(away.language_model.parameters()).is_meta  # and nothing has stayed


def test_the_device_is_that_of_the_weights_where_nothing_is_offloaded(model):
    assert model.device == model.query_tokens.device == execution_device(model)
    with torch.device("meta"):
        empty = VigcForConditionalGeneration(model.config)
    assert empty.device == torch.device("meta")
    with loaded(model):
        assert not model.query_tokens.is_meta


def test_a_stock_model_has_its_place_too(model):
    fields = {name: value for name, value in model.config.to_dict().items() if name not in ("model_type", "auto_map")}
    stock = cpu_offload(InstructBlipForConditionalGeneration(InstructBlipConfig(**fields)), torch.device("cpu"))
    assert stock.device == torch.device("meta") and execution_device(stock) == torch.device("cpu")
    with loaded(stock):
        assert stock.query_tokens.device == torch.device("cpu")
    assert stock.query_tokens.is_meta
