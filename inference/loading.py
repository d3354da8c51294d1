"""The model that writes: found, loaded, and named so that two different ones never share a name and a revision."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import Any

import torch
from transformers import GenerationConfig

from vigc.errors import GenerationError
from vigc.modeling_vigc import IqfSettings
from vigc.modeling_vigc.generation_vigc import IQF_SETTINGS, ORIGINAL_DECODING
from vigc.options import unknown
from vigc.processing.devices import find_device
from vigc.scenes import model_folder

from .checkpoints import loading_errors, read_checkpoint
from .generator import FoundModel, Writer
from .settings import DTYPES, SPEED_SETTINGS
from .vigc import VIGC_TYPES, find_vigc, given_vigc

# What is recorded of the decoding; anything else a caller gives is recorded too.
_DECODING = ("num_beams", "repetition_penalty", "max_new_tokens", "do_sample")
_SAMPLING = ("temperature", "top_p", "top_k")


def find_model(
    model: Any,
    processor: Any = None,
    *,
    device: torch.device,
    dtype: str = "auto",
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> FoundModel:
    """A model as its configuration files describe it; its weights are not read. Here its kind is chosen.

    Args:
        model: A VIGC model, or the folder or Hub name of one, or of an InstructBLIP with a decoder-only language model.
        processor: Needed with a model object; otherwise the model's own by default.
        device: Where it is to run.
        dtype: One of `DTYPES`; "auto" is what the weights were saved in, but float32 on a CPU.
        revision: Commit, tag or branch on the Hub; all is loaded from the commit that it names now.
        trust_remote_code: Whether code that comes with the weights runs in place of vigc's own.

    Raises:
        GenerationError: There is no such model, or it is of another kind.
        TransientError: The Hub cannot be reached.
    """
    if dtype not in DTYPES:
        raise GenerationError(unknown("dtype", dtype, DTYPES))
    if not isinstance(model, (str, os.PathLike)):
        return given_vigc(model, processor)
    name = model_folder(model)
    with loading_errors(name):
        checkpoint = read_checkpoint(name, revision, device=device, dtype=dtype, trust_remote_code=trust_remote_code)
        kind = checkpoint.config.get("model_type")
        if kind in VIGC_TYPES:
            return find_vigc(checkpoint, processor)
        raise ValueError(f"it is a {kind!r} model; give a VIGC model, as `vigc convert` writes, or InstructBLIP")


def load_model(model: Any, processor: Any = None, *, device: str = "auto", batch_size: int = 8, **found: Any) -> Writer:
    """Takes a model as it is, or loads it from a folder or the Hub.

    Args:
        model: The model, its folder or its Hub name.
        processor: Needed with a model object; otherwise the model's own by default.
        device: "auto" (an accelerator if there is one), "cpu", "cuda:1", ...
        batch_size: How many requests are completed at a time.
        found: `dtype`, `revision` and `trust_remote_code`; see [`find_model`].

    Raises:
        GenerationError: The model cannot be loaded, or is of another kind.
        TransientError: The Hub cannot be reached, or memory does not suffice.
    """
    return find_model(model, processor, device=find_device(device, GenerationError), **found).load(batch_size)


def effective_settings(config: GenerationConfig, settings: dict[str, Any], correct: bool) -> dict[str, dict[str, Any]]:
    """The decoding and `iqf` settings of a run, complete: the model's own with those that were given.

    `SPEED_SETTINGS` are left out.

    Raises:
        GenerationError: A sampling setting without sampling.
    """
    given_iqf = {name: value for name, value in settings.items() if name in IQF_SETTINGS}
    given = {name: value for name, value in settings.items() if name not in IQF_SETTINGS}
    resolved = asdict(IqfSettings.resolve(config, given_iqf)) if correct else {}
    iqf = {name: value for name, value in resolved.items() if name not in SPEED_SETTINGS}
    decoding = {name: getattr(config, name, None) for name in _DECODING}
    if iqf.get("iqf_preset") == "original":
        decoding.update(ORIGINAL_DECODING)
    decoding.update(given)
    if decoding["do_sample"]:
        decoding.update({name: getattr(config, name, None) for name in _SAMPLING if name not in given})
    elif unused := [name for name in _SAMPLING if name in given]:
        raise GenerationError(f"{', '.join(unused)} has no effect without sampling: give --do-sample too, or drop it.")
    return {"decoding": decoding, "iqf": iqf}
