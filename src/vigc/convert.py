"""Released VIGC checkpoints become a model folder of transformers, and back.

A released model is layered: EVA's ViT, a Q-Former base file, MiniGPT-4's or InstructBLIP's projection, the fine-tuned
VIGC file, and a Vicuna folder. `convert_checkpoint` lays them over each other, checks that nothing is missing, and
writes a folder that `AutoModel.from_pretrained(folder, trust_remote_code=True)` loads where vigc is not installed. It
reads and writes weight by weight; memory holds one output shard.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_state_dict_into_shards_factory
from safetensors.torch import save_file
from tqdm.auto import tqdm
from transformers import AutoConfig, BlipImageProcessorPil, GenerationConfig, PreTrainedTokenizerFast
from transformers.dynamic_module_utils import custom_object_save

from vigc.convert_keys import to_released, where_to_find
from vigc.convert_tokenizers import load_language_model_tokenizer, load_qformer_tokenizer
from vigc.convert_weights import Layers, Weight, collapse, language_model_weights, read_weights
from vigc.hub_cards import write_model_card
from vigc.modeling_vigc import VigcConfig, VigcForConditionalGeneration
from vigc.processing import VigcProcessor

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
_DECODING = {"num_beams": 1, "do_sample": False, "max_new_tokens": 249, "iqf_preset": "vigc"}


@dataclass
class ConversionReport:
    """What became of every key: `mapped` and `ignored` are (file, key, our name or the reason)."""

    output: Path
    mapped: list[tuple[Path, str, str]] = field(default_factory=list)
    ignored: list[tuple[Path, str, str]] = field(default_factory=list)
    added: list[str] = field(default_factory=list)
    parameters: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"{len(self.mapped)} weights mapped:"]
        lines += [f"  {count:5d}  {file}" for file, count in Counter(path.name for path, _, _ in self.mapped).items()]
        if self.ignored:
            lines.append(f"{len(self.ignored)} keys left out:")
            kinds = Counter((collapse(key), reason) for _, key, reason in self.ignored)
            lines += [f"  {count:5d}  {kind}: {reason}" for (kind, reason), count in kinds.items()]
        lines += [f"added: {what}" for what in self.added]
        lines += [f"{part}: {number:,} parameters" for part, number in self.parameters.items()]
        return "\n".join([*lines, f"written: {self.output}"])


def vigc_config(text_config: dict[str, Any], sizes: dict[str, Any] | None = None) -> VigcConfig:
    """Configuration of a converted model.

    Args:
        text_config: The language model's, with its own vocabulary; two rows are added, `[PAD]` and `<image>`.
        sizes: `vision_config`, `qformer_config`, `num_query_tokens`, `vision_output_layer_norm_eps`; those that are not
            given are the release's.
    """
    sizes = {**_RELEASED, **(sizes or {})}
    vocab_size = text_config["vocab_size"]
    config = VigcConfig(
        vision_config=sizes["vision_config"],
        qformer_config=sizes["qformer_config"],
        text_config={**text_config, "vocab_size": vocab_size + 2},
        num_query_tokens=sizes["num_query_tokens"],
        image_token_index=vocab_size + 1,
        vision_output_layer_norm_eps=sizes["vision_output_layer_norm_eps"],
    )
    config.architectures = [VigcForConditionalGeneration.__name__]
    return config


def convert_checkpoint(
    checkpoints: list[Path],
    language_model: Path,
    output: Path,
    *,
    qformer_tokenizer: str | Path = "bert-base-uncased",
    config: Path | None = None,
    preset: str | None = None,
    dtype: str | None = None,
    max_shard_size: str = "5GB",
) -> ConversionReport:
    """Writes a complete model folder from released files.

    Args:
        checkpoints: `.pth` or `.safetensors` files; a later one's weights replace an earlier one's.
        language_model: Vicuna's folder: config.json, tokenizer.model and weights.
        output: The folder to write. It must not exist yet, or be empty.
        qformer_tokenizer: Name or folder of the BERT tokenizer.
        config: JSON file with `vision_config`, `qformer_config` and `num_query_tokens`, for sizes other than released.
        preset: "7b" or "13b": checks that the language model is of that size.
        dtype: "float32", "float16" or "bfloat16"; by default each weight keeps its own.
        max_shard_size: Size limit of a weight file.

    Raises:
        ValueError: A weight is missing, of another size or not readable; it names the file that should hold it.
    """
    language_model, output = Path(language_model), Path(output)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ValueError(f"{output} exists and is not empty: give --output a new folder.")
    sizes = _sizes(config, preset)
    model_config = vigc_config(_text_config(language_model, preset), sizes)
    with torch.device("meta"):
        model = VigcForConditionalGeneration(model_config)
    layers = Layers(model_config.vision_config.num_hidden_layers)
    layers.add(language_model_weights(language_model))
    for path in checkpoints:
        layers.add(read_weights(Path(path)))
    vocab_size = model_config.text_config.vocab_size
    names = check_weights(model, layers, vocab_size)
    tokenizers = _tokenizer(language_model, vocab_size), load_qformer_tokenizer(qformer_tokenizer)
    # Moved when whole, so that no half model ever lies at `output`.
    partial = output.with_name(f"{output.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    model_config.dtype = _write_weights(names, layers, vocab_size, partial, _dtype(dtype), max_shard_size)
    _write_rest(model, *tokenizers, partial)
    pinned = "pinned" if "embed_tokens.pad_row" in layers.weights else "zeros"
    added = [f"[PAD] row of the embeddings ({pinned})", "<image> row of the embeddings (zeros, never written)"]
    report = ConversionReport(output, layers.mapped, layers.ignored, added, count_parameters(model))
    files = [Path(path).name for path in checkpoints]
    write_model_card(
        partial, name=output.name, checkpoints=files, language_model=language_model.name, parameters=report.parameters
    )
    if output.exists():
        output.rmdir()
    partial.rename(output)
    return report


def to_original(model: Path, output: Path) -> ConversionReport:
    """Writes a model folder's weights in the layout of the release: all but the language model, which it never holds.

    Args:
        model: A folder of `save_pretrained` or `convert_checkpoint`.
        output: A `.pth` (`{"model": ...}`, as LAVIS writes it) or `.safetensors` file.

    Raises:
        ValueError: The folder holds no weights, or the output has another suffix.
    """
    output = Path(output)
    if output.suffix not in (".pth", ".safetensors"):
        raise ValueError(f"{output} should end in .pth or .safetensors.")
    files = sorted(Path(model).glob("*.safetensors"))
    if not files:
        raise ValueError(f"{model} holds no *.safetensors: give a model folder written by vigc or save_pretrained.")
    report = ConversionReport(output)
    state: dict[str, torch.Tensor] = {}
    for weight in (weight for path in files for weight in read_weights(path)):
        key = to_released(weight.key)
        if key is None:
            report.ignored.append((weight.file, weight.key, "the language model, which stays in its own folder"))
            continue
        report.mapped.append((weight.file, weight.key, key))
        state.update(_released_tensors(key, weight))
    positions = state["Qformer.bert.embeddings.position_embeddings.weight"].shape[0]
    state["Qformer.bert.embeddings.position_ids"] = torch.arange(positions)[None]
    report.added.append("Qformer.bert.embeddings.position_ids, a buffer of the released code")
    output.parent.mkdir(parents=True, exist_ok=True)
    if output.suffix == ".pth":
        torch.save({"model": state}, output)
    else:
        save_file(state, output, metadata={"format": "pt"})
    return report


def count_parameters(model: VigcForConditionalGeneration) -> dict[str, int]:
    """Number of parameters of each part."""
    parts = {
        "ViT": model.vision_model.parameters(),
        "Q-Former": [*model.qformer.parameters(), model.query_tokens],
        "projection": model.language_projection.parameters(),
        "language model": model.language_model.parameters(),
    }
    return {part: sum(weight.numel() for weight in weights) for part, weights in parts.items()}


def _released_tensors(key: str, weight: Weight) -> dict[str, torch.Tensor]:
    tensor = weight.load()
    if not key.endswith("attn.qkv.bias"):
        return {key: tensor.contiguous()}
    # A bias on keys moves all scores of a query alike, so that leaving it out changes nothing.
    stem = key.removesuffix("qkv.bias")
    queries, _, values = tensor.chunk(3)
    return {f"{stem}q_bias": queries.contiguous(), f"{stem}v_bias": values.contiguous()}


def _text_config(folder: Path, preset: str | None) -> dict[str, Any]:
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder} has no config.json: --language-model takes a Vicuna folder.")
    config = AutoConfig.from_pretrained(folder)
    text = {key: value for key, value in config.to_dict().items() if key not in ("architectures", "dtype")}
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
                    "the matching folder, or drop --preset."
                )
    return text


def _tokenizer(folder: Path, vocab_size: int) -> PreTrainedTokenizerFast:
    tokenizer = load_language_model_tokenizer(folder)
    if len(tokenizer) != vocab_size:
        raise ValueError(
            f"{folder} has {vocab_size - 2} rows of embeddings but its tokenizer.model makes {len(tokenizer) - 2} "
            "pieces: these files do not belong together."
        )
    return tokenizer


def _sizes(config: Path | None, preset: str | None) -> dict[str, Any] | None:
    if config is None:
        return None
    if preset is not None:
        raise ValueError("Give either --preset or --config, not both.")
    try:
        sizes = json.loads(Path(config).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{config} is not a readable JSON file: {error}") from error
    unknown = set(sizes) - set(_RELEASED)
    if unknown:
        raise ValueError(f"{config} holds {', '.join(sorted(unknown))}: it takes {', '.join(_RELEASED)}.")
    return sizes


def check_weights(model: VigcForConditionalGeneration, layers: Layers, vocab_size: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the model's weights, once all are known to be there and to fit.

    Args:
        model: The model to fill; one on the meta device will do.
        layers: The files' weights.
        vocab_size: Rows of the embeddings, `[PAD]` and `<image>` included.

    Raises:
        ValueError: A weight is missing or of another size.
    """
    tied = set(model._tied_weights_keys or ()) if model.config.text_config.tie_word_embeddings else set()
    wanted = {name: tuple(weight.shape) for name, weight in model.state_dict().items() if name not in tied}
    missing = [name for name in wanted if not layers.has(name)]
    if missing:
        places = Counter(where_to_find(name) for name in missing)
        listed = "; ".join(f"{count} from {place}" for place, count in places.items())
        raise ValueError(
            f"{len(missing)} weights are missing, such as {missing[0]}: {listed}. Name these files with --checkpoint, "
            "base files first."
        )
    for name, shape in wanted.items():
        found = layers.shape(name, vocab_size)
        if found != shape:
            raise ValueError(
                f"{name} is {found} in the files but {shape} in a model of this configuration: give a checkpoint of "
                "that size, or --config with the sizes of this one."
            )
    return wanted


