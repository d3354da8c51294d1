"""The `vigc` command. Commands import their packages lazily, so that help and wrong options are answered at once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vigc import __version__

from .command import add_command
from .convert import convert
from .custom_generate import custom_generate
from .evaluate import app as evaluate
from .export import export
from .jobs import correct, generate
from .judge import judge
from .mix import mix
from .push import push
from .scenes import demo, scenes
from .terminal import option, say
from .train import train

app = typer.Typer(
    name="vigc",
    help="Generate, correct and score visual-instruction data as a Hugging Face dataset.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain text: importing rich would double the start-up time
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """Runs the command; the entry point of the package."""
    app(prog_name="vigc")


def _print_version(wanted: bool) -> None:
    if wanted:
        say(f"vigc {__version__}")
        raise typer.Exit


@app.callback()
def _vigc(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options of `vigc` without a command."""


DatasetFolder = Annotated[Path, typer.Argument(help="A folder that `vigc generate` wrote.", show_default=False)]
ReportRows = Annotated[
    int | None,
    option("Approximate number of rows to show; charts and statistics use all.", min=1, show_default="1,500"),
]

ReportImages = Annotated[
    Path | None, option("The folder of the images, if the rows only have their paths.", "--image-root")
]


def report(dataset: DatasetFolder, rows: ReportRows = None, image_root: ReportImages = None) -> None:
    """Write the report page of a dataset folder again: images, drafts and answers, charts, rejected samples."""
    from vigc.generation import write_report

    limit = {} if rows is None else {"max_rows": rows}
    path = write_report(dataset, image_root=image_root, **limit)
    say(f"Report: {path}")


for _command in (generate, correct, report, convert, export, push, custom_generate, mix, judge, scenes, demo):
    add_command(app, _command)
add_command(app, train, context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
app.add_typer(evaluate, name="evaluate")
