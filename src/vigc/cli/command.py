"""How every command of vigc ends: one line for what went wrong, and the exit code that says what to do about it."""

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
    option("What libraries log: debug, info, warning or error.", "--log-level", show_default="warning"),
]
_ADDED: dict[str, tuple[Any, Any]] = {"log_level": (Level, None), "debug": (Debug, False)}


@dataclass(frozen=True)
class DeferredCommand:
    """A command whose options are put together when it is asked for, since that needs imports of its own.

    Args:
        name: What it is called.
        help: What it does.
        load: Returns the function, whose signature declares its arguments and options.
    """

    name: str
    help: str
    load: Callable[[], Callable[..., None]]


def add_command(
    app: typer.Typer, command: Callable[..., None] | DeferredCommand, name: str | None = None, **settings: Any
) -> None:
    """Adds a command that ends with one line instead of a traceback, unless its option `--debug` asks for one.

    Args:
        app: What the command belongs to; it has a name, such as "vigc evaluate".
        command: A function, whose signature declares its arguments and options, or a deferred one.
        name: What it is called; by default as the function.
        settings: Further ones of `typer.Typer.command`.
    """
    if not isinstance(command, DeferredCommand):
        name = name or command.__name__.replace("_", "-")
        app.command(name, cls=GroupedCommand, **settings)(_reporting(command, f"{app.info.name} {name}"))
        return
    title, load = f"{app.info.name} {command.name}", command.load
    shown = deferred(lambda: _built(_reporting(load(), title)))
    app.command(command.name, cls=shown, help=command.help, **settings)(lambda: None)


def _built(function: Callable[..., None]) -> Any:
    """The command that typer makes of a function."""
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
