"""Checks that plain transformers can load a model folder from the Hub, and adds what a VIGC model needs for that."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from vigc.errors import PushError
from vigc.processing.bounded_parsing import JsonObject, parse_json, read_json
from vigc.processing.model_folder import is_model_type_of_transformers

CONFIG = "config.json"
_PROCESSOR = "processor_config.json"
_WITH_CODE = (CONFIG, _PROCESSOR, "preprocessor_config.json", "tokenizer_config.json")
_INDEX = "model.safetensors.index.json"
# The values that `save_pretrained` of the classes writes.
_MODEL_MAP = {
    "AutoConfig": "configuration_vigc.VigcConfig",
    "AutoModel": "modeling_vigc.VigcForConditionalGeneration",
    "AutoModelForImageTextToText": "modeling_vigc.VigcForConditionalGeneration",
}
_PROCESSOR_MAP = {"AutoProcessor": "processing_vigc.VigcProcessor"}
_SAVE_AGAIN = (
    "save the model and its processor again with `save_pretrained`, which writes the code too, or push it with `vigc "
    "push`, which adds it"
)
# The imports that transformers follows.
_SIBLING = re.compile(r"^\s*(?:from\s+\.(\w+)\s+import\b|import\s+\.(\w+)\s*$)", re.MULTILINE)


def code_names(files: Mapping[str, Path]) -> set[str]:
    """Names of the code files that a model's configuration loads, and of the files that these import.

    Raises:
        PushError: A code file is missing, or a configuration is not valid JSON.
    """
    found: set[str] = set()
    if _holds_trained_weights(files):
        return found
    waiting = [
        (name, CONFIG) for name in sorted({module for config in _WITH_CODE for module in _modules(files, config)})
    ]
    while waiting:
        name, by = waiting.pop()
        if name in found:
            continue
        if name not in files:
            raise PushError(
                f"{name}, which {by} names, is not in the folder, so the model could not be loaded: {_SAVE_AGAIN}."
            )
        found.add(name)
        waiting += [(module, name) for module in _imported(files[name].read_text(encoding="utf-8", errors="replace"))]
    return found


def completed(files: Mapping[str, Path], code: Callable[[], Mapping[str, str]] | None) -> dict[str, bytes]:
    """The files that a model folder lacks for plain transformers to load it: code, and configurations that name it.

    Args:
        files: The files of the folder to be published.
        code: Returns the code of a VIGC model by file name; None to add no code.

    Returns:
        Contents of added or replaced files by name; empty if the folder is complete.

    Raises:
        PushError: The model could not be loaded, even with added files.
    """
    _check_weights(files)
    if _holds_trained_weights(files):
        return {}
    config = _read(files, CONFIG)
    kind = config.get("model_type")
    if kind != "vigc":
        if "AutoConfig" not in _map(config) and not is_model_type_of_transformers(kind):
            raise PushError(
                f"{CONFIG} has the model_type {kind!r}, which transformers does not know, and names no code "
                "(auto_map), so the model could not be loaded: add its code."
            )
        return {}
    processor = _read(files, _PROCESSOR)
    if not processor:
        raise PushError(f"The folder has no {_PROCESSOR}, so the model could not be used: save its processor there.")
    there = {name for name in files if name.endswith("_vigc.py") and "/" not in name}
    needed = {f"{value.split('.')[0]}.py" for value in (*_MODEL_MAP.values(), *_PROCESSOR_MAP.values())}
    if not needed <= there if there else code is None:
        raise PushError(
            f"The code of the model is missing or incomplete in the folder, so it could not be loaded: {_SAVE_AGAIN}."
        )
    added = {} if there or code is None else {name: text.encode() for name, text in code().items()}
    for name, found, wanted in ((CONFIG, config, _MODEL_MAP), (_PROCESSOR, processor, _PROCESSOR_MAP)):
        if wanted.keys() - _map(found):
            value = {**found, "auto_map": {**wanted, **_map(found)}}
            added[name] = (json.dumps(value, indent=2, sort_keys=True) + "\n").encode()
    return added


def _holds_trained_weights(files: Mapping[str, Path]) -> bool:
    """Whether the folder has only the trained weights, which `vigc.trainer.load_trained` adds to the base model."""
    return "trained_weights.json" in files and not any(name.startswith("model") for name in files)


def _modules(files: Mapping[str, Path], name: str) -> Iterator[str]:
    """Files that a configuration's auto_map names, except files of other repositories."""
    for value in _map(_read(files, name)).values():
        for reference in value if isinstance(value, list) else [value]:
            if isinstance(reference, str) and "--" not in reference:
                yield f"{reference.split('.')[0]}.py"


def _imported(source: str) -> Iterator[str]:
    for match in _SIBLING.finditer(source):
        yield f"{match[1] or match[2]}.py"


def _read(files: Mapping[str, Path], name: str) -> JsonObject:
    if name not in files:
        return {}
    try:
        found = read_json(files[name])
    except ValueError as error:
        raise PushError(f"{name} is not valid JSON ({type(error).__name__}): save the model again.") from error
    if not isinstance(found, dict):
        raise PushError(f"{name} is not a JSON object: save the model again.")
    return found


def _map(config: Mapping[str, Any]) -> JsonObject:
    found = config.get("auto_map")
    return found if isinstance(found, dict) else {}


def _check_weights(files: Mapping[str, Path]) -> None:
    index = _read(files, _INDEX).get("weight_map")
    missing = sorted(set(index.values()) - files.keys()) if isinstance(index, dict) else []
    if missing:
        raise PushError(f"{missing[0]}, which {_INDEX} names, is not in the folder: copy the whole model there.")
    for name, path in files.items():
        if name.endswith(".safetensors") and not _is_whole(path):
            raise PushError(f"{name} is truncated or not a safetensors file: save the model again.")


def _is_whole(path: Path) -> bool:
    """Whether a safetensors file has the length that its header specifies."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(size - 8, 100_000_000):  # the format's limit for the header
            return False
        try:
            header = parse_json(file.read(length))
            ends = [value["data_offsets"][1] for name, value in header.items() if name != "__metadata__"]
        except (ValueError, TypeError, KeyError, IndexError, AttributeError):
            return False
    return size == 8 + length + max(ends, default=0)
