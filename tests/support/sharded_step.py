"""One step with the weights sharded over processes as recipes/accelerate/fsdp.yaml says, without an accelerator.

Started by torchrun, in several processes. Arguments: the model's folder, the pictures' folder, a file for the result.
"""

import json
import sys
from pathlib import Path

import torch
import yaml
from torch import distributed
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from training import load_model, rows_of

from vigc.processing import VigcProcessor
from vigc.trainer import VigcDataCollator, VigcMixture
from vigc.trainer.adapters import choose_trained, hold_frozen_in

FSDP = Path(__file__).resolve().parents[2] / "recipes" / "accelerate" / "fsdp.yaml"


def shard(model, policy) -> int:
    """Shards each layer that the recipe names, then the rest."""
    settings = yaml.safe_load(FSDP.read_text(encoding="utf-8"))["fsdp_config"]
    names = settings["fsdp_transformer_layer_cls_to_wrap"].split(",")
    layers = [part for part in model.modules() if type(part).__name__ in names]
    for part in [*layers, model]:
        fully_shard(part, reshard_after_forward=settings["fsdp_reshard_after_forward"], mp_policy=policy)
    return len(layers)


def step(folder, batch, sharded: bool, half: bool) -> dict:
    model = load_model(folder, dropout=False)
    choose_trained(model)
    layers = 0
    if half:
        hold_frozen_in(model, torch.bfloat16)
    if sharded:
        policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32) if half else MixedPrecisionPolicy()
        layers = shard(model, policy)
    loss = model(**batch).loss
    loss.backward()
    norms = {}
    for name, weight in model.named_parameters():
        if weight.grad is not None:
            gradient = weight.grad.full_tensor() if isinstance(weight.grad, DTensor) else weight.grad
            norms[name] = gradient.norm().item()
    return {"loss": loss.item(), "norms": norms, "layers": layers}


def main() -> None:
    folder, images, output = sys.argv[1:]
    distributed.init_process_group("gloo")
    mixture = VigcMixture([rows_of(images, "detail", 4)], image_size=(56, 56))
    batch = VigcDataCollator(VigcProcessor.from_pretrained(folder))([mixture[0, index] for index in range(4)])
    result = {
        "whole": step(folder, batch, sharded=False, half=False),
        "sharded": step(folder, batch, sharded=True, half=False),
        "half": step(folder, batch, sharded=True, half=True),
        "processes": distributed.get_world_size(),
    }
    if distributed.get_rank() == 0:
        Path(output).write_text(json.dumps(result), encoding="utf-8")
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
