"""On a CPU the engine multiplies by copies of the weights; nobody else gets to see those."""

import sys

import pytest
import torch
from conftest import ROOT
from peft import LoraConfig, get_peft_model
from torch import nn

from vigc.modeling_vigc import packed_weights_vigc as blocked_vigc
from vigc.modeling_vigc.packed_weights_vigc import BlockedWeights

sys.path.insert(0, str(ROOT / "benchmarks"))

from models import build, pictures


def used(*modules):
    """Copies of the modules' weights, used so often that they are there."""
    blocked = BlockedWeights(*modules)
    for _ in range(20):
        with blocked.on():
            pass
    return blocked


needs_onednn = pytest.mark.skipif(
    not used(nn.Linear(2, 2)).layers, reason="this torch or processor has no oneDNN layout"
)


@pytest.fixture
def small():
    model, processor = build("tiny", seed=3)
    inputs = processor(images=pictures(2, "tiny", seed=4), task="detail", return_tensors="pt")
    return model, {**inputs, "processor": processor}


def answers(model, inputs, **settings):
    return model.generate(**inputs, **settings, return_dict_in_generate=True).answers


@needs_onednn
@pytest.mark.parametrize("rows", [1, 2, 5, 16, 40])
def test_products_are_those_of_the_layer(rows):
    layers = nn.ModuleList([nn.Linear(96, 192), nn.Linear(96, 50, bias=False)])
    given = torch.randn(rows, 3, 96)
    blocked = used(layers)
    with torch.no_grad():
        for layer in layers:
            plain = layer(given)
            with blocked.on():
                assert torch.allclose(layer(given), plain, atol=1e-6)
            assert torch.equal(layer(given), plain)
    assert len(blocked.layers) == 2


def test_a_model_is_left_as_it_was(small):
    model, inputs = small
    before = {name: value.clone() for name, value in model.state_dict().items()}
    answers(model, inputs)
    assert not any("forward" in vars(module) for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_trained_weights_count_at_once(small, monkeypatch):
    """Copies do not outlive a call, whatever way weights are changed in between."""
    model, inputs = small
    first = answers(model, inputs)
    with torch.no_grad():
        for layer in model.language_model.model.layers:
            layer.mlp.down_proj.weight.data.mul_(8)
            layer.self_attn.o_proj.weight.data.mul_(-8)
    second = answers(model, inputs)
    monkeypatch.setattr(blocked_vigc, "MOST_BYTES", 0)
    assert second == answers(model, inputs) != first


def test_a_text_that_is_half_written_does_not_touch_training(small):
    model, inputs = small
    embeds = model.get_image_embeds(inputs["pixel_values"])
    requests = [{"image_embeds": row, "task": "detail"} for row in embeds]
    coming = model.generate_stream(requests, inputs["processor"], 1)
    next(coming)
    model.language_model.lm_head(torch.randn(2, 96)).sum().backward()
    assert model.language_model.lm_head.weight.grad is not None
    assert next(coming)


@needs_onednn
def test_layers_of_other_kinds_are_left_alone(small):
    model, inputs = small
    plain = answers(model, inputs)
    count = len(used(model.language_model).layers)
    with torch.autocast("cpu", torch.bfloat16):
        assert len(answers(model, inputs)) == 2
    adapted = get_peft_model(model, LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=True))
    assert answers(adapted, inputs) == plain
    assert len(used(model.language_model).layers) == count + 2 * 2 * 2, "a base and two small layers each"
    assert not used(model.to(torch.bfloat16)).layers


@needs_onednn
def test_layers_that_only_look_plain_are_left_alone():
    odd = [nn.Linear(8, 4) for _ in range(6)]
    odd[0].bias = nn.Parameter(torch.arange(8.0)[::2])
    odd[1].weight = nn.Parameter(odd[1].weight.detach().to_sparse())
    odd[2].weight = nn.Parameter(torch.empty(4, 0))
    odd[3].forward = odd[3].forward  # as hooks of accelerate have it
    odd[4].compile(backend="eager")
    assert not any(used(layer).layers for layer in odd[:5]) and used(odd[5]).layers
    blocked, layer = used(odd[5]), odd[5]
    own = layer.forward = lambda given: given
    with blocked.on():
        assert layer(1) == 1
    assert vars(layer)["forward"] is own
