"""Describes how the job in a folder differs from the requested one."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from vigc.processing.bounded_parsing import parse_json

from . import ledger
from .protocols import Input, Record


def plan_differences(old: Record, new: Record) -> list[str]:
    """Describes the differences between the JSON of two plans."""
    before, after = _flat(old), _flat(new)
    hashes = ("fingerprint", "config_hash", "inputs.sha256")
    found = []
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) != after.get(name) and name not in hashes:
            shown = name.split(".", 1)[1] if name.startswith(("configuration.", "job.")) else name
            found.append(f"{shown} was {_short(before.get(name))}, now {_short(after.get(name))}")
    return found


def changed_input(folder: Path, sources: Iterable[Input]) -> str:
    """Describes the first input that differs from the folder's list of inputs."""
    with suppress(OSError, ValueError):  # the list is missing or damaged
        inputs = ledger.Inputs(folder / ledger.INPUTS)
        listed = (record for shard in range(len(inputs)) for record in inputs[shard])
        for before, source in zip(listed, sources, strict=False):
            now = parse_json(json.dumps(source.to_record()))
            if before != now and before["name"] != now["name"]:
                return f"where {_short(before['name'])} was among the inputs is now {_short(now['name'])}"
            for name in sorted(before.keys() | now.keys()):
                if before.get(name) != now.get(name):
                    what = f"the {name} of {_short(now['name'])}"
                    return f"{what} was {_short(before.get(name))}, now {_short(now.get(name))}"
    return "the list of inputs changed (other names, order or annotations)"


def _flat(value: Any, name: str = "") -> Record:
    if not isinstance(value, dict):
        return {name: value}
    flat: Record = {}
    for key, item in value.items():
        flat |= _flat(item, f"{name}.{key}" if name else str(key))
    return flat


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=True)
    return text if len(text) <= 60 else f"{text[:57]}..."
