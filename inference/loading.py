"""The model that writes: loaded, placed, and named so that two different ones never share a name and a revision."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, GenerationConfig, InstructBlipConfig, PreTrainedConfig
from transformers.dynamic_module_utils import get_class_from_dynamic_module
from transformers.utils.hub import cached_file, extract_commit_hash

from vigc.errors import GenerationError, TransientError, VigcError, first_line, is_out_of_memory, is_transient
from vigc.hub.errors import is_hub_away
from vigc.hub.revisions import commit_of
from vigc.modeling_vigc import IqfSettings, VigcConfig, VigcForConditionalGeneration
from vigc.modeling_vigc.generation_vigc import IQF_SETTINGS, ORIGINAL_DECODING
from vigc.options import unknown
from vigc.processing import VigcProcessor
from vigc.processing.devices import find_device
from vigc.processing.model_folder import folder_fingerprint, loading_model
from vigc.scenes import model_folder, model_name

from .chat import ChatGenerator, load_chat_model
from .encoder_decoder import EncoderDecoderGenerator
from .generator import ModelFacts as ModelFacts
from .generator import ModelIdentity
from .settings import DTYPES, SPEED_SETTINGS
from .vigc import VigcGenerator

# What is recorded of the decoding; anything else a caller gives is recorded too.
_DECODING = ("num_beams", "repetition_penalty", "max_new_tokens", "do_sample")
_SAMPLING = ("temperature", "top_p", "top_k")


def describe_model(
    model: Any,
    processor: Any = None,
    *,
    device: torch.device,
    dtype: str = "auto",
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> ModelFacts:
    """What a plan says of a model, from its configuration files: nothing large is read.

    Args:
        model: A VIGC model, or the folder or Hub name of one, or of an InstructBLIP with a decoder-only language model.
        processor: Needed with a model object.
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
        if processor is None:
            raise GenerationError("A model object needs its processor: pass processor= too, or the model's folder.")
        name = str(model.config._name_or_path or type(model).__name__)
        found = weights_fingerprint(model) if isinstance(model, torch.nn.Module) else None
        return ModelFacts(
            _public_name(name),
            found,
            _dtype_name(model.dtype),
            model.device,
            model.generation_config,
            trained_on=getattr(model.config, "trained_on", None),
        )
    name = model_folder(model)
    with _said_plainly(name):
        commit = commit_of(name, revision)
        model_class, _ = _classes(name, commit, trust_remote_code)
        kind = _loaded_dtype(name, commit, dtype, device)
        generation_config = _generation_config(name, commit or "main")
        said = PreTrainedConfig.get_config_dict(name, revision=commit)[0].get("trained_on")
        trained_on = said if isinstance(said, str) else None
    found = folder_fingerprint(Path(name)) if Path(name).is_dir() else commit
    remote_code = model_class is not VigcForConditionalGeneration
    return ModelFacts(_public_name(name), found, kind, device, generation_config, remote_code, trained_on)


