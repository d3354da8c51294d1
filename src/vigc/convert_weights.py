"""Weights of released files, read lazily and put together as a transformers model has them."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from vigc.convert_keys import ignored_reason, released_name, to_transformers

_EMBEDDINGS = ("language_model.model.embed_tokens.weight", "language_model.lm_head.weight")
_PAD_ROWS = {"embed_tokens.pad_row": _EMBEDDINGS[0], "lm_head.pad_row": _EMBEDDINGS[1]}
_LORA = re.compile(r"^(.*)\.lora_([AB])(?:\.default)?\.weight$")


@dataclass(frozen=True)
class Weight:
    """A tensor that is read when it is needed."""

    file: Path
    key: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    load: Callable[[], torch.Tensor] = field(repr=False)


def read_weights(path: Path) -> Iterator[Weight]:
    """The tensors of a `.safetensors`, `.pth` or `.bin` file, without loading more than their names.

    A pickle is read with `weights_only=True`: code in it is refused before anything runs. Of a `.pth` the entry
    "model" or "state_dict" is taken if there is one, as LAVIS writes it.

    Raises:
        ValueError: The file is no such thing, holds code, or would unpack to far more than its size.
    """
    if not path.is_file():
        raise ValueError(f"{path} is not a file: --checkpoint takes .pth, .bin or .safetensors files.")
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, "pt") as file:
                slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118 - not a dict
        except SafetensorError as error:
            raise ValueError(
                f"{path} cannot be read: {error}. It is damaged or not complete; fetch it again."
            ) from error
        for key, info in slices.items():
            yield Weight(path, key, tuple(info.get_shape()), _DTYPES[info.get_dtype()], _slice_loader(path, key))
        return
    for key, tensor in _unpickle(path).items():
        yield Weight(path, key, tuple(tensor.shape), tensor.dtype, partial(torch.Tensor.detach, tensor))


def language_model_weights(folder: Path) -> Iterator[Weight]:
    """The tensors of a Vicuna folder, under our names.

    Raises:
        ValueError: The folder holds no weights.
    """
    files = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    if not files:
        raise ValueError(f"{folder} holds neither *.safetensors nor pytorch_model*.bin: give Vicuna's folder.")
    for path in files:
        for weight in read_weights(path):
            yield Weight(weight.file, f"language_model.{weight.key}", weight.shape, weight.dtype, weight.load)


@dataclass
class Layers:
    """Released files laid over each other: of two weights with one name the later one counts.

    Args:
        vit_layers: How many blocks of the ViT the model has.
        scale: LoRA's alpha over its rank, which files do not say.
    """

    vit_layers: int
    lora_alpha: float = 16.0
    weights: dict[str, Weight] = field(default_factory=dict)
    mapped: list[tuple[Path, str, str]] = field(default_factory=list)
    ignored: list[tuple[Path, str, str]] = field(default_factory=list)

    def add(self, weights: Iterator[Weight]) -> None:
        """Lays one file's weights over those that are there."""
        for weight in weights:
            if weight.key.startswith("language_model.") or weight.key in _PAD_ROWS:
                name: str | None = weight.key
            else:
                name = to_transformers(weight.key)
            reason = ignored_reason(weight.key, self.vit_layers)
            if reason is None and name is None:
                reason = "unknown: no weight of a VIGC model has this name"
            if reason is not None or name is None:
                self.ignored.append((weight.file, weight.key, reason or ""))
                continue
            self.weights[name] = weight
            self.mapped.append((weight.file, weight.key, name))

    def has(self, name: str) -> bool:
        """Whether all parts of our weight `name` are there."""
        return all(part in self.weights for part in self._parts(name))

    def shape(self, name: str, vocab_size: int) -> tuple[int, ...]:
        """The shape that `load` will give, without loading."""
        first = self.weights[self._parts(name)[0]].shape
        if name.endswith(".qkv.bias") and name not in self.weights:
            return (3 * first[0],)
        return (vocab_size, *first[1:]) if name in _EMBEDDINGS and first[0] <= vocab_size else first

    def dtype(self, name: str) -> torch.dtype:
        """The dtype that `load` will give."""
        pinned = next((key for key, target in _PAD_ROWS.items() if target == name and key in self.weights), None)
        return self.weights[pinned or self._parts(name)[0]].dtype

    def load(self, name: str, vocab_size: int) -> torch.Tensor:
        """Our weight `name`: read, joined from its parts, with LoRA merged and rows for `[PAD]` and `<image>` added."""
        tensor = self.weights[self._parts(name)[0]].load()
        if name.endswith(".qkv.bias") and name not in self.weights:
            # EVA's attention has no bias on keys.
            tensor = torch.cat([tensor, torch.zeros_like(tensor), self.weights[self._parts(name)[1]].load()])
        if name in _EMBEDDINGS:
            tensor = self._with_added_rows(name, tensor, vocab_size)
        stem = name.removesuffix(".weight")
        lora = [self._lora(stem, side) for side in "AB"]
        if lora[0] is not None and lora[1] is not None:
            down, up = lora[0].load().float(), lora[1].load().float()
            tensor = (tensor.float() + self.lora_alpha / down.shape[0] * up @ down).to(tensor.dtype)
        return tensor

    def _parts(self, name: str) -> list[str]:
        if name.endswith(".qkv.bias") and name not in self.weights:
            stem = name.removesuffix("qkv.bias")
            return [f"{stem}q_bias", f"{stem}v_bias"]
        return [name]

    def _lora(self, stem: str, side: str) -> Weight | None:
        return next((self.weights[name] for name in self.weights if _is_lora(name, stem, side)), None)

    def _with_added_rows(self, name: str, tensor: torch.Tensor, vocab_size: int) -> torch.Tensor:
        """Zeros for new tokens (the release leaves them untrained); a pinned `[PAD]` row if a file brings one."""
        rows = tensor.new_zeros(vocab_size - tensor.shape[0], *tensor.shape[1:])
        pinned = next((key for key, target in _PAD_ROWS.items() if target == name and key in self.weights), None)
        if pinned is not None:
            pad = self.weights[pinned].load()
            tensor, rows = tensor.to(pad.dtype), rows.to(pad.dtype)
            rows[0] = pad
        return torch.cat([tensor, rows])


def _is_lora(name: str, stem: str, side: str) -> bool:
    match = _LORA.match(name)
    return match is not None and match[1] == stem and match[2] == side


def _slice_loader(path: Path, key: str) -> Callable[[], torch.Tensor]:
    def load() -> torch.Tensor:
        with safe_open(path, "pt") as file:
            return file.get_tensor(key)

    return load


def _unpickle(path: Path) -> dict[str, torch.Tensor]:
    zipped = zipfile.is_zipfile(path)
    if zipped:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(item.file_size for item in archive.infolist())
        if unpacked > 1.1 * path.stat().st_size + 2**20:
            raise ValueError(
                f"{path} would unpack to {unpacked:,} bytes, far more than its size: it is not torch's own."
            )
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except Exception as error:
        raise ValueError(
            f"{path} cannot be read as plain weights ({type(error).__name__}): it is damaged, or a pickle with more "
            "than tensors in it, which is refused because it could run code. Ask its author for a .safetensors file."
        ) from error
    for entry in ("model", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(entry), dict):
            content = content[entry]
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, not a dictionary of weights.")
    return {key: value for key, value in content.items() if isinstance(value, torch.Tensor)}


_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "BOOL": torch.bool,
    "U8": torch.uint8,
}


def collapse(key: str) -> str:
    """A key with its layer number replaced, so that a report has a line for each kind of key."""
    return re.sub(r"\.\d+\.", ".N.", released_name(key))
