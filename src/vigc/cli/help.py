"""Help in plain text, grouped by topic: common options with --help, all options with --help-all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import typer
from typer.core import TyperCommand

OPTIONS, ARGUMENTS = "Options", "Arguments"


class GroupedCommand(TyperCommand):
    """A command whose help has a section per group of options. It does not need rich, which is slow to import."""

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
    """A command class that loads its options and function on first use; the name and the help text are known."""

    class Deferred(GroupedCommand):
        _whole = cached_property(lambda self: load())

        # The setters ignore the parameters and callback that typer derives from the stub.
        params: Any = property(lambda self: self._whole.params, lambda self, stub: None)
        callback: Any = property(lambda self: self._whole.callback, lambda self, stub: None)

    return Deferred


def show_all(context: typer.Context, wanted: bool) -> None:
    """The callback of --help-all: prints the help with the options that --help hides."""
    if not wanted or context.resilient_parsing:
        return
    for parameter in context.command.params:
        vars(parameter)["hidden"] = False
    typer.echo(context.get_help())
    raise typer.Exit
