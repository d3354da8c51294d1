"""Checks the integrity of a checkpoint by hashes of its files, which its `trainer_state.json` has."""

from __future__ import annotations

import hashlib
import json
import pickle  # nosec B403: only for its exception class
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypedDict

import torch
from safetensors import SafetensorError

from vigc.errors import CheckpointError, first_line
from vigc.processing.bounded_parsing import parse_json, read_json

STATE = "trainer_state.json"
# Keys of a run's record for the hashes of its checkpoint.
FILES, STATE_HASH = "files", "state_sha256"
_BLOCK = 1 << 22
# Errors that torch, pickle and safetensors raise for a damaged file.
_UNREADABLE = (SafetensorError, RuntimeError, EOFError, pickle.UnpicklingError, KeyError)


class FileHash(TypedDict):
    """The size of a file, and its SHA-256 in hexadecimal digits."""

    bytes: int
    sha256: str


def file_hashes(folder: Path) -> dict[str, FileHash]:
    """Size and SHA-256 of every file of a checkpoint except its state, by relative name."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != STATE)
    return {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": _sha256(path)} for path in paths
    }


def state_hash(state: Mapping[str, Any], record: Mapping[str, Any]) -> str:
    """SHA-256 of a trainer's state and of the run's record in it, without this hash and other callbacks' states."""
    own = {name: value for name, value in state.items() if name != "stateful_callbacks"}
    kept = {name: value for name, value in record.items() if name != STATE_HASH}
    # A round trip through JSON turns tuples into lists, as in the file.
    plain = parse_json(json.dumps([own, kept]))
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def damage(folder: Path, record_of: Callable[[Mapping[str, Any]], Any], names: str = "*") -> str | None:
    """The first damage found in a checkpoint; None if it is intact, or was saved without hashes.

    Args:
        folder: The checkpoint.
        record_of: Finds the run's record among a checkpoint's callback states.
        names: Pattern of the files to check.
    """
    try:
        state = read_json(folder / STATE)
        record = record_of(state.get("stateful_callbacks") or {}) or {}
        files = {name: (entry["bytes"], entry["sha256"]) for name, entry in (record.get(FILES) or {}).items()}
    except FileNotFoundError:
        return f"{STATE} is missing: saving was interrupted"
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{STATE} cannot be read ({type(error).__name__})"
    if record.get(STATE_HASH) not in (None, state_hash(state, record)):
        return f"{STATE} has been changed: its hash differs"
    chosen = {name: entry for name, entry in files.items() if Path(name).match(names)}
    for name, (size, _) in chosen.items():
        if not (folder / name).is_file():
            return f"{name} is missing"
        if (folder / name).stat().st_size != size:
            return f"{name} has {(folder / name).stat().st_size:,} bytes, but {size:,} were written"
    for name, (_, expected) in chosen.items():
        if (found := _sha256(folder / name)) != expected:
            return f"{name} has been changed: its SHA-256 is {found[:12]}..., recorded is {expected[:12]}..."
    return None


def earlier_than(folder: Path) -> list[Path]:
    """The earlier checkpoints in the same folder, the latest first."""
    steps = {path: step_of(path) for path in folder.resolve().parent.glob("checkpoint-*")}
    here = step_of(folder.resolve())
    earlier = [path for path, step in steps.items() if step is not None and here is not None and step < here]
    return sorted(earlier, key=lambda path: steps[path] or 0, reverse=True)


def step_of(folder: Path) -> int | None:
    """The step in a checkpoint's name; None for other names."""
    number = folder.name.rpartition("-")[2]
    return int(number) if folder.name.startswith("checkpoint-") and number.isdecimal() else None


@contextmanager
def loading(folder: str | Path | None) -> Iterator[None]:
    """Turns errors of reading a damaged file into a `CheckpointError` that names the checkpoint."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except _UNREADABLE as error:
        reason = first_line(error)
        raise CheckpointError(
            f"{folder} cannot be loaded ({reason}): it is damaged, or of another model. Resume from an earlier "
            "checkpoint, or start again in another output_dir."
        ) from error


def _sha256(path: Path) -> str:
    total = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            total.update(block)
    return total.hexdigest()
