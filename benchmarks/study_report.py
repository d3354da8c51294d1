"""The study's page: its table, its plots, and sentences whose numbers come from the results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from measure import RATES
from study_measure import CONDITIONS, FIRST_WORDS, SPLITS
from study_plots import save_plots
from study_statistics import Estimate, Results
from train import _commit

TEMPLATE = Path(__file__).with_name("study_page.md")


def write_report(results: Path, folder: Path, planned: Sequence[tuple[str, str, int]] = ()) -> Path:
    """Writes study.md and its plots from the results of the runs.

    Args:
        results: Their folder.
        folder: Where the page goes.
        planned: Pipeline, recipe and seed of all models; the page names those that have no result.
    """
    found = Results(results)
    save_plots(found, folder)
    there = {(*model, run["seed"]) for model, runs in found.models.items() for run in runs}
    missing = [
        f"{pipeline}, {recipe}, seed {seed}"
        for pipeline, recipe, seed in planned
        if (pipeline, recipe, seed) not in there
    ]
    page = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False)
    text = page.from_string(TEMPLATE.read_text(encoding="utf-8")).render(**_said(found), missing=missing)
    path = folder / "study.md"
    path.write_text(text.rstrip() + "\n", encoding="utf-8")
    return path


def _said(results: Results) -> dict[str, Any]:
    """What the page's template may say."""
    runs = [seed for seeds in results.models.values() for seed in seeds]
    return {
        "results": results,
        "table": table(results),
        "direct": direct_table(results),
        "differences": differences_table(results),
        "iqf": iqf_table(results),
        "scenes": runs[0]["scenes"],
        "first_words": FIRST_WORDS,
        "plan": runs[0]["plan"],
        "seeds": [run["seed"] for run in results.models["base", "paper"]],
        "runs": len(runs),
        "minutes": sum(sum(run["cpu_seconds"].values()) for run in runs) / 60,
        "commit": _commit(),
        "description": lambda recipe, split, condition, figure, pipeline="base": results.description(
            (pipeline, recipe), split, condition, figure
        ),
        "controlled": [model for model in results.models if results.measured(model, "IQF, wrong")],
        "conversation": lambda recipe, split, condition: results.conversation(("base", recipe), split, condition),
        "said": said,
    }


def said(difference: Any) -> str:
    """A difference in words, with its interval; whether it is one at all is for the interval to say."""
    found: Estimate = difference.estimate()
    if not found.clear:
        return f"no clear difference ({found.value:+.1f} points [{found.low:+.1f}, {found.high:+.1f}])"
    way = "less" if found.value < 0 else "more"
    low, high = sorted((abs(found.low), abs(found.high)))
    return f"{abs(found.value):.1f} points {way} [{low:.1f}, {high:.1f}]"


def table(results: Results) -> str:
    """All conditions by recipe: each figure on typical / unusual scenes."""
    names = [*RATES, "right answers"]
    lines = [f"| Trained by | Written by | {' | '.join(names)} |", "|---|---|" + "---|" * len(names)]
    for recipe in ("paper", "prefix"):
        model = ("base", recipe)
        if model not in results.models:
            continue
        for condition in CONDITIONS:
            if not results.measured(model, condition):
                continue
            cells = []
            for name in RATES:
                pair = [results.description(model, split, condition, name).estimate() for split in SPLITS]
                cells.append(_pair(pair))
            cells.append(_pair(_answers(results, model, condition)))
            lines.append(f"| {recipe} | {condition} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _answers(results: Results, model: tuple[str, str], condition: str) -> list[Estimate]:
    if condition not in results.models[model][0]["typical"]["conversations"]:
        return []
    return [results.conversation(model, split, condition).estimate() for split in SPLITS]


def _pair(values: list[Estimate]) -> str:
    return " / ".join(f"{value.value:.1f}" for value in values) or "-"


# What is compared with what: in words, and each as (recipe, condition) of the base pipeline.
COMPARISONS = (
    ("VIC less VIG", ("paper", "VIC"), ("paper", "VIG")),
    ("VIC less VIG", ("prefix", "VIC"), ("prefix", "VIG")),
    ("VIC by instruction less by question", ("paper", "VIC, instruction"), ("paper", "VIC")),
    ("IQF less one-shot VIC", ("paper", "IQF"), ("paper", "VIC")),
    ("IQF less one-shot VIC", ("prefix", "IQF"), ("prefix", "VIC")),
    ("IQF by instruction less by question", ("paper", "IQF, instruction"), ("paper", "IQF")),
    ("prefix less paper, one-shot VIC", ("prefix", "VIC"), ("paper", "VIC")),
    ("prefix less paper, IQF", ("prefix", "IQF"), ("paper", "IQF")),
)


def differences_table(results: Results) -> str:
    """CHAIR_i and coverage: paired differences with intervals over seeds and scenes, and each seed's own."""
    lines = [
        "| Difference, points | Trained by | CHAIR_i, typical | by seed | CHAIR_i, unusual | by seed |",
        "|---|---|---|---|---|---|",
    ]
    for name, (recipe, one), (other_recipe, other) in COMPARISONS:
        if any(("base", each) not in results.models for each in (recipe, other_recipe)):
            continue
        cells = []
        for split in SPLITS:
            first = results.description(("base", recipe), split, one, "CHAIR_i")
            found = (first - results.description(("base", other_recipe), split, other, "CHAIR_i")).estimate()
            cells += [str(found), ", ".join(f"{value:+.1f}" for value in found.seeds)]
        trained = recipe if recipe == other_recipe else "both"
        lines.append(f"| {name} | {trained} | {' | '.join(cells)} |")
    return "\n".join(lines)


def iqf_table(results: Results) -> str:
    """IQF less one-shot VIC for each sort of model."""
    figures = ("CHAIR_i", "coverage", "wrong color", "wrong place")
    heads = [f"{figure}, {split}" for figure in figures for split in SPLITS]
    lines = [f"| Model | Seeds | {' | '.join(heads)} |", "|---|---|" + "---|" * len(heads)]
    for model, seeds in results.models.items():
        cells = []
        for figure in figures:
            for split in SPLITS:
                one_shot = results.description(model, split, "VIC", figure)
                cells.append(str((results.description(model, split, "IQF", figure) - one_shot).estimate()))
        lines.append(f"| {model[0]}, {model[1]} | {len(seeds)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def direct_table(results: Results) -> str:
    """Direct questions answered right by each sort of model."""
    topics = list(results.direct(("base", "paper"), "typical"))
    lines = [f"| Model | {' | '.join(topics)} |", "|---|" + "---|" * len(topics)]
    for model in results.models:
        found = {split: results.direct(model, split) for split in SPLITS}
        cells = [f"{found['typical'][topic]:.0f} / {found['unusual'][topic]:.0f}" for topic in topics]
        lines.append(f"| {model[0]}, {model[1]} | {' | '.join(cells)} |")
    return "\n".join(lines)
