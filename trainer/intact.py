"""Whether a checkpoint is still what was written: hashes of its files, kept in its own `trainer_state.json`."""

from __future__ import annotations

import hashlib
import json
import pickle  # nosec B403: an error of it is named, nothing is read by it
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypedDict

import torch
from safetensors import SafetensorError

from vigc.errors import CheckpointError, first_line
from vigc.processing.bounded_parsing import parse_json, read_json

STATE = "trainer_state.json"
# What a record says of its own checkpoint, beside what the run is.
FILES, STATE_HASH = "files", "state_sha256"
_BLOCK = 1 << 22
# What torch, pickle and safetensors raise about a file that is not whole.
_UNREADABLE = (SafetensorError, RuntimeError, EOFError, pickle.UnpicklingError, KeyError)


class FileHash(TypedDict):
    """The size of a file, and its SHA-256 in hexadecimal digits."""

    bytes: int
    sha256: str


def file_hashes(folder: Path) -> dict[str, FileHash]:
    """Size and SHA-256 of every file of a checkpoint but its state, by relative name."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != STATE)
    return {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": _sha256(path)} for path in paths
    }


def state_hash(state: Mapping[str, Any], record: Mapping[str, Any]) -> str:
    """SHA-256 of a trainer's state and of the run's record in it, less what other callbacks wrote and this hash."""
    said = {name: value for name, value in state.items() if name != "stateful_callbacks"}
    kept = {name: value for name, value in record.items() if name != STATE_HASH}
    # Through JSON and back: tuples become lists, as in the file.
    plain = parse_json(json.dumps([said, kept]))
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def damage(folder: Path, record_of: Callable[[Mapping[str, Any]], Any], names: str = "*") -> str | None:
    """What of a checkpoint is not as it was written; None if all is, or if it was written without hashes.

    Args:
        folder: The checkpoint.
        record_of: Finds the run's record among a checkpoint's callback states.
        names: Which files to look at, as a pattern.
    """
    try:
        state = read_json(folder / STATE)
        record = record_of(state.get("stateful_callbacks") or {}) or {}
        files = {name: (said["bytes"], said["sha256"]) for name, said in (record.get(FILES) or {}).items()}
    except FileNotFoundError:
        return f"{STATE} is missing: it was not written to its end"
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{STATE} cannot be read ({type(error).__name__})"
    if record.get(STATE_HASH) not in (None, state_hash(state, record)):
        return f"{STATE} is not what was written: its hash differs"
    chosen = {name: said for name, said in files.items() if Path(name).match(names)}
    for name, (size, _) in chosen.items():
        if not (folder / name).is_file():
            return f"{name} is missing"
        if (folder / name).stat().st_size != size:
            return f"{name} has {(folder / name).stat().st_size:,} bytes, but {size:,} were written"
    for name, (_, expected) in chosen.items():
        if (found := _sha256(folder / name)) != expected:
            return f"{name} is not what was written: its SHA-256 is {found[:12]}..., recorded is {expected[:12]}..."
    return None


def earlier_than(folder: Path) -> list[Path]:
    """The checkpoints beside this one that were written before it, the latest first."""
    steps = {path: step_of(path) for path in folder.resolve().parent.glob("checkpoint-*")}
    here = step_of(folder.resolve())
    earlier = [path for path, step in steps.items() if step is not None and here is not None and step < here]
    return sorted(earlier, key=lambda path: steps[path] or 0, reverse=True)


def step_of(folder: Path) -> int | None:
    """The step that a checkpoint's name says."""
    number = folder.name.rpartition("-")[2]
    return int(number) if folder.name.startswith("checkpoint-") and number.isdecimal() else None


@contextmanager
def loading(folder: str | Path | None) -> Iterator[None]:
    """What the libraries say of a file that they cannot read, as a `CheckpointError` that names the checkpoint."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except _UNREADABLE as error:
        said = first_line(error)
        raise CheckpointError(
            f"{folder} cannot be loaded ({said}): it is damaged, or of another model. Resume from an earlier "
            "checkpoint, or start again in another output_dir."
        ) from error


def _sha256(path: Path) -> str:
    total = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            total.update(block)
    return total.hexdigest()
