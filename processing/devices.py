"""Selection of the device that a model runs on."""

from __future__ import annotations

import torch

from vigc.errors import first_line


def find_device(name: str, error: type[ValueError] = ValueError) -> torch.device:
    """The device with a given name; "auto" selects an accelerator if there is one, else the CPU.

    Args:
        name: "auto", "cpu", "cuda:1", ...
        error: The exception class to raise; a command passes its own, which has the exit code.

    Raises:
        ValueError: There is no such device.
    """
    if name == "auto":
        found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return found or torch.device("cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as refused:
        reason = first_line(refused)
        raise error(f"device {name!r} cannot be used: {reason}") from refused
