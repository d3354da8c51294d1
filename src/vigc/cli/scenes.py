"""`vigc scenes` and `vigc demo`: pictures whose truth is known, and the whole way with them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .terminal import count, option, say

SceneOutput = Annotated[Path, option("The folder to write; it must be empty or not exist.", "--output", "-o")]
SceneRows = Annotated[int, option("Instruction rows; a scene gives one of each type.", min=1)]
SceneSeed = Annotated[int, option("Another seed gives other scenes.")]
SceneLayout = Annotated[str, option("llava (json files and pictures) or dataset (parquet, for `datasets`).")]
Unusual = Annotated[float, option("Chance of a scene without its theme's usual things.", min=0.0, max=1.0)]
Crowded = Annotated[
    bool, option("Scenes of 6 to 9 objects, described by number and relation in 10 to 17 sentences.", "--crowded")
]


def scenes(
    output: SceneOutput,
    rows: SceneRows,
    seed: SceneSeed = 0,
    layout: SceneLayout = "llava",
    unusual: Unusual = 0.0,
    crowded: Crowded = False,
) -> None:
    """Write a dataset of rendered scenes whose truth is known: pictures, instruction rows, COCO instances."""
    from vigc.scenes import write_scenes

    written = write_scenes(output, rows, seed, layout, unusual, crowded)
    say(f"{count(written['rows'], 'row')} about {count(written['scenes'], 'scene')} in {output}")


DemoOutput = Annotated[Path, option("The folder to write the scenes and the dataset into.", "--output", "-o")]
Pictures = Annotated[int, option("How many scenes to draw.", min=1)]


def demo(output: DemoOutput = Path("vigc-demo"), pictures: Pictures = 12, seed: SceneSeed = 7) -> None:
    """Draw scenes, let the embedded model write and correct rows about them, and make the report."""
    from .jobs import run_demo

    raise typer.Exit(run_demo(output, pictures, seed))
