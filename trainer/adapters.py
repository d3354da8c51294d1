"""Selects the trained weights of a model: freezing, LoRA on its language model, and merging LoRA.

LoRA layers are injected into the model itself, which stays a VIGC model, so that Q-Former, queries and projection can
be trained with them. A PEFT wrapper's `modules_to_save` would ignore `query_tokens`, which is not a module.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch

from vigc.errors import TrainingError
from vigc.modeling_vigc import VigcForConditionalGeneration
from vigc.processing.bounded_parsing import JsonObject


@dataclass(frozen=True)
class LoraSettings:
    """Settings of LoRA on linear layers of the language model. They are saved with the weights.

    Args:
        rank: Rank of the two matrices.
        alpha: The product of the matrices is scaled by alpha / rank.
        dropout: Dropout on the input of the matrices in training.
        targets: Names of the layers, such as "q_proj".
    """

    rank: int
    alpha: int
    dropout: float
    targets: tuple[str, ...]

    def to_dict(self) -> JsonObject:
        """The settings as JSON; `LoraSettings.from_dict` reads them."""
        return {**asdict(self), "targets": list(self.targets)}

    @classmethod
    def from_dict(cls, values: JsonObject) -> LoraSettings:
        """The settings, from the output of `to_dict`."""
        return cls(**{**values, "targets": tuple(values["targets"])})


def choose_trained(
    model: VigcForConditionalGeneration,
    policy: str = "paper",
    train_ln_vision: bool = False,
    lora: LoraSettings | None = None,
) -> list[str]:
    """Freezes weights according to a policy, adds LoRA, and returns the names of the trained weights.

    Args:
        model: The model, changed in place.
        policy: What to train: "paper" trains Q-Former, queries and projection; "none" (nothing is frozen) trains
            everything; "all" (everything is frozen) trains only LoRA.
        train_ln_vision: Whether to also train the LayerNorm after the ViT.
        lora: LoRA to add; None for no LoRA.

    Raises:
        ValueError: The policy is unknown, a LoRA target is not a layer, or there is nothing to train.
    """
    if lora is not None:
        add_lora(model, lora)
    if policy == "all":
        model.requires_grad_(False)
        model.vision_model.post_layernorm.requires_grad_(train_ln_vision)
    else:
        model.freeze(policy, train_ln_vision)
    for name, weight in model.named_parameters():
        if ".lora_" in name:
            weight.requires_grad_(True)
    trained = [name for name, weight in model.named_parameters() if weight.requires_grad]
    if not trained:
        raise TrainingError(f"freeze_policy={policy!r} leaves nothing to train: use 'paper', or set lora_rank.")
    return trained


def add_lora(model: VigcForConditionalGeneration, lora: LoraSettings) -> None:
    """Injects LoRA layers into the language model; they do not change its outputs yet.

    The layers are always in float32, because their updates are small.

    Raises:
        ValueError: A target is not a layer of the language model.
    """
    from peft import LoraConfig, inject_adapter_in_model

    names = {name.rsplit(".", 1)[-1] for name, part in model.language_model.named_modules() if hasattr(part, "weight")}
    unknown = sorted(set(lora.targets) - names)
    if unknown or not lora.targets:
        raise TrainingError(
            f"lora_targets={list(lora.targets)}: the language model has no layer {', '.join(unknown) or '(none)'}; "
            f"its layers are {', '.join(sorted(names))}."
        )
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        # Only in the language model: ViT and Q-Former may have layers of the same names.
        target_modules=rf"language_model\..*\.({'|'.join(lora.targets)})",
    )
    inject_adapter_in_model(config, model)
    for name, weight in model.named_parameters():
        if ".lora_" in name:
            weight.data = weight.data.float()


def merge_lora(model: VigcForConditionalGeneration) -> None:
    """Merges LoRA into the weights and removes its layers. A model without LoRA is not changed.

    Sums are computed in float32 and rounded once, to the dtype of the weights.
    """
    layers = [(name, part) for name, part in model.named_modules() if hasattr(part, "lora_A")]
    for name, layer in layers:
        merged = layer.get_base_layer()
        dtype = merged.weight.dtype
        if dtype.is_floating_point:  # PEFT handles 4-bit weights itself
            layer.float()
        layer.merge()
        if dtype.is_floating_point:
            merged.to(dtype)
        parent, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(parent), attribute, merged)
    # PEFT leaves these attributes on the model.
    for attribute in ("peft_config", "_hf_peft_config_loaded"):
        model.__dict__.pop(attribute, None)


def quantized(model: VigcForConditionalGeneration) -> bool:
    """Whether weights are stored in 4 or 8 bits."""
    return bool(getattr(model, "is_quantized", False))


def hold_frozen_in(model: VigcForConditionalGeneration, dtype: torch.dtype) -> None:
    """Converts frozen weights to `dtype`, and trained weights to float32, which keeps small updates."""
    for weight in model.parameters():
        if weight.is_floating_point():
            weight.data = weight.data.to(torch.float32 if weight.requires_grad else dtype)
