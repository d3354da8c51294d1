"""Model folders: what tells one from another, as a commit does on the Hub, and what comes of loading a damaged one."""

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
    """What goes wrong while a model is loaded as an error of vigc.

    A damaged folder makes transformers raise whatever its code meets: a `TypeError`, an `AttributeError`.

    Args:
        name: The model, as the user knows it.
        kind: Which error it becomes.
        role: What it is loaded as, such as " as a causal language model".

    Raises:
        VigcError: It cannot be loaded. Transient errors are raised as they are.
    """
    try:
        yield
    except VigcError:
        raise
    except Exception as error:
        if is_transient(error) or is_transient(error.__cause__):
            raise
        # Of errors that are no sentence, the type says more.
        known = isinstance(error, (OSError, ValueError, ImportError, RuntimeError))
        reason = first_line(error).rstrip(".:") if known else f"{type(error).__name__}: {first_line(error)}"
        raise kind(f"The model {name!r} cannot be loaded{role}: {reason}.") from error


def folder_fingerprint(folder: Path, pattern: str = "**/*") -> str:
    """16 hexadecimal digits that change with the files of a model folder, or with those that match `pattern`.

    Small files count in full. Of weights, tens of gigabytes, the size and 64 samples count, header included: training
    moves every weight a little, so that no other model has the same ones.
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
    return CONFIG_MAPPING[name].__module__.startswith("transformers.")  # others can be registered, VIGC's own too
