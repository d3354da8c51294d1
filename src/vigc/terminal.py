"""How the commands speak: options with help, counted nouns, and mistakes in one sentence."""

from __future__ import annotations

import re
from typing import Any, NoReturn

import typer

COMPLETE, FAILED, UNUSABLE, SET_ASIDE = 0, 1, 2, 3

# Characters of a line; a name in data may have millions.
_LONGEST = 2_000
# A server that refuses a token may quote it in its answer, which is part of an error's text.
_TOKEN = re.compile(r"hf_[A-Za-z0-9]{16,}")


def option(text: str, *names: str, **settings: Any) -> Any:
    """An option with its help first."""
    return typer.Option(*names, help=text, **settings)


def fail(command: str, error: Exception, code: int = UNUSABLE) -> NoReturn:
    """Says on one line what is wrong, and ends."""
    say(f"vigc {command}: {line(str(error))}", err=True)
    raise typer.Exit(code)


def say(text: str, *, err: bool = False) -> None:
    """Prints lines, whatever they hold."""
    typer.echo("\n".join(map(_inert, text.split("\n"))), err=err)


def count(number: int, what: str) -> str:
    """A number with its noun."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def line(text: str) -> str:
    """Text of unknown origin on one line, without characters that a terminal would obey, and shortened."""
    kept = " ".join(text[: 2 * _LONGEST].split())
    return _inert(kept if len(kept) <= _LONGEST and len(text) <= 2 * _LONGEST else f"{kept[:_LONGEST]}...")


def _inert(text: str) -> str:
    text = _TOKEN.sub("hf_[token]", text)
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
