"""Finds and loads models. Name and revision identify a model: different weights never share both."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import Any

import torch
from transformers import GenerationConfig

from vigc.errors import GenerationError, VigcError
from vigc.modeling_vigc import IqfSettings
from vigc.modeling_vigc.generation_vigc import IQF_SETTINGS, ORIGINAL_DECODING
from vigc.options import unknown
from vigc.processing.devices import find_device
from vigc.scenes import model_folder

from .chat import ChatGenerator, load_chat_model
from .checkpoints import loading_errors, read_checkpoint
from .encoder_decoder import load_encoder_decoder
from .generator import FoundModel, Writer
from .settings import DTYPES, SPEED_SETTINGS
from .vigc import VIGC_TYPES, VigcGenerator, find_vigc, given_vigc, has_encoder

# Decoding settings that are always recorded; other explicit settings are recorded too.
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
) -> FoundModel[Writer]:
    """Finds a model by its configuration files, chooses its implementation, and does not read its weights.

    Args:
        model: A VIGC model object, or the folder or Hub name of a VIGC model or of an InstructBLIP with a decoder-only
            language model.
        processor: Required with a model object; by default loaded with the model.
        device: The device to run on.
        dtype: One of `DTYPES`; "auto" is the saved one, or float32 on a CPU.
        revision: Commit, tag or branch on the Hub, resolved to its current commit.
        trust_remote_code: Whether code in the model repository runs instead of that of vigc.

    Raises:
        GenerationError: The model does not exist, or is not supported.
        TransientError: The Hub cannot be reached.
    """
    if dtype not in DTYPES:
        raise GenerationError(unknown("dtype", dtype, DTYPES))
    if not isinstance(model, (str, os.PathLike)):
        return given_vigc(model, processor)
    name = model_folder(model)
    checkpoint = read_checkpoint(name, revision, device=device, dtype=dtype, trust_remote_code=trust_remote_code)
    with loading_errors(name):
        if checkpoint.model_type in VIGC_TYPES:
            return find_vigc(checkpoint, processor)
        raise ValueError(
            f"it is a {checkpoint.model_type!r} model; give a VIGC model, as `vigc convert` writes, or InstructBLIP"
        )


def load_model(model: Any, processor: Any = None, *, device: str = "auto", batch_size: int = 8, **found: Any) -> Writer:
    """Wraps a model object, or loads a model from a folder or the Hub.

    Args:
        model: The model, its folder or its Hub name.
        processor: Required with a model object; by default loaded with the model.
        device: "auto" (an accelerator if there is one), "cpu", "cuda:1", ...
        batch_size: Number of requests completed together.
        found: `dtype`, `revision` and `trust_remote_code`; see [`find_model`].

    Raises:
        GenerationError: The model cannot be loaded, or is not supported.
        TransientError: The Hub cannot be reached, or memory runs out.
    """
    return find_model(model, processor, device=find_device(device, GenerationError), **found).load(batch_size)


def load_generator(
    model: str | os.PathLike[str],
    *,
    dtype: str = "auto",
    device: str = "auto",
    revision: str | None = None,
    trust_remote_code: bool = False,
    batch_size: int | None = 8,
    error: type[VigcError] = GenerationError,
) -> VigcGenerator | ChatGenerator:
    """Loads a model that answers questions about images: VIGC, InstructBLIP, or any chat model of transformers.

    Args:
        model: A folder or a Hub name.
        dtype: One of `DTYPES`; "auto" is the saved one, or float32 on a CPU.
        device: "auto" (an accelerator if there is one), "cpu", "cuda:1", ...
        revision: Commit, tag or branch on the Hub, resolved to its current commit.
        trust_remote_code: Whether code in the model repository may run.
        batch_size: Number of rollouts that run together; None for all rollouts of a call of `run`, or for VIGC the
            default number of slots.
        error: Class of the raised errors.

    Raises:
        VigcError: `error`: the model cannot be loaded, or has no chat template.
        TransientError: Memory runs out, or the Hub cannot be reached.
    """
    if dtype not in DTYPES:
        raise error(unknown("dtype", dtype, DTYPES))
    name, place = model_folder(model), find_device(device, error)
    hub: dict[str, Any] = {"trust_remote_code": trust_remote_code, "error": error}
    checkpoint = read_checkpoint(name, revision, device=place, dtype=dtype, **hub)
    if checkpoint.model_type not in VIGC_TYPES:
        chosen = "float32" if dtype == "auto" and place.type == "cpu" else dtype
        return load_chat_model(
            name, dtype=chosen, device=place, revision=checkpoint.commit, batch_size=batch_size, **hub
        )
    with loading_errors(name, error):
        if has_encoder(checkpoint):
            return load_encoder_decoder(checkpoint, batch_size)
        found = find_vigc(checkpoint)
    return found.load(batch_size or VigcGenerator.slots)


def effective_settings(config: GenerationConfig, settings: dict[str, Any], correct: bool) -> dict[str, dict[str, Any]]:
    """All decoding and `iqf` settings of a run: the explicit ones, and those saved with the model for the others.

    `SPEED_SETTINGS` are omitted.

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
        raise GenerationError(
            f"{', '.join(unused)} has no effect without sampling: give --do-sample too, or remove it."
        )
    return {"decoding": decoding, "iqf": iqf}
