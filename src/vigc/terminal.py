"""How the commands speak: options with help, counted nouns, and mistakes in one sentence."""

from __future__ import annotations

from typing import Any, NoReturn

import typer

COMPLETE, FAILED, UNUSABLE, SET_ASIDE = 0, 1, 2, 3


def option(text: str, *names: str, **settings: Any) -> Any:
    """An option with its help first."""
    return typer.Option(*names, help=text, **settings)


def fail(command: str, error: Exception, code: int = UNUSABLE) -> NoReturn:
    """Says on one line what is wrong, and ends."""
    typer.echo(f"vigc {command}: {line(str(error))}", err=True)
    raise typer.Exit(code)


def count(number: int, what: str) -> str:
    """A number with its noun."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def line(text: str) -> str:
    """Text of unknown origin on one line, without characters that a terminal would obey."""
    joined = " ".join(text.split())
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in joined)
