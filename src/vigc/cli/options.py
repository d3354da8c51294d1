"""Builds the options of a command from the dataclasses that declare its settings (`vigc.options`)."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from vigc.errors import VigcError
from vigc.options import Option, Setting, settings_of

from .command import DeferredCommand
from .config_file import read_into
from .help import show_all
from .terminal import option

_JOB = "The job"

# The values of a command's options, by the name of the setting.
Given = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class JobRun:
    """The options of a job's command that are not fields of its settings."""

    output: Annotated[
        Path, Option("The dataset folder to write.", _JOB, common=True, flags=("--output", "-o"), once=True)
    ]
    dry_run: Annotated[
        bool,
        Option("Print a preview with three rows and an estimate; write nothing.", _JOB, common=True, once=True),
    ] = False
    settings: Annotated[
        str | None,
        Option(
            "Further settings of transformers' GenerationConfig, such as '{\"length_penalty\": 2.0}'.",
            _JOB,
            metavar="JSON",
            json=True,
        ),
    ] = None


def with_options(declared: Callable[[], Sequence[type]]) -> Callable[[Callable[[Given], None]], DeferredCommand]:
    """Adds the options that dataclasses declare to a command, and --config and --help-all.

    Args:
        declared: Imports the dataclasses; called when the command is used. The command is called with all values by
            name.
    """

    def decorate(command: Callable[[Given], None]) -> DeferredCommand:
        def load() -> Callable[..., None]:
            return taking(settings_of_all(declared()), command)

        return DeferredCommand(command.__name__, command.__doc__ or "", load)

    return decorate


def taking(settings: Mapping[str, Setting], command: Callable[[Given], None]) -> Callable[..., None]:
    """Wraps a command in a function with the signature that typer reads: a parameter for each setting, and --config."""

    @wraps(command)
    def called(**given: Any) -> None:
        command({name: _value(setting, given[name]) for name, setting in settings.items()})

    parameters = [*map(_parameter, settings.values()), _config(settings), _help_all()]
    called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return called


def settings_of_all(declared: Sequence[type]) -> dict[str, Setting]:
    """The settings of several dataclasses by name: positional arguments first, then options in declared order."""
    found = {name: setting for each in declared for name, setting in settings_of(each).items()}
    return dict(sorted(found.items(), key=lambda item: not item[1].option.argument))


def given_of(declared: type, given: Given) -> Given:
    """The values of a dataclass's settings, except for those that are None."""
    return {name: given[name] for name in settings_of(declared) if given[name] is not None}


def _value(setting: Setting, value: Any) -> Any:
    if setting.option.commas and value is not None:
        return [part.strip() for part in value.split(",")]
    if setting.option.json and value is not None:
        return _parsed(setting, value)
    return value


def _parsed(setting: Setting, text: str) -> Any:
    from vigc.processing.bounded_parsing import parse_json

    try:
        value = parse_json(text)
    except ValueError as error:
        raise VigcError(f"{setting.flag} {text!r} is not valid JSON: {error}.") from error
    if not isinstance(value, dict):
        raise VigcError(f"{setting.flag} {text!r} is not a JSON object.")
    return value


def _parameter(setting: Setting) -> inspect.Parameter:
    """The function parameter that typer turns into an option. Values are checked by the dataclass, not by typer."""
    declared, several = setting.option, setting.several and not setting.option.commas
    kind: Any = str if setting.choices else setting.kind
    required = setting.default is MISSING and declared.default is None
    default = None if several or setting.default is MISSING else setting.default
    if declared.commas and default is not None:
        default = ",".join(default)
    if several:
        kind = list[kind]
    settings: dict[str, Any] = {
        "help": declared.help,
        "rich_help_panel": declared.group,
        "show_default": declared.default or (default is not None and not required),
        "metavar": _metavar(setting),
        "hidden": not declared.common,
    }
    if setting.choices:
        settings["autocompletion"] = lambda incomplete: [one for one in setting.choices if one.startswith(incomplete)]
    if declared.argument:
        info: Any = typer.Argument(**{**settings, "rich_help_panel": None})
    else:
        info = typer.Option(*_flags(setting), **settings)
    return inspect.Parameter(
        setting.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=inspect.Parameter.empty if required else default,
        annotation=Annotated[kind if required or default is not None else kind | None, info],
    )


def _metavar(setting: Setting) -> str | None:
    if setting.choices:
        return f"[{'|'.join(setting.choices)}]"
    several = setting.several and not setting.option.commas
    return setting.option.metavar or ("PATH" if several and setting.kind is Path else None)


def _flags(setting: Setting) -> tuple[str, ...]:
    if setting.option.flags or setting.kind is not bool or setting.optional:
        return setting.option.flags
    return (setting.flag,)  # not typer's pair of --x and --no-x


def _config(settings: Mapping[str, Setting]) -> inspect.Parameter:
    def read(context: typer.Context, path: Path | None) -> None:
        if path is not None and not context.resilient_parsing:
            read_into(context, path, settings)

    text = "YAML file of option values; the command line overrides them. Every run writes one, job.yaml."
    info = option(text, "--config", metavar="FILE", callback=read, is_eager=True, expose_value=False)
    return inspect.Parameter(
        "config", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[Path | None, info]
    )


def _help_all() -> inspect.Parameter:
    info = option("Show all options.", "--help-all", callback=show_all, is_eager=True, expose_value=False)
    return inspect.Parameter(
        "help_all", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Annotated[bool, info]
    )
