"""Reads weights of released files lazily, and merges them into those of a transformers model."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from .keys import ignored_reason, released_name, to_transformers

# Weights with a row per token, and the keys of an optional separate row for `[PAD]`.
_PAD_ROWS = {
    "language_model.model.embed_tokens.weight": "embed_tokens.pad_row",
    "language_model.lm_head.weight": "lm_head.pad_row",
}


@dataclass(frozen=True)
class Weight:
    """A tensor that is loaded on demand."""

    file: Path
    key: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    load: Callable[[], torch.Tensor] = field(repr=False)


def read_weights(path: Path) -> Iterator[Weight]:
    """Lists the tensors of a `.safetensors`, `.pth` or `.bin` file without loading them.

    A pickle is read with `weights_only=True`, which refuses code. In a `.pth` file, the weights may be in the entry
    "model" or "state_dict", as in LAVIS.

    Raises:
        ValueError: The file has another format, has code, or would unpack to far more than its size.
    """
    if not path.is_file():
        raise ValueError(f"{path} is not a file: --checkpoint takes .pth, .bin or .safetensors files.")
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, "pt") as file:
                slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118 - not a dict
        except SafetensorError as error:
            raise ValueError(
                f"{path} cannot be read: {error}. It is damaged or incomplete; download it again."
            ) from error
        for key, info in slices.items():
            if info.get_dtype() not in _DTYPES:
                raise ValueError(
                    f"{path}: {key} has the unsupported dtype {info.get_dtype()}: give weights that are not quantised."
                )
            yield Weight(path, key, tuple(info.get_shape()), _DTYPES[info.get_dtype()], _slice_loader(path, key))
        return
    for key, tensor in _unpickle(path).items():
        yield Weight(path, key, tuple(tensor.shape), tensor.dtype, partial(torch.Tensor.detach, tensor))


def language_model_weights(folder: Path) -> Iterator[Weight]:
    """Lists the tensors of a Vicuna folder under our names.

    Raises:
        ValueError: The folder has no weights.
    """
    files = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    if not files:
        raise ValueError(f"{folder} has neither *.safetensors nor pytorch_model*.bin: give the folder of Vicuna.")
    for path in files:
        for weight in read_weights(path):
            yield Weight(weight.file, f"language_model.{weight.key}", weight.shape, weight.dtype, weight.load)


@dataclass
class Layers:
    """Merges released files: of two weights with the same name, the later one is used.

    Args:
        vit_layers: Number of ViT blocks in the model.
        lora_alpha: LoRA's alpha, which the files do not have. The update is scaled by alpha / rank.
    """

    vit_layers: int
    lora_alpha: float = 16.0
    weights: dict[str, Weight] = field(default_factory=dict)
    seen: list[tuple[Weight, str | None]] = field(default_factory=list)

    def add(self, weights: Iterable[Weight]) -> None:
        """Adds the weights of a file, which override earlier ones."""
        for weight in weights:
            own = weight.key.startswith("language_model.") or weight.key in _PAD_ROWS.values()
            name = weight.key if own else to_transformers(weight.key)
            if ignored_reason(weight.key, self.vit_layers) is not None:
                name = None
            self.seen.append((weight, name))
            if name is None:
                continue
            if name.endswith((".q_bias", ".v_bias")):
                self.weights.pop(f"{name[: -len('q_bias')]}qkv.bias", None)
            self.weights[name.replace(".default.", ".")] = weight

    def mapped(self, wanted: Iterable[str]) -> list[tuple[Path, str, str]]:
        """(file, key, our name) of the weights that are used for the `wanted` ones."""
        used = self._used(wanted)
        return [(weight.file, weight.key, used[id(weight)]) for weight, _ in self.seen if id(weight) in used]

    def ignored(self, wanted: Iterable[str]) -> list[tuple[Path, str, str]]:
        """(file, key, reason) of all other weights."""
        used = self._used(wanted)
        rest = []
        for weight, name in self.seen:
            if id(weight) in used:
                continue
            reason = ignored_reason(weight.key, self.vit_layers)
            winner = self.weights.get(name or "")
            if reason is None and winner is not None and winner is not weight:
                reason = f"replaced by the one in {winner.file.name}"
            rest.append((weight.file, weight.key, reason or "unknown: no weight of this model has this name"))
        return rest

    def has(self, name: str) -> bool:
        """Whether all parts of our weight `name` exist."""
        return all(part in self.weights for part in self._parts(name))

    def shape(self, name: str, vocab_size: int) -> tuple[int, ...]:
        """The shape of what `load` returns, without loading."""
        first = self.weights[self._parts(name)[0]].shape
        if self._is_joined(name):
            return (3 * first[0],)
        # Vicuna's rows, with or without one for `[PAD]`.
        grows = name in _PAD_ROWS and first[0] in (vocab_size - 2, vocab_size - 1)
        return (vocab_size, *first[1:]) if grows else first

    def dtype(self, name: str) -> torch.dtype:
        """The dtype of what `load` returns."""
        pinned = self.weights.get(_PAD_ROWS.get(name, ""))
        return (pinned or self.weights[self._parts(name)[0]]).dtype

    def load(self, name: str, vocab_size: int) -> torch.Tensor:
        """Loads our weight `name`: joins its parts, merges LoRA, and adds rows for `[PAD]` and `<image>`."""
        first, *others = (self.weights[part].load() for part in self._parts(name))
        if self._is_joined(name):
            # EVA's attention has no bias on keys.
            return torch.cat([first, torch.zeros_like(first), others[0]])
        if others:
            down, up = (matrix.float() for matrix in others)
            return (first.float() + self.lora_alpha / down.shape[0] * up @ down).to(first.dtype)
        return self._with_added_rows(name, first, vocab_size) if name in _PAD_ROWS else first

    def half_lora(self) -> str | None:
        """A LoRA matrix without the other matrix of its pair, if there is one."""
        for name in self.weights:
            for half, other in ((".lora_A.", ".lora_B."), (".lora_B.", ".lora_A.")):
                if half in name and name.replace(half, other) not in self.weights:
                    return name
        return None

    def _used(self, wanted: Iterable[str]) -> dict[int, str]:
        """Our names of the weights that are used, by `id(weight)`."""
        used = {id(self.weights[part]): name for name in wanted for part in self._parts(name)}
        pinned = {id(self.weights[row]): name for name, row in _PAD_ROWS.items() if row in self.weights}
        return used | pinned

    def _is_joined(self, name: str) -> bool:
        return name.endswith(".qkv.bias") and name not in self.weights

    def _parts(self, name: str) -> list[str]:
        if self._is_joined(name):
            stem = name.removesuffix("qkv.bias")
            return [f"{stem}q_bias", f"{stem}v_bias"]
        stem = name.removesuffix(".weight")
        return [name, *(part for part in (f"{stem}.lora_A.weight", f"{stem}.lora_B.weight") if part in self.weights)]

    def _with_added_rows(self, name: str, tensor: torch.Tensor, vocab_size: int) -> torch.Tensor:
        """Appends rows for new tokens: zeros (they are untrained in the release), or the `[PAD]` row of a file."""
        rows = tensor.new_zeros(vocab_size - tensor.shape[0], *tensor.shape[1:])
        tensor = torch.cat([tensor, rows])
        if _PAD_ROWS[name] in self.weights:
            pad = self.weights[_PAD_ROWS[name]].load()
            tensor = tensor.to(pad.dtype)
            tensor[-2] = pad
        return tensor


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
                f"{path} would unpack to {unpacked:,} bytes, far more than its size: torch does not write such files."
            )
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except Exception as error:
        raise ValueError(
            f"{path} cannot be read as weights ({type(error).__name__}): it is damaged, or a pickle of more than "
            "tensors, which could run code. Ask its author for a .safetensors file."
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
    """Replaces the layer number in a key, so that a report groups the keys of all layers."""
    return re.sub(r"\.\d+\.", ".N.", released_name(key))
