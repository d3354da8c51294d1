"""Help in plain text: options under the headings of their groups, the usual ones with --help, all with --help-all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import typer
from typer.core import TyperCommand

OPTIONS, ARGUMENTS = "Options", "Arguments"


class GroupedCommand(TyperCommand):
    """A command whose help has a section for each group of options. It needs neither rich nor the time to import it."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Writes the sections, in the order of their first options."""
        sections: dict[str, list[Any]] = {}
        for heading, record in self._records(ctx):
            sections.setdefault(heading, []).append(record)
        general = sections.pop(OPTIONS, [])  # last: --config, --debug, --help
        for heading, records in [*sections.items(), (OPTIONS, general)]:
            if records:
                with formatter.section(heading):
                    formatter.write_dl(records)

    def _records(self, ctx: Any) -> Iterator[tuple[str, Any]]:
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                general = ARGUMENTS if parameter.param_type_name == "argument" else OPTIONS
                yield getattr(parameter, "rich_help_panel", None) or general, record


def deferred(load: Callable[[], Any]) -> type[GroupedCommand]:
    """The class of a command with a name and a help, whose options and function are loaded when they are needed."""

    class Deferred(GroupedCommand):
        _whole = cached_property(lambda self: load())

        # What typer makes of the stub is not kept.
        params: Any = property(lambda self: self._whole.params, lambda self, stub: None)
        callback: Any = property(lambda self: self._whole.callback, lambda self, stub: None)

    return Deferred


def show_all(context: typer.Context, wanted: bool) -> None:
    """The callback of --help-all: prints the help with the options that --help leaves out."""
    if not wanted or context.resilient_parsing:
        return
    for parameter in context.command.params:
        vars(parameter)["hidden"] = False
    typer.echo(context.get_help())
    raise typer.Exit
