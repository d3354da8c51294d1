"""Converts released VIGC checkpoints to a transformers model folder, and back.

A released model consists of several files: EVA's ViT, a Q-Former base file, MiniGPT-4's or InstructBLIP's projection,
the fine-tuned VIGC file, and a Vicuna folder. `convert_checkpoint` merges them, checks that no weight is missing, and
writes a folder that `AutoModel.from_pretrained(folder, trust_remote_code=True)` loads without vigc. Weights are read
and written one by one; memory holds one output shard, and whole `.pth` files of torch's old format.
"""

from __future__ import annotations

import json
import math
import secrets
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_state_dict_into_shards_factory
from safetensors.torch import save_file
from tqdm.auto import tqdm
from transformers import BlipImageProcessorPil, GenerationConfig
from transformers.dynamic_module_utils import custom_object_save

from vigc.hub_cards import write_model_card
from vigc.modeling_vigc import VigcConfig, VigcForConditionalGeneration
from vigc.processing import VigcProcessor
from vigc.processing.atomic import atomic_folder

from .config import read_sizes, read_text_config, vigc_config
from .keys import to_released, where_to_find
from .tokenizers import load_language_model_tokenizer, load_qformer_tokenizer
from .weights import Layers, Weight, collapse, language_model_weights, read_weights

_DECODING = {"num_beams": 1, "do_sample": False, "max_new_tokens": 249, "iqf_preset": "vigc"}


@dataclass
class ConversionReport:
    """The result of a conversion.

    Args:
        output: The folder or file that was written.
        mapped: (file, key, new name) of each converted weight.
        ignored: (file, key, reason) of each ignored weight.
        added: Descriptions of weights that no file has.
        parameters: Number of parameters by part of the model.
    """

    output: Path
    mapped: list[tuple[Path, str, str]] = field(default_factory=list)
    ignored: list[tuple[Path, str, str]] = field(default_factory=list)
    added: list[str] = field(default_factory=list)
    parameters: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"{len(self.mapped)} weights mapped:"]
        lines += [f"  {count:5d}  {file}" for file, count in Counter(path.name for path, _, _ in self.mapped).items()]
        if self.ignored:
            lines.append(f"{len(self.ignored)} keys ignored:")
            groups = Counter((collapse(key), reason) for _, key, reason in self.ignored)
            lines += [f"  {count:5d}  {key}: {reason}" for (key, reason), count in groups.items()]
        lines += [f"added: {what}" for what in self.added]
        lines += [f"{part}: {number:,} parameters" for part, number in self.parameters.items()]
        return "\n".join([*lines, f"written: {self.output}"])


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
    lora_alpha: float = 16.0,
) -> ConversionReport:
    """Converts released files to a complete model folder.

    Args:
        checkpoints: `.pth` or `.safetensors` files; weights of later files override those of earlier ones.
        language_model: Folder of Vicuna: config.json, tokenizer.model and weights.
        output: The folder to write, new or empty.
        qformer_tokenizer: Name or folder of the BERT tokenizer.
        config: JSON file with `vision_config`, `qformer_config` and `num_query_tokens`, if the sizes are not those of
            the release.
        preset: "7b" or "13b": checks that the language model has that size.
        dtype: "float32", "float16" or "bfloat16"; by default each weight keeps its dtype, and the configuration gets
            the most frequent one.
        max_shard_size: Size limit of a weight file.
        lora_alpha: Alpha of LoRA matrices, which are merged into the weights.

    Raises:
        ValueError: A weight is missing, has another shape or cannot be read. The message names the file that should
            have it.
    """
    language_model, output = Path(language_model), Path(output)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ValueError(f"{output} exists and is not empty: give --output a new folder.")
    kind, sizes = _dtype(dtype), read_sizes(config, preset)
    text_config = read_text_config(language_model, preset)
    tokenizer = load_language_model_tokenizer(language_model)
    model_config = vigc_config({**text_config, "vocab_size": len(tokenizer) - 2}, sizes)
    tokenizers = tokenizer, _qformer_tokenizer(qformer_tokenizer, model_config)
    with torch.device("meta"):
        model = VigcForConditionalGeneration(model_config)
    layers = Layers(model_config.vision_config.num_hidden_layers, lora_alpha)
    for weights in (language_model_weights(language_model), *map(read_weights, map(Path, checkpoints))):
        layers.add(weights)
    names = check_weights(model, layers, len(tokenizer))
    with atomic_folder(output) as folder:
        model_config.dtype = _write_weights(names, layers, len(tokenizer), folder, kind, max_shard_size)
        _write_rest(model, *tokenizers, folder)
        write_model_card(
            folder,
            name=output.name,
            checkpoints=[Path(path).name for path in checkpoints],
            language_model=language_model.name,
            parameters=count_parameters(model),
        )
    return _report(output, model, names, layers)


