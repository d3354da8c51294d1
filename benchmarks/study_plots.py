"""The study's plots."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from study_measure import SPLITS
from study_statistics import Estimate, Results

# Told apart by those who see no red and green, too (Okabe and Ito).
COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7")
GRAY = "#8A8A8A"
STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E4E4E4",
    "axes.axisbelow": True,
    "legend.frameon": False,
    "figure.dpi": 130,
}


def save_plots(results: Results, folder: Path) -> list[Path]:
    """Writes all plots and returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    plots = {"chair": plot_chair, "conversations": plot_conversations, "sentences": plot_sentences, "iqf": plot_iqf}
    paths = []
    for name, plot in plots.items():
        with plt.rc_context(STYLE):
            figure = plot(results)
            path = folder / f"study-{name}.png"
            # Without the version of matplotlib the file changes with the figures only.
            figure.savefig(path, metadata={"Software": None})
            plt.close(figure)
        paths.append(path)
    return paths


def plot_chair(results: Results) -> Figure:
    """CHAIR_i of descriptions by condition and recipe."""
    conditions = ("VIG", "VIC", "VIC, instruction", "IQF", "IQF, instruction")
    recipes = [recipe for recipe in ("paper", "prefix") if ("base", recipe) in results.models]

    def value(recipe: str, split: str, condition: str) -> Estimate:
        return results.description(("base", recipe), split, condition, "CHAIR_i").estimate()

    return _dots(conditions, recipes, value, "Hallucinated kinds in descriptions, CHAIR_i in %")


def plot_conversations(results: Results) -> Figure:
    """Right answers to VIG's own questions."""
    conditions = ("VIG", "VIC", "VIC, instruction", "VIC, wrong")
    recipes = [recipe for recipe in ("paper", "prefix") if ("base", recipe) in results.models]

    def value(recipe: str, split: str, condition: str) -> Estimate:
        return results.conversation(("base", recipe), split, condition).estimate()

    return _dots(conditions, recipes, value, "Right answers to VIG's own questions, %")


def _dots(
    conditions: tuple[str, ...], recipes: list[str], value: Callable[[str, str, str], Estimate], title: str
) -> Figure:
    """A panel for each split: means with intervals, and a small dot for each seed."""
    figure, axes = plt.subplots(1, 2, figsize=(7.6, 2.9), sharey=True, layout="constrained")
    for axis, split in zip(axes, SPLITS, strict=True):
        for number, recipe in enumerate(recipes):
            for place, condition in enumerate(conditions):
                at = place + 0.2 * (number - (len(recipes) - 1) / 2)
                found = value(recipe, split, condition)
                _point(axis, at, found, COLORS[number], label=recipe if place == 0 else None)
                axis.plot([at + 0.07] * len(found.seeds), found.seeds, ".", ms=4, color=COLORS[number], alpha=0.5)
        axis.set_xticks(range(len(conditions)), [name.replace(", ", ",\n") for name in conditions])
        axis.set_title(f"{split} scenes", fontsize=9)
    axes[0].set_ylim(bottom=0)
    axes[0].legend(title="trained by", title_fontsize=9)
    figure.suptitle(title, fontsize=10, x=0.01, ha="left")
    return figure


def _reach(found: Estimate) -> list[list[float]]:
    """The interval as lengths below and above the value, which with few counts may lie outside."""
    return [[max(0.0, found.value - found.low)], [max(0.0, found.high - found.value)]]


def _point(axis: Axes, at: float, found: Estimate, color: str, label: str | None = None) -> None:
    axis.errorbar([at], [found.value], yerr=_reach(found), fmt="o", ms=5, color=color, capsize=2, lw=1.2, label=label)


def plot_sentences(results: Results) -> Figure:
    """CHAIR_i by the place of the sentence in its description."""
    figure, axes = plt.subplots(1, 2, figsize=(7.6, 2.9), sharey=True, layout="constrained")
    lines = [("VIG", "paper"), ("VIC", "paper"), ("IQF", "paper"), ("IQF", "prefix")]
    lines = [line for line in lines if ("base", line[1]) in results.models]
    for axis, split in zip(axes, SPLITS, strict=True):
        for (condition, recipe), color in zip(lines, (GRAY, *COLORS), strict=False):
            found = results.by_sentence(("base", recipe), split, condition)
            # The opening names no object; a place that few texts reach says nothing.
            places = [place for place, (_, mentions) in enumerate(found) if place and mentions > 50]
            values = [found[place][0].estimate() for place in places]
            axis.plot(places, [one.value for one in values], "o-", ms=4, color=color, label=f"{condition}, {recipe}")
            axis.fill_between(
                places, [one.low for one in values], [one.high for one in values], color=color, alpha=0.12, lw=0
            )
        axis.set_title(f"{split} scenes", fontsize=9)
        axis.set_xlabel("sentence behind the opening")
        axis.xaxis.get_major_locator().set_params(integer=True)
    axes[0].set_ylim(bottom=0)
    axes[0].legend()
    figure.suptitle("Hallucinated kinds by sentence, CHAIR_i in %", fontsize=10, x=0.01, ha="left")
    return figure


def plot_iqf(results: Results) -> Figure:
    """IQF less one-shot VIC, for every pipeline and recipe: left of zero IQF is better."""
    models = list(results.models)
    figures = ("CHAIR_i", "wrong color", "wrong place")
    height = 1.5 + 0.32 * len(models)
    figure, axes = plt.subplots(1, len(figures), figsize=(7.6, height), sharey=True, layout="constrained")
    for axis, name in zip(axes, figures, strict=True):
        axis.axvline(0, color=GRAY, lw=1)
        for number, split in enumerate(SPLITS):
            for place, model in enumerate(models):
                one_shot = results.description(model, split, "VIC", name)
                found = (results.description(model, split, "IQF", name) - one_shot).estimate()
                label = f"{split} scenes" if place == 0 else None
                at = place + 0.2 * (number - 0.5)
                style = {"fmt": "o", "ms": 4, "color": COLORS[number], "capsize": 2, "lw": 1.2, "label": label}
                axis.errorbar([found.value], [at], xerr=_reach(found), **style)
        axis.set_title(name, fontsize=9)
        axis.set_xlabel("points")
    axes[0].set_yticks(range(len(models)), [_named(model, results) for model in models])
    axes[0].invert_yaxis()
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    figure.suptitle("IQF less one-shot VIC: left of zero, IQF is better", fontsize=10, x=0.01, ha="left")
    return figure


def _named(model: tuple[str, str], results: Results) -> str:
    seeds = len(results.models[model])
    return f"{model[0]}, {model[1]} ({seeds} seed{'s' if seeds > 1 else ''})"
