"""What tells one model folder from another, as a commit does on the Hub."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

_SAMPLE_BYTES = 4096


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
