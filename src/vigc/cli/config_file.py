"""Reads --config files: YAML with option names and values."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from vigc.errors import VigcError, reason_of, short
from vigc.options import Setting, meant

from .command import UNUSABLE
from .terminal import line, say

# Size limit of a YAML file.
_MOST_BYTES = 2**20


def read_into(context: typer.Context, path: Path, settings: Mapping[str, Setting]) -> None:
    """Uses the values of a file as the defaults of a command.

    Raises:
        typer.Exit: The file cannot be read, or has an unknown option; the error is printed.
    """
    try:
        values = read_config(path, settings)
    except VigcError as error:
        say(f"{context.command_path}: {line(str(error))}", err=True)
        raise typer.Exit(UNUSABLE) from None
    context.default_map = {**(context.default_map or {}), **values}


def read_config(path: Path, settings: Mapping[str, Setting]) -> dict[str, Any]:
    """Reads a file; returns the values as the command line would give them.

    Args:
        path: The YAML file. Names may have "_" or "-" between words; null values are ignored.
        settings: The settings of the command, by name.

    Raises:
        VigcError: The file cannot be read, or has an unknown option.
    """
    from vigc.processing.bounded_parsing import parse_yaml, read_text

    try:
        content = parse_yaml(read_text(path, _MOST_BYTES))
    except (OSError, ValueError) as error:
        raise VigcError(f"--config {str(path)!r} cannot be read: {reason_of(error, path=False)}.") from error
    if not isinstance(content, dict):
        raise VigcError(f"--config {str(path)!r} has no options: write one per line, as in 'batch_size: 8'.")
    found = {}
    for key, value in content.items():
        name = str(key).replace("-", "_")
        if name not in settings:
            raise VigcError(
                f"{path}: {short(key)} is not an option; --help-all lists them.{meant(name, list(settings))}"
            )
        if value is not None:
            found[name] = _as_written(path, settings[name], value)
    return found


def _as_written(path: Path, setting: Setting, value: Any) -> Any:
    """A value as the command line gives it: a text, a list of texts, or a bool."""
    if setting.kind is bool:
        if not isinstance(value, bool):
            raise VigcError(f"{path}: {setting.name}: {short(value)} is neither true nor false.")
        return value
    if setting.several:
        values = value if isinstance(value, list) else [value]
        texts = [_text(path, setting, one) for one in values]
        return ",".join(texts) if setting.option.commas else texts
    if setting.option.json and isinstance(value, dict):
        return json.dumps(value)
    return _text(path, setting, value)


def _text(path: Path, setting: Setting, value: Any) -> str:
    if isinstance(value, (dict, list)):
        raise VigcError(f"{path}: {setting.name}: {short(value)} is not a single value.")
    return str(value)
