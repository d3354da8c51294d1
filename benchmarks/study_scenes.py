"""Does VIC correct VIG, and when does reading the picture anew for each sentence (IQF) help?

`python benchmarks/study_scenes.py` trains small models on rendered scenes from nothing, counts what their texts say
right and wrong, and writes docs/study.md with its plots. What is done already is not done again: stages and results
are kept in `--work`. `--report` writes the page from the results that are there.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
# Scripts beside each other and no packages.
sys.path[:0] = [str(ROOT / "recipes" / "tiny"), str(ROOT / "benchmarks")]

import torch  # noqa: E402
from data import Pictures  # noqa: E402
from measure import Subject  # noqa: E402
from stages import Stage  # noqa: E402
from study_measure import measure  # noqa: E402
from study_report import write_report  # noqa: E402
from train import UNUSUAL, Plan, build  # noqa: E402

# vigc-tiny hallucinates too little to be studied; this model is half as wide, has fewer queries than the world has
# places, and learns for a shorter time.
BASE = Plan(
    pictures=8_000,
    vision=Stage(700, 64, 2e-3),
    language=Stage(300, 32, 2e-3),
    looking=Stage(500, 128, 1.5e-3),
    talking=Stage(2200, 32, 1.5e-3),
    asking=None,
    vigc=Stage(200, 32, 1e-3),
    counting=Stage(60, 32, 8e-4),
    alike=True,
    queries=4,
    width=64,
)
# What a study of IQF can turn, each from nothing.
PIPELINES = {
    "base": BASE,
    "2 queries": replace(BASE, queries=2),
    "strong prior": replace(BASE, language=Stage(900, 32, 2e-3), looking=Stage(250, 128, 1.5e-3)),
    "any order": replace(BASE, any_order=True),
}
# What VIC is trained on in the stages D and E; they start from the same C2.
RECIPES: dict[str, dict[str, Any]] = {
    "paper": {},
    "prefix": {"prefixes": 0.5},
    "next sentence": {"prefixes": 0.5, "next_only": True},
}
SHARED_STAGES = ("a", "b", "c1", "c2")


@dataclass(frozen=True)
class Lineage:
    """One model up to stage C2, and the recipes that it goes on with."""

    pipeline: str
    seed: int
    recipes: tuple[str, ...]

    @property
    def name(self) -> str:
        """As a folder is named."""
        return f"{self.pipeline.replace(' ', '-')}-{self.seed}"


LINEAGES = (
    Lineage("base", 0, ("paper", "prefix", "next sentence")),
    Lineage("base", 1, ("paper", "prefix")),
    Lineage("base", 2, ("paper", "prefix")),
    Lineage("2 queries", 0, ("paper", "prefix")),
    Lineage("strong prior", 0, ("paper", "prefix")),
    Lineage("any order", 0, ("paper", "prefix")),
)


def plan_of(pipeline: str, recipe: str, quick: bool) -> Plan:
    """The plan of a model; `quick` runs a few steps of each stage, to see that all of it runs."""
    plan = replace(PIPELINES[pipeline], **RECIPES[recipe])
    if not quick:
        return plan
    short = Stage(2, 8, 1e-3)
    stages = {name: short for name, value in vars(plan).items() if isinstance(value, Stage)}
    return replace(plan, pictures=60, **stages)


def run(lineage: Lineage, work: Path, scenes: int, quick: bool) -> str:
    """Trains and measures the models of a lineage, less those whose results are there.

    Raises:
        ValueError: A result there is of another plan or of other scenes.
    """
    torch.set_num_threads(1)
    folder = work / lineage.name
    folder.mkdir(parents=True, exist_ok=True)
    pictures = None
    with open(folder / "log.txt", "a", buffering=1, encoding="utf-8") as log, redirect_stdout(log):
        for recipe in lineage.recipes:
            plan = plan_of(lineage.pipeline, recipe, quick)
            setting = {"pipeline": lineage.pipeline, "recipe": recipe, "seed": lineage.seed, "scenes": scenes}
            result = result_file(work, lineage, recipe)
            if result.exists():
                _check_same(result, {**setting, "plan": asdict(plan)})
                continue
            start = time.process_time()
            pictures = pictures or Pictures.sample(lineage.seed, plan.pictures, UNUSUAL)
            model, processor = build(plan, lineage.seed, _stages(folder, plan, recipe), pictures)
            if quick:
                model.generation_config.max_new_tokens = 12
            trained = time.process_time()
            counts = measure(Subject(model, processor), scenes)
            seconds = {"training": trained - start, "measuring": time.process_time() - trained}
            _write(result, {**setting, "plan": asdict(plan), "cpu_seconds": seconds, **counts})
    return lineage.name


def result_file(work: Path, lineage: Lineage, recipe: str) -> Path:
    """Where a model's counts are kept."""
    return work / "results" / f"{lineage.name}-{recipe.replace(' ', '-')}.json"


