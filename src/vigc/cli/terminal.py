"""How the commands print: options with help, counted nouns, text of unknown origin on one safe line, and logs."""

from __future__ import annotations

import logging
import os
import re
import sys
from typing import Any

import typer

from vigc.errors import VigcError
from vigc.options import unknown

# Of one message; what data names may be a data URI of megabytes.
_MOST_CHARACTERS = 2_000

# A server that refuses a token may quote it in its answer, which is part of an error's text.
_TOKEN = re.compile(r"hf_[A-Za-z0-9]{16,}")


def option(text: str, *names: str, **settings: Any) -> Any:
    """An option with its help first."""
    return typer.Option(*names, help=text, **settings)


_LEVELS = ("debug", "info", "warning", "error")
# Libraries that read their level from the environment when they are imported, and have it set by a function after that.
_LOGGING = {
    "TRANSFORMERS_VERBOSITY": "transformers.utils.logging",
    "DATASETS_VERBOSITY": "datasets.utils.logging",
    "HF_HUB_VERBOSITY": "huggingface_hub.utils.logging",
}


def set_log_level(level: str | None) -> None:
    """Sets what vigc and the libraries under it log to stderr; None leaves it as it is.

    Raises:
        VigcError: There is no such level.
    """
    if level is None:
        return
    if level not in _LEVELS:
        raise VigcError(unknown("--log-level", level, _LEVELS))
    number = getattr(logging, level.upper())
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("vigc").setLevel(number)
    for variable, module in _LOGGING.items():
        os.environ[variable] = level
        if module in sys.modules:
            sys.modules[module].set_verbosity(number)


def say(text: str, *, err: bool = False) -> None:
    """Prints lines, whatever they hold."""
    typer.echo("\n".join(map(_inert, text.split("\n"))), err=err)


def count(number: int, what: str) -> str:
    """A number with its noun."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def line(text: str) -> str:
    """Text of unknown origin on one line of bounded length, without characters that a terminal would obey."""
    if len(text) > _MOST_CHARACTERS:
        half = _MOST_CHARACTERS // 2 - 30
        text = f"{text[:half]} [... {len(text) - 2 * half:,} characters ...] {text[-half:]}"
    return _inert(" ".join(text.split()))


def _inert(text: str) -> str:
    text = _TOKEN.sub("hf_[token]", text)
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
