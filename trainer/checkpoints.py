"""Checkpoints with only the trained weights: a few hundred MB for a model of 16 GB.

Such a folder has no `model.safetensors`, so that `from_pretrained` refuses it instead of initializing the other weights
randomly. `load_trained` loads it on top of the base model.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError
from safetensors import safe_open
from safetensors.torch import save_file

from vigc.errors import TrainingError, reason_of
from vigc.modeling_vigc import VigcForConditionalGeneration
from vigc.processing import VigcProcessor
from vigc.processing.bounded_parsing import JsonObject, read_json
from vigc.processing.model_folder import folder_fingerprint
from vigc.scenes import model_folder

from .adapters import LoraSettings, add_lora, merge_lora
from .intact import STATE, loading, step_of
from .run_fingerprint import check_intact

logger = logging.getLogger(__name__)

WEIGHTS = "trained_weights.safetensors"
DESCRIPTION = "trained_weights.json"


def is_trained_only(folder: str | Path) -> bool:
    """Whether a folder has only trained weights."""
    return (Path(folder) / WEIGHTS).is_file()


def weights_fingerprint(base: str) -> str | None:
    """A fingerprint of the weights in a model folder; None for a name on the Hub, which has a commit instead."""
    there = Path(base).is_dir() and any(Path(base).glob("model*.safetensors"))
    return folder_fingerprint(Path(base), "model*.safetensors") if there else None


def discard_trained(folder: Path) -> None:
    """Deletes the files of trained weights from a folder that now has the whole model."""
    for name in (WEIGHTS, DESCRIPTION):
        (folder / name).unlink()


def last_complete(output_dir: str | Path) -> Path | None:
    """The latest complete checkpoint, that is, one with `trainer_state.json`, which is written last; None if none.

    A process that is killed while it saves leaves a folder without optimizer or state.
    """
    folders = [path for path in Path(output_dir).glob("checkpoint-*") if step_of(path) is not None]
    for folder in sorted(folders, key=lambda path: step_of(path) or 0, reverse=True):
        try:
            read_json(folder / "trainer_state.json")
        except (OSError, ValueError):
            logger.warning("%s is incomplete: an earlier checkpoint is used.", folder)
            continue
        return folder
    return None


def save_trained(
    folder: Path,
    model: VigcForConditionalGeneration,
    state: Mapping[str, torch.Tensor],
    *,
    base: str,
    base_weights: str | None = None,
    lora: LoraSettings | None,
) -> None:
    """Saves the trained weights, a description of their base model, and the model's configuration.

    Args:
        folder: The folder to write; it is created if it does not exist.
        model: The model. The description lists the parts with frozen weights.
        state: The trained weights by name.
        base: Name or folder of the base model.
        base_weights: For a folder, its [`weights_fingerprint`] at the start of training.
        lora: Settings of the LoRA layers, if any.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: weight.detach().cpu().contiguous() for name, weight in state.items()}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    description = {
        "base": base,
        "base_revision": getattr(model.config, "_commit_hash", None),
        "base_weights": base_weights,
        "lora": lora.to_dict() if lora else None,
        "trained_parameters": sum(weight.numel() for weight in tensors.values()),
        "trained": sorted(tensors),
        "from_base": sorted(_parts(name for name, _ in model.named_parameters() if name not in tensors)),
    }
    (folder / DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
    model.config.save_pretrained(folder)
    if model.generation_config is not None:
        model.generation_config.save_pretrained(folder)


def lay_over(model: VigcForConditionalGeneration, folder: str | Path) -> None:
    """Loads trained weights into a model.

    Args:
        model: The model, changed in place.
        folder: A folder of trained weights.

    Raises:
        ValueError: The file lacks trained weights, or a weight is not in the model or has another shape there.
    """
    path = Path(folder) / WEIGHTS
    expected = set(_description(folder)["trained"])
    weights = dict(model.named_parameters())
    with loading(folder), safe_open(path, "pt") as file, torch.no_grad():
        names = list(file.keys())
        if lost := expected - set(names):
            raise TrainingError(
                f"{path} lacks {len(lost)} of the {len(expected)} trained weights, such as {min(lost)}: it has been "
                "changed. Use another checkpoint."
            )
        unknown = [name for name in names if name not in weights]
        if unknown:
            raise TrainingError(
                f"{path} has {len(unknown)} weights that this model does not have, such as {unknown[0]}: load it on "
                f"top of its base model ({_description(folder)['base']})."
            )
        for name in names:
            tensor = file.get_tensor(name)
            if tensor.shape != weights[name].shape:
                raise TrainingError(
                    f"{name} has shape {tuple(tensor.shape)} in {path} but {tuple(weights[name].shape)} in the model: "
                    f"load it on top of its base model ({_description(folder)['base']})."
                )
            weights[name].copy_(tensor)
    vars(model.config).pop("trained_on", None)  # describes the base model only


def load_trained(
    folder: str | Path, *, base: str | Path | None = None, **kwargs: Any
) -> tuple[VigcForConditionalGeneration, VigcProcessor]:
    """Loads a complete model, with LoRA merged, and its processor from trained weights and their base model.

    Args:
        folder: A checkpoint or final folder of a run that saved only trained weights, or its name on the Hub.
        base: The base model, if it has moved since training.
        kwargs: Arguments for `from_pretrained` of the base model, such as `dtype`.

    Raises:
        ValueError: The folder has no trained weights or lacks some, or the base model is missing or its weights have
            changed; the error names what is expected.
    """
    folder = _folder_of(folder)
    if not is_trained_only(folder):
        raise TrainingError(f"{folder} has no {WEIGHTS}: a whole model is loaded with from_pretrained.")
    description = _description(folder)
    if (folder / STATE).is_file():  # a checkpoint; or a final folder, whose state has no hashes
        check_intact(folder, WEIGHTS)
    where = model_folder(base or description["base"])
    _check_base(folder, where, description, chosen=base is not None)
    if base is None:
        kwargs = {"revision": description.get("base_revision"), **kwargs}
    try:
        model = VigcForConditionalGeneration.from_pretrained(where, **kwargs)
    except OSError as error:
        raise TrainingError(
            f"{folder} has {description['trained_parameters']:,} trained parameters; the rest "
            f"({', '.join(description['from_base'])}) comes from {where!r}, which cannot be loaded: set base= to the "
            "folder of that model."
        ) from error
    if description["lora"]:
        add_lora(model, LoraSettings.from_dict(description["lora"]))
    lay_over(model, folder)
    merge_lora(model)
    return model.eval(), VigcProcessor.from_pretrained(folder)


def merge_trained(folder: str | Path, output: str | Path, *, base: str | Path | None = None, **kwargs: Any) -> None:
    """Saves the complete model for a folder of trained weights; arguments and errors as in [`load_trained`]."""
    model, processor = load_trained(folder, base=base, **kwargs)
    model.save_pretrained(output)
    processor.save_pretrained(output)


def _check_base(folder: Path, where: str, description: JsonObject, *, chosen: bool) -> None:
    then, now = description["base_weights"], weights_fingerprint(where)
    if then is None or now is None or then == now:
        return
    problem = f"{folder} was trained on base weights ({then}) that {where} does not have ({now})"
    if not chosen:
        raise TrainingError(f"{problem}: restore them, or name the base model with base=.")
    logger.warning("%s: the loaded model differs from the one that was trained.", problem)


def _folder_of(name: str | Path) -> Path:
    if Path(name).is_dir():
        return Path(name)
    try:
        return Path(snapshot_download(str(name)))  # nosec B615: weights, no code
    except (OSError, HFValidationError) as error:
        raise TrainingError(
            f"{str(name)!r} is neither a local folder nor a model on the Hub: check the name."
        ) from error


def _description(folder: str | Path) -> JsonObject:
    path = Path(folder) / DESCRIPTION
    try:
        return read_json(path)
    except (OSError, ValueError) as error:
        raise TrainingError(
            f"{path}, the description of {WEIGHTS}, cannot be read: {reason_of(error, path=False)}"
        ) from error


def _parts(names: Any) -> set[str]:
    return {name.split(".", 1)[0] for name in names}
