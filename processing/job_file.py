"""The file of what a command was given, written beside what it made: `--config` reads it to make the same again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml


def job_text(command: str, values: Mapping[str, Any]) -> bytes:
    """The content of a job file.

    Args:
        command: Such as "vigc generate".
        values: What it was given, by the name of the option: plain values and lists of them.
    """
    head = f"# To make this again: {command} --config FILE --output OTHER, with this file as FILE.\n"
    body = yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True) if values else ""
    return f"{head}{body}".encode()
