"""The execution device of models whose weights accelerate offloads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


class Placed:
    """Gives a model the `device` on which it computes; an offloaded weight's device is "meta"."""

    @property
    def device(self) -> torch.device:
        """The device for inputs."""
        model: Any = self
        return execution_device(model)


def execution_device(module: nn.Module) -> torch.device:
    """The device on which a module computes: its first weight's, or its hook's if that weight is offloaded."""
    first = next(module.parameters(), None)
    if first is not None and not first.is_meta:
        return first.device
    for hook in _hooks(module):
        device = getattr(hook, "execution_device", None)
        if device is not None:
            return torch.device(device)
    return torch.device("cpu") if first is None else first.device


@contextmanager
def loaded(module: nn.Module) -> Iterator[None]:
    """Loads the module's direct weights, not those of submodules, for code that reads them outside of `forward`."""
    hook: Any = getattr(module, "_hf_hook", None)
    offloaded = hook is not None and any(weight.is_meta for weight in module.parameters(recurse=False))
    if offloaded:
        hook.pre_forward(module)
    try:
        yield
    finally:
        if offloaded:
            hook.post_forward(module, None)


def _hooks(module: nn.Module) -> Iterator[Any]:
    """Accelerate's hooks of a module and its submodules, the module's first."""
    for part in module.modules():
        hook = getattr(part, "_hf_hook", None)
        if hook is not None:
            yield from getattr(hook, "hooks", (hook,))
