"""`vigc scenes` and `vigc demo`: render images with ground truth, and run the whole pipeline on them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .terminal import count, option, say

SceneOutput = Annotated[Path, option("The folder to write; it must be empty or not exist.", "--output", "-o")]
SceneRows = Annotated[int, option("Number of instruction rows; a scene has one of each task type.", min=1)]
SceneSeed = Annotated[int, option("Seed of the scenes.")]
SceneLayout = Annotated[str, option("llava (JSON files and images) or dataset (parquet, for `datasets`).")]
Unusual = Annotated[float, option("Probability that a scene lacks its theme's usual objects.", min=0.0, max=1.0)]
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
    """Write a dataset of rendered scenes with ground truth: images, instruction rows, COCO instances."""
    from vigc.scenes import write_scenes

    written = write_scenes(output, rows, seed, layout, unusual, crowded)
    say(f"{count(written['rows'], 'row')} about {count(written['scenes'], 'scene')} in {output}")


DemoOutput = Annotated[Path, option("The folder of the scenes and the dataset.", "--output", "-o")]
Pictures = Annotated[int, option("Number of scenes to render.", min=1)]


def demo(output: DemoOutput = Path("vigc-demo"), pictures: Pictures = 12, seed: SceneSeed = 7) -> None:
    """Render scenes, generate and correct rows about them with the embedded model, and write the report."""
    from .jobs import run_demo

    raise typer.Exit(run_demo(output, pictures, seed))