def _dtype(name: str | None) -> torch.dtype | None:
    if name is None:
        return None
    dtype = getattr(torch, name, None)
    if dtype not in (torch.float32, torch.float16, torch.bfloat16):
        raise ValueError(f"dtype {name!r} is not known: use float32, float16 or bfloat16.")
    return dtype


def _write_weights(
    names: dict[str, tuple[int, ...]],
    layers: Layers,
    vocab_size: int,
    output: Path,
    dtype: torch.dtype | None,
    max_shard_size: str,
) -> torch.dtype:
    """Writes the shards, one in memory at a time; returns the widest dtype."""
    dtypes = {name: dtype or layers.dtype(name) for name in names}
    split = split_state_dict_into_shards_factory(
        {name: torch.empty(shape, dtype=dtypes[name], device="meta") for name, shape in names.items()},
        get_storage_size=lambda tensor: tensor.numel() * tensor.element_size(),
        get_storage_id=lambda tensor: None,
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=max_shard_size,
    )
    for filename, keys in tqdm(split.filename_to_tensors.items(), desc="Writing shards", disable=None):
        shard = {key: layers.load(key, vocab_size).to(dtypes[key]).contiguous() for key in keys}
        save_file(shard, output / filename, metadata={"format": "pt"})
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        (output / "model.safetensors.index.json").write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")
    return max(dtypes.values(), key=lambda kind: kind.itemsize)


def _write_rest(model: VigcForConditionalGeneration, tokenizer: Any, qformer_tokenizer: Any, output: Path) -> None:
    """Code, configuration, decoding settings and processor: all that is not a weight."""
    config: Any = model.config
    model.set_auto_map()
    custom_object_save(model, str(output), config=config)
    config.save_pretrained(output)
    text = config.text_config
    GenerationConfig(
        bos_token_id=text.bos_token_id, eos_token_id=text.eos_token_id, pad_token_id=tokenizer.pad_token_id, **_DECODING
    ).save_pretrained(output)
    size = {"height": config.vision_config.image_size, "width": config.vision_config.image_size}
    VigcProcessor(
        BlipImageProcessorPil(size=size), tokenizer, qformer_tokenizer, config.num_query_tokens
    ).save_pretrained(output)
