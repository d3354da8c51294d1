"""Sizes of converted models: those of the release, or from a Vicuna folder and a `--config` file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoConfig

from vigc.errors import VigcError
from vigc.modeling_vigc import VigcConfig, VigcForConditionalGeneration
from vigc.processing.bounded_parsing import read_json
from vigc.processing.model_folder import loading_model

# EVA ViT-g/14 without its last block, BERT-base with cross-attention every other layer (`[DEC]` added), Vicuna v1.1.
_RELEASED = {
    "num_query_tokens": 32,
    "vision_output_layer_norm_eps": 1e-5,
    "vision_config": {
        "hidden_size": 1408,
        "intermediate_size": 6144,
        "num_hidden_layers": 39,
        "num_attention_heads": 16,
        "image_size": 224,
        "patch_size": 14,
        "layer_norm_eps": 1e-6,
        "qkv_bias": True,
    },
    "qformer_config": {
        "vocab_size": 30523,
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
        "max_position_embeddings": 512,
        "cross_attention_frequency": 2,
    },
}
_LLAMA = {
    "model_type": "llama",
    "vocab_size": 32000,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
PRESETS: dict[str, dict[str, Any]] = {
    "7b": {
        **_RELEASED,
        "text_config": {
            **_LLAMA,
            "hidden_size": 4096,
            "intermediate_size": 11008,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
        },
    },
    "13b": {
        **_RELEASED,
        "text_config": {
            **_LLAMA,
            "hidden_size": 5120,
            "intermediate_size": 13824,
            "num_hidden_layers": 40,
            "num_attention_heads": 40,
        },
    },
}


def vigc_config(text_config: dict[str, Any], sizes: dict[str, Any] | None = None) -> VigcConfig:
    """Configuration of a converted model.

    Args:
        text_config: Configuration of the language model; `[PAD]` and `<image>` are added to its vocabulary size.
        sizes: `vision_config`, `qformer_config`, `num_query_tokens`, `vision_output_layer_norm_eps`; missing entries
            default to the release.
    """
    sizes = {**_RELEASED, **(sizes or {})}
    vocab_size = text_config["vocab_size"] + 2
    config = VigcConfig(
        vision_config=sizes["vision_config"],
        qformer_config=sizes["qformer_config"],
        text_config={**text_config, "vocab_size": vocab_size},
        num_query_tokens=sizes["num_query_tokens"],
        image_token_index=vocab_size - 1,
        vision_output_layer_norm_eps=sizes["vision_output_layer_norm_eps"],
    )
    config.architectures = [VigcForConditionalGeneration.__name__]
    return config


def read_text_config(folder: Path, preset: str | None) -> dict[str, Any]:
    """Reads the language model's configuration, without dtype, architectures and transformers version.

    Raises:
        ValueError: The folder has no configuration, or one of another size than the preset.
    """
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder} has no config.json: --language-model takes a Vicuna folder.")
    # A local folder has no revisions to pin.
    with loading_model(str(folder), VigcError):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)  # nosec B615
    left_out = ("architectures", "dtype", "transformers_version")
    text = {key: value for key, value in config.to_dict().items() if key not in left_out and not key.startswith("_")}
    if preset is not None:
        if preset not in PRESETS:
            raise ValueError(
                f"preset {preset!r} is not known: use {' or '.join(PRESETS)}, or --config for other sizes."
            )
        expected = PRESETS[preset]["text_config"]
        for name in ("hidden_size", "num_hidden_layers"):
            if text.get(name) != expected[name]:
                raise ValueError(
                    f"{folder} has {name}={text.get(name)}, but a {preset} language model has {expected[name]}: give "
                    "the matching folder, or remove --preset."
                )
    return text


def read_sizes(config: Path | None, preset: str | None) -> dict[str, Any] | None:
    """Reads a `--config` file; returns None without one.

    Raises:
        ValueError: The file cannot be read, or has other content.
    """
    if config is None:
        return None
    if preset is not None:
        raise ValueError("Give either --preset or --config, not both.")
    try:
        sizes = read_json(Path(config))
    except (OSError, ValueError) as error:
        raise ValueError(f"{config} is not a readable JSON file: {error}") from error
    if not isinstance(sizes, dict):
        raise ValueError(f"{config} holds a {type(sizes).__name__}: it takes an object with {', '.join(_RELEASED)}.")
    unknown = set(sizes) - set(_RELEASED)
    if unknown:
        raise ValueError(f"{config} has unknown entries {', '.join(sorted(unknown))}: it takes {', '.join(_RELEASED)}.")
    return sizes
