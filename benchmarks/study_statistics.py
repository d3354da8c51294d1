"""Shares of counts, with bootstrap intervals over scenes and over seeds."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from measure import RATES
from study_measure import COUNTS, SPLITS

ROUNDS = 2000
INTERVAL = (2.5, 97.5)


@dataclass(frozen=True)
class Estimate:
    """A figure in %, or a difference of two in points.

    Args:
        value: Mean over seeds.
        low: Of the 95 % interval over seeds and scenes (with one seed: over scenes).
        high: Likewise.
        scenes: The 95 % interval over scenes alone, the seeds being these.
        seeds: The value of each seed.
    """

    value: float
    low: float
    high: float
    scenes: tuple[float, float]
    seeds: tuple[float, ...]

    def __str__(self) -> str:
        return f"{self.value:.1f} [{self.low:.1f}, {self.high:.1f}]"

    @property
    def clear(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Share:
    """Shares in % by seed, (S,), and the same for resampled scenes, (ROUNDS, S); differences of two are paired."""

    point: np.ndarray
    resampled: np.ndarray

    def __sub__(self, other: Share) -> Share:
        return Share(self.point - other.point, self.resampled - other.resampled)

    def estimate(self) -> Estimate:
        """Mean over seeds with its intervals."""
        rounds, seeds = self.resampled.shape
        drawn = np.random.default_rng(1).integers(seeds, size=(rounds, seeds))
        both = np.take_along_axis(self.resampled, drawn, axis=1).mean(1)
        low, high = np.percentile(both, INTERVAL)
        scenes = np.percentile(self.resampled.mean(1), INTERVAL)
        return Estimate(
            float(self.point.mean()),
            float(low),
            float(high),
            (float(scenes[0]), float(scenes[1])),
            tuple(map(float, self.point)),
        )


def share(parts: np.ndarray, wholes: np.ndarray) -> Share:
    """The share of `parts` in `wholes`, both (S, N) counts by seed and scene.

    The scenes are the same for all seeds and models and are resampled alike, so that differences are paired.
    """
    scenes = parts.shape[1]
    drawn = np.random.default_rng(0).multinomial(scenes, np.full(scenes, 1 / scenes), size=ROUNDS)
    return Share(
        100 * parts.sum(1) / np.maximum(1, wholes.sum(1)), 100 * (drawn @ parts.T) / np.maximum(1, drawn @ wholes.T)
    )


class Results:
    """The counts of all models, by pipeline and recipe.

    Args:
        folder: Of the files that the study's runs leave.

    Raises:
        ValueError: It holds none.
    """

    def __init__(self, folder: Path) -> None:
        self.models: dict[tuple[str, str], list[dict[str, Any]]] = {}
        results = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
        for result in sorted(results, key=lambda result: result["pipeline"] != "base"):
            self.models.setdefault((result["pipeline"], result["recipe"]), []).append(result)
        for pipeline in {pipeline for pipeline, _ in self.models}:
            self._pair_seeds((pipeline, "paper"), (pipeline, "prefix"))
        if ("base", "paper") not in self.models:
            raise ValueError(f"{folder} has no result of the base pipeline by the paper's recipe: run the study first.")

    def _pair_seeds(self, one: tuple[str, str], other: tuple[str, str]) -> None:
        """Two recipes are compared by the seeds that both have: a study may have stopped between them."""
        if one in self.models and other in self.models:
            common = {run["seed"] for run in self.models[one]} & {run["seed"] for run in self.models[other]}
            for model in (one, other):
                self.models[model] = [run for run in self.models[model] if run["seed"] in common]

    def measured(self, model: tuple[str, str], condition: str) -> bool:
        """Whether all seeds of a model were measured in it; some are older than the last condition."""
        return all(condition in seed[split]["descriptions"] for seed in self.models[model] for split in SPLITS)

    def description(self, model: tuple[str, str], split: str, condition: str, figure: str) -> Share:
        """One of `RATES`."""
        counts = np.array([seed[split]["descriptions"][condition]["counts"] for seed in self.models[model]])
        part, whole = (COUNTS.index(name) for name in RATES[figure])
        return share(counts[:, :, part], counts[:, :, whole])

    def by_sentence(self, model: tuple[str, str], split: str, condition: str) -> list[tuple[Share, int]]:
        """For each sentence of a description CHAIR_i, and the number of mentions."""
        counts = np.array([seed[split]["descriptions"][condition]["sentences"] for seed in self.models[model]])
        mentions, hallucinated = counts[:, :, 0], counts[:, :, 1]
        return [
            (share(hallucinated[:, :, number], mentions[:, :, number]), int(mentions[:, :, number].sum()))
            for number in range(mentions.shape[2])
        ]

    def conversation(self, model: tuple[str, str], split: str, condition: str) -> Share:
        """Right answers to VIG's own questions."""
        answers = [seed[split]["conversations"][condition] for seed in self.models[model]]
        right = np.array([[value or 0 for value in row] for row in answers])
        asked = np.array([[int(value is not None) for value in row] for row in answers])
        return share(right, asked)

    def direct(self, model: tuple[str, str], split: str) -> dict[str, float]:
        """Direct questions answered right, in %, by topic: mean over seeds."""
        seeds = [seed[split]["direct"] for seed in self.models[model]]
        return {topic: float(np.mean([seed[topic] for seed in seeds])) for topic in seeds[0]}
