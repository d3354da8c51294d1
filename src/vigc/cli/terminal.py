"""Output of the commands: option help, counted nouns, untrusted text made safe to print, and log levels."""

from __future__ import annotations

import logging
import os
import re
import sys
from typing import Any

import typer

from vigc.errors import VigcError
from vigc.options import unknown

# Length limit of a message; a name in a dataset may be a data URI of megabytes.
_MOST_CHARACTERS = 2_000

# A server that refuses a token may quote it in its reply, which becomes part of the error message.
_TOKEN = re.compile(r"hf_[A-Za-z0-9]{16,}")


def option(text: str, *names: str, **settings: Any) -> Any:
    """`typer.Option` with the help text first."""
    return typer.Option(*names, help=text, **settings)


_LEVELS = ("debug", "info", "warning", "error")
# Libraries that read their level from the environment on import; later it is set by a function.
_LOGGING = {
    "TRANSFORMERS_VERBOSITY": "transformers.utils.logging",
    "DATASETS_VERBOSITY": "datasets.utils.logging",
    "HF_HUB_VERBOSITY": "huggingface_hub.utils.logging",
}


def set_log_level(level: str | None) -> None:
    """Sets the log level of vigc and its libraries; None leaves it unchanged.

    Raises:
        VigcError: The level is unknown.
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


def hide_progress_bars() -> None:
    """Hides the progress bars of transformers when stderr is not a terminal."""
    from transformers.utils import logging as transformers_logging

    if not sys.stderr.isatty():
        transformers_logging.disable_progress_bar()


def say(text: str, *, err: bool = False) -> None:
    """Prints text, with control characters escaped and tokens of the Hub removed."""
    typer.echo("\n".join(map(_inert, text.split("\n"))), err=err)


def count(number: int, what: str) -> str:
    """A number with its noun, in the plural if needed."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def line(text: str) -> str:
    """Untrusted text as one line of bounded length, with control characters escaped."""
    if len(text) > _MOST_CHARACTERS:
        half = _MOST_CHARACTERS // 2 - 30
        text = f"{text[:half]} [... {len(text) - 2 * half:,} characters ...] {text[-half:]}"
    return _inert(" ".join(text.split()))


def _inert(text: str) -> str:
    text = _TOKEN.sub("hf_[token]", text)
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