def _stages(folder: Path, plan: Plan, recipe: str) -> Path:
    """The folder of a recipe's stages, with those that the lineage has already."""
    stages = folder / recipe.replace(" ", "-")
    stages.mkdir(exist_ok=True)
    note = folder / "plan.json"
    shared = {name: value for name, value in asdict(plan).items() if name not in ("prefixes", "next_only")}
    if note.exists():
        _check_same(note, shared)
    _write(note, shared)
    for name in SHARED_STAGES:
        found = sorted(folder.glob(f"*/{name}.safetensors"))
        if found and not (stages / found[0].name).exists():
            shutil.copyfile(found[0], stages / f"{name}.partial")
            os.replace(stages / f"{name}.partial", stages / found[0].name)
    return stages


def _check_same(path: Path, expected: dict[str, Any]) -> None:
    found = json.loads(path.read_text(encoding="utf-8"))
    differing = [name for name, value in expected.items() if found.get(name) != value]
    if differing:
        told = "; ".join(f"{name} was {found.get(name)}, now {expected[name]}" for name in differing)
        raise ValueError(f"{path} is of another study ({told}): remove its folder, or give another --work.")


def _write(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content, separators=(",", ":")) + "\n", encoding="utf-8")
    os.replace(partial, path)


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "study", help="where stages and results are kept")
    parser.add_argument("--output", type=Path, default=ROOT / "docs", help="where study.md and its plots go")
    parser.add_argument("--scenes", type=int, default=250, help="held-out scenes of each sort")
    parser.add_argument("--processes", type=int, default=2, help="models trained side by side, with one thread each")
    parser.add_argument("--lineage", action="append", help="run this one only, such as base-0; may be repeated")
    parser.add_argument("--report", action="store_true", help="only write the page")
    parser.add_argument("--quick", action="store_true", help="a few steps of each stage, to see that all of it runs")
    return parser


def main() -> None:
    """Runs what is missing, then writes the page."""
    arguments = make_parser().parse_args()
    chosen = [lineage for lineage in LINEAGES if not arguments.lineage or lineage.name in arguments.lineage]
    if not chosen:
        names = ", ".join(lineage.name for lineage in LINEAGES)
        raise SystemExit(f"--lineage {arguments.lineage}: none of {names}.")
    try:
        if not arguments.report:
            run_all(chosen, arguments)
        planned = [(lineage.pipeline, recipe, lineage.seed) for lineage in LINEAGES for recipe in lineage.recipes]
        path = write_report(arguments.work / "results", arguments.output, planned)
    except ValueError as error:
        raise SystemExit(str(error)) from error
    print(f"written: {path}")


def run_all(lineages: list[Lineage], arguments: argparse.Namespace) -> None:
    """Runs lineages in processes of their own, which is faster than several threads for models of this size."""
    settings = arguments.work, arguments.scenes, arguments.quick
    if arguments.processes == 1:
        for lineage in lineages:
            print(f"{run(lineage, *settings)}: done", flush=True)
        return
    with ProcessPoolExecutor(arguments.processes, multiprocessing.get_context("spawn")) as pool:
        waiting = [pool.submit(run, lineage, *settings) for lineage in lineages]
        for done in as_completed(waiting):
            print(f"{done.result()}: done", flush=True)


if __name__ == "__main__":
    main()