def _report(
    output: Path, model: VigcForConditionalGeneration, names: Iterable[str], layers: Layers
) -> ConversionReport:
    pinned = "from a checkpoint" if "embed_tokens.pad_row" in layers.weights else "from the language model, or zeros"
    added = [f"[PAD] row of the embeddings ({pinned})", "<image> row of the embeddings (zeros, never written)"]
    return ConversionReport(output, layers.mapped(names), layers.ignored(names), added, count_parameters(model))


def to_original(model: Path, output: Path) -> ConversionReport:
    """Writes the weights of a model folder in the layout of the release, which excludes the language model.

    Args:
        model: A folder written by `save_pretrained` or `convert_checkpoint`.
        output: A `.pth` (`{"model": ...}`, as LAVIS writes it) or `.safetensors` file.

    Raises:
        ValueError: The folder has no weights, or the output has another suffix.
    """
    output = Path(output)
    if output.suffix not in (".pth", ".safetensors"):
        raise ValueError(f"{output} should end in .pth or .safetensors.")
    files = sorted(Path(model).glob("model*.safetensors"))
    if not files:
        raise ValueError(f"{model} has no model*.safetensors: give a model folder written by vigc or save_pretrained.")
    report = ConversionReport(output)
    state: dict[str, torch.Tensor] = {}
    for weight in (weight for path in files for weight in read_weights(path)):
        key = to_released(weight.key)
        if key is None:
            report.ignored.append((weight.file, weight.key, "the language model, which stays in its own folder"))
            continue
        report.mapped.append((weight.file, weight.key, key))
        state.update(_released_tensors(key, weight))
    counted = state.get("Qformer.bert.embeddings.position_embeddings.weight")
    if counted is None:
        raise ValueError(f"{model} has no Q-Former: give the folder of a VIGC model, not of its language model.")
    positions = counted.shape[0]
    state["Qformer.bert.embeddings.position_ids"] = torch.arange(positions)[None]
    report.added.append("Qformer.bert.embeddings.position_ids, a buffer of the released code")
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_name(f".{output.name}.{secrets.token_hex(8)}")
    try:
        if output.suffix == ".pth":
            torch.save({"model": state}, partial)
        else:
            save_file(state, partial, metadata={"format": "pt"})
        partial.replace(output)
    finally:
        partial.unlink(missing_ok=True)
    return report


def count_parameters(model: VigcForConditionalGeneration) -> dict[str, int]:
    """Number of parameters by part of the model."""
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
    # A bias on keys shifts all scores of a query by the same amount, so that dropping it changes nothing.
    stem = key.removesuffix("qkv.bias")
    queries, _, values = tensor.chunk(3)
    return {f"{stem}q_bias": queries.contiguous(), f"{stem}v_bias": values.contiguous()}


def _qformer_tokenizer(name: str | Path, config: VigcConfig) -> Any:
    tokenizer = load_qformer_tokenizer(name)
    rows = config.qformer_config.vocab_size
    if len(tokenizer) > rows:
        raise ValueError(
            f"The Q-Former's tokenizer {str(name)!r} has {len(tokenizer)} tokens, [DEC] included, but its embeddings "
            f"have {rows} rows: give --qformer-tokenizer the tokenizer that it was trained with."
        )
    return tokenizer


def check_weights(model: VigcForConditionalGeneration, layers: Layers, vocab_size: int) -> dict[str, tuple[int, ...]]:
    """Checks that the files have all weights in the right shapes; returns names and shapes of the model's weights.

    Args:
        model: The model; it may be on the meta device.
        layers: The merged weights of the files.
        vocab_size: Rows of the embeddings, including `[PAD]` and `<image>`.

    Raises:
        ValueError: A weight is missing or has another shape.
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
    if half := layers.half_lora():
        raise ValueError(f"{half} lacks the other matrix of its LoRA pair: give the file that has both.")
    for name, shape in wanted.items():
        found = layers.shape(name, vocab_size)
        if found != shape:
            raise ValueError(
                f"{name} has shape {found} in the files but {shape} in the model: give a checkpoint of that size, or "
                "--config with the sizes of this one."
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
    """Writes the shards, with one in memory at a time; returns the most frequent dtype."""
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
    counts: Counter[torch.dtype] = Counter()
    for name, shape in names.items():
        counts[dtypes[name]] += math.prod(shape)
    return counts.most_common(1)[0][0]


def _write_rest(model: VigcForConditionalGeneration, tokenizer: Any, qformer_tokenizer: Any, output: Path) -> None:
    """Writes code, configuration, decoding settings and processor."""
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
