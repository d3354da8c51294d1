"""Bootstrap confidence intervals for metrics, and for the difference between two models."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from vigc.errors import EvaluationError
from vigc.evaluation.benchmarks.base import Numbers, Unit

Figures = Callable[[Numbers], Numbers]

RESAMPLES = 2000
CONFIDENCE = 95
# Resamples that are computed at a time, which bounds the memory for benchmarks with many images.
_AT_ONCE = 100


@dataclass(frozen=True, slots=True)
class Figure:
    """A metric with its confidence interval over the choice of images.

    Args:
        value: The value; NaN if undefined (no mention, or no question of that kind).
        low: Lower end of the 95 % interval; NaN if all resamples are equal, because the bootstrap then has no
            information: with no error in n images, the error rate may still be about 3/n.
        high: Upper end.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Difference:
    """The difference of a metric between B and A, over the same questions.

    Args:
        a: The value of A.
        b: The value of B.
        value: b - a.
        low: Lower end of the difference's 95 % interval.
        high: Upper end.
    """

    a: float
    b: float
    value: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """Either "equal", "undefined" (value or interval), "noise" (the interval contains 0) or "more than noise"."""
        if self.a == self.b:
            return "equal"
        if any(map(math.isnan, (self.value, self.low, self.high))):
            return "undefined"
        return "more than noise" if self.low > 0 or self.high < 0 else "noise"

    @property
    def is_noise(self) -> bool:
        """Whether the values differ, but 0 is in the interval."""
        return self.verdict == "noise"


def totals(units: Sequence[Unit]) -> dict[str, float]:
    """The sums of the units' counts."""
    return {name: sum(unit.counts[name] for unit in units) for name in units[0].counts}


def with_intervals(units: Sequence[Unit], figures: Figures, seed: int = 0) -> dict[str, Figure]:
    """All metrics with percentile bootstrap intervals.

    Images are resampled with all their questions, because answers about the same image are correlated: resampling
    questions would make intervals too narrow (cluster bootstrap; Davison and Hinkley, 1997, section 3.8).

    Args:
        units: The counts of all questions.
        figures: Computes metrics from sums of counts.
        seed: Seed of the resampling.
    """
    _, columns, table = _table(units)
    values = figures(totals(units))
    drawn = _resampled(table, columns, figures, seed)
    ends = {name: _interval(drawn[name]) for name in values}
    nothing = (float("nan"), float("nan"))
    return {
        name: Figure(float(value), *(ends[name] if ends[name][0] < ends[name][1] else nothing))
        for name, value in values.items()
    }


def differences(a: Sequence[Unit], b: Sequence[Unit], figures: Figures, seed: int = 0) -> dict[str, Difference]:
    """The differences B - A of all metrics with intervals. Both are resampled together, by image.

    Raises:
        EvaluationError: The questions of A and B differ.
    """
    asked, others = ({unit.id for unit in units} for units in (a, b))
    if asked != others:
        lacking = sorted(asked ^ others)
        raise EvaluationError(
            f"The two runs have different questions: {len(lacking)} are only in one, the first {lacking[0]!r}. "
            "Compare runs on the same data with the same --limit and --seed."
        )
    images, columns, first = _table(a)
    _, _, second = _table(b, images)
    drawn = [_resampled(table, columns, figures, seed) for table in (first, second)]
    values = [figures(totals(units)) for units in (a, b)]
    return {
        name: Difference(
            float(values[0][name]),
            float(values[1][name]),
            float(values[1][name] - values[0][name]),
            *_interval(drawn[1][name] - drawn[0][name]),
        )
        for name in values[0]
    }


def _table(units: Sequence[Unit], images: Sequence[str] | None = None) -> tuple[list[str], list[str], np.ndarray]:
    """Images, names of the counts, and the sums by image, float64 (images, counts)."""
    columns = list(units[0].counts)
    sums: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(len(columns)))
    for unit in units:
        sums[unit.image_id] += np.array([unit.counts[name] for name in columns], float)
    order = list(sums) if images is None else list(images)
    return order, columns, np.stack([sums[image] for image in order])


def _resampled(table: np.ndarray, columns: Sequence[str], figures: Figures, seed: int) -> Numbers:
    """The metrics of all resamples, each float64 (RESAMPLES,). The same seed gives the same images."""
    rng = np.random.default_rng(seed)
    count = len(table)
    parts = []
    for _ in range(RESAMPLES // _AT_ONCE):
        weights = rng.multinomial(count, np.full(count, 1 / count), size=_AT_ONCE)
        parts.append(weights @ table)
    sums = np.concatenate(parts)
    return figures({name: sums[:, at] for at, name in enumerate(columns)})


def _interval(values: np.ndarray) -> tuple[float, float]:
    defined = values[~np.isnan(values)]
    if not len(defined):
        return float("nan"), float("nan")
    edge = (100 - CONFIDENCE) / 2
    low, high = np.percentile(defined, [edge, 100 - edge])
    return float(low), float(high)
