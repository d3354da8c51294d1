"""What of a model is trained: freezing, LoRA on its language model, and merging LoRA again.

LoRA's layers are put into the model itself, which stays a VIGC model: Q-Former, queries and projection can be trained
beside them, `query_tokens` included, which a PEFT wrapper's `modules_to_save` passes over as no module.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch

from vigc.errors import TrainingError
from vigc.modeling_vigc import VigcForConditionalGeneration
from vigc.processing.bounded_parsing import JsonObject


@dataclass(frozen=True)
class LoraSettings:
    """LoRA on linear layers of the language model; written beside the weights it made.

    Args:
        rank: Of the two matrices.
        alpha: Their product is scaled by alpha / rank.
        dropout: On their input, in training.
        targets: Names of the layers, such as "q_proj".
    """

    rank: int
    alpha: int
    dropout: float
    targets: tuple[str, ...]

    def to_dict(self) -> JsonObject:
        """As JSON holds it; `LoraSettings.from_dict` reads it."""
        return {**asdict(self), "targets": list(self.targets)}

    @classmethod
    def from_dict(cls, values: JsonObject) -> LoraSettings:
        """The settings that `to_dict` wrote."""
        return cls(**{**values, "targets": tuple(values["targets"])})


def choose_trained(
    model: VigcForConditionalGeneration,
    policy: str = "paper",
    train_ln_vision: bool = False,
    lora: LoraSettings | None = None,
) -> list[str]:
    """Sets what is trained, and returns its names.

    Args:
        model: LoRA's layers are put into it.
        policy: "paper" (Q-Former, queries, projection), "none" (everything) or "all" (nothing but LoRA).
        train_ln_vision: Also the LayerNorm behind the ViT.
        lora: LoRA beside that.

    Raises:
        ValueError: An unknown policy, no layer of LoRA's targets, or nothing to train.
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
    """Puts LoRA's layers, which change nothing yet, into the language model; `ValueError` if it has no such layers.

    They are in float32 whatever the model is in: their steps are small.
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
        # Only there: the ViT and the Q-Former may use the same names.
        target_modules=rf"language_model\..*\.({'|'.join(lora.targets)})",
    )
    inject_adapter_in_model(config, model)
    for name, weight in model.named_parameters():
        if ".lora_" in name:
            weight.data = weight.data.float()


def merge_lora(model: VigcForConditionalGeneration) -> None:
    """Adds LoRA's products to the weights they belong to and takes its layers out; a model without is left as it is.

    Sums are made in float32 and rounded once, to what the weights are held in.
    """
    layers = [(name, part) for name, part in model.named_modules() if hasattr(part, "lora_A")]
    for name, layer in layers:
        merged = layer.get_base_layer()
        dtype = merged.weight.dtype
        if dtype.is_floating_point:  # weights of 4 bits are PEFT's own matter
            layer.float()
        layer.merge()
        if dtype.is_floating_point:
            merged.to(dtype)
        parent, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(parent), attribute, merged)
    # Left by PEFT on the model it worked on.
    for attribute in ("peft_config", "_hf_peft_config_loaded"):
        model.__dict__.pop(attribute, None)


def quantized(model: VigcForConditionalGeneration) -> bool:
    """Whether weights are held in 4 or 8 bits."""
    return bool(getattr(model, "is_quantized", False))


def hold_frozen_in(model: VigcForConditionalGeneration, dtype: torch.dtype) -> None:
    """Converts what is not trained; what is trained goes to float32, in which small steps are not lost."""
    for weight in model.parameters():
        if weight.is_floating_point():
            weight.data = weight.data.to(torch.float32 if weight.requires_grad else dtype)
