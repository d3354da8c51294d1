"""Adds commands whose errors are printed as one line, with an exit code by kind of error."""

from __future__ import annotations

import inspect
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from types import FrameType
from typing import Annotated, Any

import typer
from typer.main import get_command

from vigc.errors import TransientError, VigcError, first_line, is_transient, machine_errors, reason_of

from .help import GroupedCommand, deferred
from .terminal import line, option, say, set_log_level

COMPLETE, DEFECT, UNUSABLE, REJECTED = 0, 1, 2, 3
INTERRUPTED = 130

Debug = Annotated[bool, option("Show the traceback of an error.", "--debug")]
Level = Annotated[
    str | None,
    option(
        "Log level of vigc and its libraries: debug, info, warning or error.", "--log-level", show_default="warning"
    ),
]
_ADDED: dict[str, tuple[Any, Any]] = {"log_level": (Level, None), "debug": (Debug, False)}


@dataclass(frozen=True)
class DeferredCommand:
    """A command whose options are built when it is called, because that needs slow imports.

    Args:
        name: Name of the command.
        help: Help text.
        load: Returns the function, whose signature declares its arguments and options.
    """

    name: str
    help: str
    load: Callable[[], Callable[..., None]]


def add_command(
    app: typer.Typer, command: Callable[..., None] | DeferredCommand, name: str | None = None, **settings: Any
) -> None:
    """Adds a command that prints errors as one line; with its option `--debug`, also the traceback.

    Args:
        app: The parent of the command; it has a name, such as "vigc evaluate".
        command: A function, whose signature declares its arguments and options, or a deferred one.
        name: Name of the command; by default the function's.
        settings: Further arguments of `typer.Typer.command`.
    """
    if not isinstance(command, DeferredCommand):
        name = name or command.__name__.replace("_", "-")
        app.command(name, cls=GroupedCommand, **settings)(_reporting(command, f"{app.info.name} {name}"))
        return
    name, load = name or command.name, command.load
    title = f"{app.info.name} {name}"
    shown = deferred(lambda: _built(_reporting(load(), title)))
    app.command(name, cls=shown, help=command.help, **settings)(lambda: None)


def _built(function: Callable[..., None]) -> Any:
    """Builds a typer command from a function."""
    alone = typer.Typer(rich_markup_mode=None, add_completion=False)
    alone.command(cls=GroupedCommand)(function)
    return get_command(alone)


def _reporting(function: Callable[..., None], title: str) -> Callable[..., None]:
    @wraps(function)
    def called(*arguments: Any, debug: bool = False, log_level: str | None = None, **options: Any) -> None:
        with reporting_errors(title, debug):
            set_log_level(log_level)
            function(*arguments, **options)

    declared = inspect.signature(function, eval_str=True)
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, (annotation, default) in _ADDED.items()
    ]
    called.__signature__ = declared.replace(  # type: ignore[attr-defined]
        parameters=[*declared.parameters.values(), *added]
    )
    return called


@contextmanager
def reporting_errors(title: str, debug: bool) -> Iterator[None]:
    """Prints an error as one line on stderr and raises `typer.Exit` with its exit code."""
    try:
        with _sigterm_interrupts(), machine_errors():
            yield
    except (typer.Exit, typer.Abort, typer.BadParameter, BrokenPipeError):
        raise  # handled by typer
    except KeyboardInterrupt:
        say(f"{title}: interrupted. Run the same command again to resume.", err=True)
        raise typer.Exit(INTERRUPTED) from None
    except Exception as error:
        if debug:
            traceback.print_exc()
        code, text = ending(error)
        say(f"{title}: {line(text)}", err=True)
        raise typer.Exit(code) from None


def ending(error: Exception) -> tuple[int, str]:
    """The exit code and the message for an error that ends a command.

    A `VigcError` has its own exit code. Other exceptions: a transient error is 75, other errors of the system or a
    library are 2, and anything else is a bug in vigc (1).
    """
    if isinstance(error, VigcError):
        return error.exit_code, str(error)
    if is_transient(error):
        return TransientError.exit_code, f"{reason_of(error)}. Run the same command later to resume."
    if isinstance(error, (OSError, ValueError, ImportError)) and str(error).strip():
        return UNUSABLE, reason_of(error)
    text = f"{type(error).__name__}: {first_line(error)}" if str(error).strip() else type(error).__name__
    return DEFECT, f"this is a bug in vigc ({text}). Run the command again with --debug and report the output."


@contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """Makes SIGTERM, which a preempted machine sends, end the command like Ctrl-C."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
