"""Weights in oneDNN's blocked layout, which is faster on CPUs for the small batches of decoding."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TypeGuard

import torch
from torch import nn

# Size limit of the copies in bytes: about 250 million parameters.
MOST_BYTES = 2**30
# A copy takes about as long as it saves in this many passes; short answers end earlier.
_PASSES = 16


class BlockedWeights:
    """Makes modules use copies of their weights in oneDNN's blocked layout while it is on.

    For up to some dozens of rows, MKL (torch's default) takes up to five times as long on AMD processors. Results
    differ by float32 rounding. Copies are made when it is on for the 16th time; the modules are not changed. It does
    nothing on a GPU, for dtypes other than float32, for quantised or custom layers, for compiled modules, and if the
    copies would be too large.

    Args:
        modules: The modules.
    """

    def __init__(self, *modules: nn.Module) -> None:
        self.modules = modules
        self.passes = 0
        self.layers: list[tuple[nn.Linear, Callable[[torch.Tensor], torch.Tensor]]] = []

    @contextmanager
    def on(self) -> Iterator[None]:
        """Makes the modules' linear layers use the copies, unless autocast is enabled."""
        self.passes += 1
        if self.passes == _PASSES:
            self._copy()
        mine = [] if torch.is_autocast_enabled("cpu") else [one for one in self.layers if "forward" not in vars(one[0])]
        try:
            for layer, forward in mine:
                vars(layer)["forward"] = forward
            yield
        finally:
            for layer, _ in mine:
                vars(layer).pop("forward", None)

    def _copy(self) -> None:
        parts = [part for module in self.modules for part in module.modules()]
        if not _is_offered() or any(part._compiled_call_impl or hasattr(part, "_orig_mod") for part in parts):
            return
        layers = [part for part in parts if _is_plain(part)]
        weights = {id(layer.weight): layer.weight for layer in layers}  # tied weights once
        if sum(weight.nbytes for weight in weights.values()) <= MOST_BYTES:
            copies = {key: _blocked(weight) for key, weight in weights.items()}
            self.layers = [(layer, partial(_multiply, copies[id(layer.weight)], layer.bias)) for layer in layers]


def _is_offered() -> bool:
    """Whether torch supports it on this machine, and the processor is one for which it was measured."""
    offered = hasattr(torch.ops.mkldnn, "_reorder_linear_weight") and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    return offered and torch.backends.mkldnn.is_available() and platform.machine() in ("x86_64", "AMD64")


def _is_plain(layer: nn.Module) -> TypeGuard[nn.Linear]:
    """Whether it is an unmodified linear layer."""
    if type(layer) is not nn.Linear or "forward" in vars(layer) or type(layer.weight) is not nn.Parameter:
        return False
    if layer.bias is not None and not (_is_dense(layer.bias) and layer.bias.is_contiguous()):
        return False
    return _is_dense(layer.weight) and layer.weight.numel() > 0


def _is_dense(values: torch.Tensor) -> bool:
    return values.device.type == "cpu" and values.dtype == torch.float32 and values.layout == torch.strided


@torch.no_grad()
def _blocked(weight: torch.Tensor) -> torch.Tensor:
    return torch.ops.mkldnn._reorder_linear_weight(weight, None)


def _multiply(weight: torch.Tensor, bias: torch.Tensor | None, given: torch.Tensor) -> torch.Tensor:
    return torch.ops.mkldnn._linear_pointwise(given, weight, bias, "none", [], "")
