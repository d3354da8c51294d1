"""How every command of vigc ends: one line for what went wrong, and the exit code that says what to do about it."""

from __future__ import annotations

import inspect
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from types import FrameType
from typing import Annotated, Any

import typer

from vigc.errors import TransientError, VigcError, first_line, is_transient, machine_errors, reason_of

from .terminal import line, option, say

COMPLETE, DEFECT, UNUSABLE, REJECTED = 0, 1, 2, 3
INTERRUPTED = 130

Debug = Annotated[bool, option("Show the traceback of an error.", "--debug")]


def add_command(app: typer.Typer, function: Callable[..., None], name: str | None = None, **settings: Any) -> None:
    """Adds a command that ends with one line instead of a traceback, unless its option `--debug` asks for one.

    Args:
        app: What the command belongs to; it has a name, such as "vigc evaluate".
        function: The command; its signature declares its arguments and options.
        name: What it is called; by default as the function.
        settings: Further ones of `typer.Typer.command`.
    """
    name = name or function.__name__.replace("_", "-")
    title = f"{app.info.name} {name}"

    @wraps(function)
    def called(*arguments: Any, debug: bool = False, **options: Any) -> None:
        with reporting_errors(title, debug):
            function(*arguments, **options)

    declared = inspect.signature(function, eval_str=True)
    added = inspect.Parameter("debug", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Debug)
    called.__signature__ = declared.replace(  # type: ignore[attr-defined]
        parameters=[*declared.parameters.values(), added]
    )
    app.command(name, **settings)(called)


@contextmanager
def reporting_errors(title: str, debug: bool) -> Iterator[None]:
    """Prints an error as one line on stderr and raises `typer.Exit` with its exit code."""
    try:
        with _sigterm_interrupts(), machine_errors():
            yield
    except (typer.Exit, typer.Abort, typer.BadParameter, BrokenPipeError):
        raise  # typer's own ways to end
    except KeyboardInterrupt:
        say(f"{title}: interrupted. Run the same command again to finish the work.", err=True)
        raise typer.Exit(INTERRUPTED) from None
    except Exception as error:
        if debug:
            traceback.print_exc()
        code, text = ending(error)
        say(f"{title}: {line(text)}", err=True)
        raise typer.Exit(code) from None


def ending(error: Exception) -> tuple[int, str]:
    """The exit code of an error that ends a command, and what is printed of it.

    A `VigcError` has its own. Of other exceptions, a full disk is transient (75), what the system or a library refuses
    has to be changed (2), and anything else is a defect of vigc (1).
    """
    if isinstance(error, VigcError):
        return error.exit_code, str(error)
    if is_transient(error):
        return TransientError.exit_code, f"{reason_of(error)}. The same command finishes the work later."
    if isinstance(error, (OSError, ValueError, ImportError)) and str(error).strip():
        return UNUSABLE, reason_of(error)
    said = f"{type(error).__name__}: {first_line(error)}" if str(error).strip() else type(error).__name__
    return DEFECT, f"this is a defect of vigc ({said}). Run the command again with --debug and report what it prints."


@contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """A preempted machine sends SIGTERM; it ends the command as Ctrl-C does."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # which alone may set handlers
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
