"""Model folders: a fingerprint of their files, and readable errors when loading one fails."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vigc.errors import VigcError, first_line, is_transient

_SAMPLE_BYTES = 4096


@contextmanager
def loading_model(name: str, kind: type[VigcError], role: str = "") -> Iterator[None]:
    """Turns errors of loading a model into one-line errors of vigc.

    For a damaged folder transformers raises errors of any class, such as `TypeError` or `AttributeError`.

    Args:
        name: The model's name, as the user gave it.
        kind: The exception class to raise.
        role: What the model is loaded as, such as " as a causal language model".

    Raises:
        VigcError: The model cannot be loaded. Transient errors are raised unchanged.
    """
    try:
        yield
    except VigcError:
        raise
    except Exception as error:
        if is_transient(error) or is_transient(error.__cause__):
            raise
        # The messages of other classes make no sense without the class name.
        known = isinstance(error, (OSError, ValueError, ImportError, RuntimeError))
        reason = first_line(error).rstrip(".:") if known else f"{type(error).__name__}: {first_line(error)}"
        raise kind(f"The model {name!r} cannot be loaded{role}: {reason}.") from error


def folder_fingerprint(folder: Path, pattern: str = "**/*") -> str:
    """16 hexadecimal digits that change when files of a model folder change; with `pattern`, files that match it.

    Small files are hashed in full. Weights have tens of gigabytes: their size and 64 samples, header included, are
    hashed. Training changes every weight a little, so the samples differ between models.
    """
    digest = hashlib.sha256()
    names = sorted(path.relative_to(folder).as_posix() for path in folder.glob(pattern) if path.is_file())
    for name in names:
        path = folder / name
        if name.startswith(".") or path.suffix == ".md":
            continue
        size = path.stat().st_size
        digest.update(json.dumps([name, size]).encode())
        with path.open("rb") as file:
            if size <= 64 * _SAMPLE_BYTES:
                digest.update(file.read())
                continue
            for index in range(64):
                file.seek(index * (size - _SAMPLE_BYTES) // 63)
                digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()[:16]


def is_model_type_of_transformers(name: object) -> bool:
    """Whether transformers loads a model of this `model_type` with its own code."""
    from transformers import CONFIG_MAPPING

    if not isinstance(name, str) or name not in CONFIG_MAPPING:
        return False
    return CONFIG_MAPPING[name].__module__.startswith("transformers.")  # others may be registered, VIGC too
