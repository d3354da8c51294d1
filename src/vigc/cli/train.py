"""`vigc train`: trains a model from a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .command import UNUSABLE
from .terminal import option, say

Recipe = Annotated[Path, typer.Argument(help="A YAML file such as those under recipes/.", show_default=False)]
DryRun = Annotated[
    bool, option("Check arguments, files, entries and images, and print a summary; do not train.", "--dry-run")
]


def train(context: typer.Context, recipe: Recipe, dry_run: DryRun = False) -> None:
    """Train a model from a recipe; any training argument can follow, such as --learning_rate 1e-4."""
    from vigc.evaluation import written_figures
    from vigc.trainer import dry_run as check
    from vigc.trainer import train as run

    if not dry_run:
        trainer = run(recipe, context.args, compute_metrics=written_figures)
        if trainer.is_world_process_zero():
            say(f"Model: {trainer.args.output_dir}")
        return
    result = check(recipe, context.args, compute_metrics=written_figures)
    say(str(result))
    if result.problems:
        raise typer.Exit(UNUSABLE)