def weights_fingerprint(model: torch.nn.Module) -> str:
    """16 hexadecimal digits that change with the weights of a model in memory.

    Of every tensor some 64 values count, for the reason that `folder_fingerprint` gives.
    """
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        if tensor.numel() and not tensor.is_meta:  # as a part is that lies on disk until it is needed
            values = tensor.flatten()[:: -(-tensor.numel() // 64)]
            digest.update(values.cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def load_model(
    model: Any,
    processor: Any = None,
    *,
    device: str = "auto",
    dtype: str = "auto",
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> VigcGenerator:
    """Takes a model as it is, or loads it from a folder or the Hub. See [`describe_model`].

    Args:
        model: The model, its folder or its Hub name.
        processor: Needed with a model object; otherwise the model's own by default.
        device: "auto" (an accelerator if there is one), "cpu", "cuda:1", ...
        dtype: One of `DTYPES`.
        revision: Commit, tag or branch on the Hub.
        trust_remote_code: Whether code that comes with the weights runs in place of vigc's own.

    Raises:
        GenerationError: The model cannot be loaded, or is of another kind.
    """
    place = find_device(device, GenerationError)
    facts = describe_model(
        model, processor, device=place, dtype=dtype, revision=revision, trust_remote_code=trust_remote_code
    )
    if not isinstance(model, (str, os.PathLike)):
        return VigcGenerator(model.eval(), processor, facts)
    name = model_folder(model)
    # The very commit that was described: a branch may have moved on.
    commit = None if Path(name).is_dir() else facts.revision
    with _said_plainly(name):
        model_class, processor_class = _classes(name, commit, trust_remote_code)
        # The classes are chosen: no other code is needed, of a tokenizer for instance.
        hub: dict[str, Any] = {"revision": commit, "trust_remote_code": False}
        loaded = model_class.from_pretrained(name, dtype=facts.dtype, **hub)
        processor = processor or processor_class.from_pretrained(name, **hub)
        loaded = loaded.to(place).eval()
    return VigcGenerator(loaded, processor, replace(facts, generation_config=loaded.generation_config))


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
        dtype: One of `DTYPES`; "auto" is what the weights were saved in, but float32 on a CPU.
        device: "auto" (an accelerator if there is one), "cpu", "cuda:1", ...
        revision: Commit, tag or branch on the Hub; all is loaded from the commit that it names now.
        trust_remote_code: Whether code in a chat model's folder may run, for architectures that transformers lacks.
        batch_size: How many rollouts run at a time; None: all that are given to `run`, or VIGC's usual number of slots.
        error: What is raised.

    Raises:
        VigcError: `error`: the model cannot be loaded, or has no chat template.
        TransientError: Memory does not suffice, or the Hub is away.
    """
    name = model_folder(model)
    if dtype not in DTYPES:
        raise error(f"dtype {dtype!r} is not known: use one of {', '.join(DTYPES)}.")
    place = find_device(device, error)
    here = Path(name).is_dir()
    with loading_model(name, error):
        # Named once, so that all is of one commit: transformers no longer notes it in the configuration.
        config_file = None if here else cached_file(name, "config.json", revision=revision)
        commit = extract_commit_hash(config_file, None) or revision
        hub: dict[str, Any] = {"revision": commit, "trust_remote_code": trust_remote_code}
        config = AutoConfig.from_pretrained(name, **hub)  # nosec B615: by `revision`
    kind = torch.float32 if dtype == "auto" and place.type == "cpu" else dtype
    if not isinstance(config, VigcConfig) and type(config) is not InstructBlipConfig:
        return load_chat_model(model, dtype=kind, device=device, batch_size=batch_size, error=error, **hub)
    # Not by `load_model`, which takes no language model with an encoder.
    with loading_model(name, error):
        loaded: Any = VigcForConditionalGeneration.from_pretrained(name, dtype=kind, **hub)
        processor = VigcProcessor.from_pretrained(name, **hub)
    loaded = loaded.to(place).eval()
    found = folder_fingerprint(Path(name)) if here else commit
    facts = ModelFacts(_public_name(name), found, _dtype_name(loaded.dtype), place, loaded.generation_config)
    if not loaded.language_model.config.is_encoder_decoder:
        return VigcGenerator(loaded, processor, facts, batch_size or VigcGenerator.slots)
    identity = ModelIdentity(facts.name, found, facts.dtype, prefix=False, logprobs=False, system=False)
    return EncoderDecoderGenerator(loaded, processor, identity, batch_size)


@contextmanager
def _said_plainly(name: str) -> Iterator[None]:
    """Errors of loading in a sentence, those of the way to the Hub apart."""
    try:
        yield
    except Exception as error:  # a damaged folder makes transformers raise whatever its code meets
        if any(is_out_of_memory(found) for found in _chain(error)):
            raise TransientError(
                f"The model {name!r} does not fit into memory: free some, or take a smaller --dtype."
            ) from error
        if is_hub_away(error):
            raise TransientError(
                f"The Hub does not answer for {name!r} ({first_line(error)}): run the same command again later."
            ) from error
        if any(is_transient(found) for found in _chain(error)):
            raise TransientError(
                f"The model {name!r} cannot be read now ({first_line(error)}): run the same command again later."
            ) from error
        raise GenerationError(f"The model {name!r} cannot be loaded: {first_line(error)}.") from error


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it came of, which transformers may have put another one around."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _generation_config(name: str, revision: str) -> GenerationConfig:
    """As transformers finds it when it loads the model."""
    try:
        return GenerationConfig.from_pretrained(name, revision=revision)
    except OSError:
        return GenerationConfig.from_pretrained(
            name, config_file_name="config.json", _from_model_config=True, revision=revision
        )


def _loaded_dtype(name: str, commit: str | None, dtype: str, device: torch.device) -> str:
    if dtype != "auto":
        return dtype
    if device.type == "cpu":
        return "float32"
    config, _ = PreTrainedConfig.get_config_dict(name, revision=commit)
    saved = config.get("dtype") or config.get("torch_dtype")
    if saved is None:
        raise GenerationError(f"The model {name!r} does not say what its weights were saved in: give --dtype.")
    return _dtype_name(saved)


def _dtype_name(dtype: torch.dtype | str) -> str:
    return str(dtype).removeprefix("torch.")


def _classes(name: str, commit: str | None, trust_remote_code: bool) -> tuple[Any, Any]:
    """Our own classes of model and processor; those that come with the weights where that was asked for."""
    config, _ = PreTrainedConfig.get_config_dict(name, revision=commit)
    kind = config.get("model_type")
    if kind not in (VigcConfig.model_type, InstructBlipConfig.model_type):
        raise ValueError(f"it is a {kind!r} model; give a VIGC model, as `vigc convert` writes, or InstructBLIP")
    inner: Any = InstructBlipConfig.from_dict(config).text_config
    if inner.is_encoder_decoder:
        raise ValueError(
            f"its language model, {inner.model_type!r}, has an encoder; give one with Vicuna, for instance"
        )
    model = config.get("auto_map", {}).get("AutoModelForImageTextToText")
    if model is None or not trust_remote_code:
        return VigcForConditionalGeneration, VigcProcessor
    settings, _ = VigcProcessor.get_processor_dict(name, revision=commit)
    references = model, settings.get("auto_map", {}).get("AutoProcessor", "")
    model_class, processor_class = (_brought(name, reference, commit) for reference in references)
    return model_class, processor_class


def _brought(name: str, reference: str, commit: str | None) -> Any:
    """The class that `reference` names in the code beside the weights."""
    place, _, here = reference.rpartition("--")
    if not here or place not in ("", name):
        raise ValueError(
            f"it takes the code of its model or processor from {place or 'nowhere'!r}, and only what lies beside the "
            "weights, at one commit, is run: leave out trust_remote_code"
        )
    return get_class_from_dynamic_module(here, name, revision=commit)


def _public_name(name: str) -> str:
    known = model_name(name)
    return Path(name).resolve().name if known == name and Path(name).is_dir() else known


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
