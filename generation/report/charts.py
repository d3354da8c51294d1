"""The report's charts, as SVG text. Colours are classes, so that the page's style decides them in light and dark."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape

WIDTH, HEIGHT = 420, 210
_LEFT, _RIGHT, _TOP, _BOTTOM = 40, 8, 10, 34
_BINS = 24
_COLOURS = [f"s{number}" for number in range(8)]  # of the most frequent first words; others have no slice
_RINGS = ((34, 90), (90, 130), (130, 162))  # inner and outer radius of the first, second and third word
_LEAST_SHARE = 0.006  # of a turn; thinner slices are not drawn


def histogram(series: Mapping[str, Counter[float]], *, step: float, label: str, low: float | None = None) -> str:
    """Distributions of the same quantity over each other: the last one filled, the others as lines.

    Args:
        series: Values with their counts, by name.
        step: No bin is narrower; wider ones are round multiples of it.
        label: What is counted.
        low: Where the axis begins; by default, at the smallest value but for the outermost half per cent.
    """
    series = {name: counts for name, counts in series.items() if counts}
    if not series:
        return ""
    together: Counter[float] = sum(series.values(), Counter())
    first = low if low is not None else _quantile(together, 0.005)
    last = _quantile(together, 0.995)
    width = _round_width((last - first) / _BINS, step)
    start = math.floor(first / width + 1e-9) * width
    bins = max(1, math.floor((last - start) / width + 1e-9) + 1)
    shares = {name: _shares(counts, start, width, bins) for name, counts in series.items()}
    top = max(max(values) for values in shares.values())
    across = (WIDTH - _LEFT - _RIGHT) / bins
    parts = [*_grid(top)]
    for number, (name, values) in enumerate(shares.items()):
        if number == len(shares) - 1:
            for index, share in enumerate(values):
                edges = f"{_number(start + index * width)} to {_number(start + (index + 1) * width)}"
                text = f"{name}, {edges}: {share:.1%}"
                parts.append(_bar(_LEFT + index * across, across, share / top, text, "bar-answer"))
        else:
            path = f"M{_LEFT} {_y(0)}"
            for index, share in enumerate(values):
                height = _y(share / top)
                path += f"L{_LEFT + index * across:.1f} {height:.1f}L{_LEFT + (index + 1) * across:.1f} {height:.1f}"
            parts.append(f'<path class="line-draft" d="{path}L{WIDTH - _RIGHT} {_y(0)}"/>')
    every, offset = max(1, math.ceil(bins / 6)), round(start / width)
    parts += [
        _text(_LEFT + index * across, HEIGHT - _BOTTOM + 15, _number((offset + index) * width), "tick middle")
        for index in range(bins + 1)
        if (offset + index) % every == 0
    ]
    parts.append(_text((_LEFT + WIDTH) / 2, HEIGHT - 4, label, "axis middle"))
    return _svg(WIDTH, HEIGHT, f"Histogram of {label}", parts)


def bars(rates: Sequence[tuple[str, int, int]], *, label: str) -> str:
    """A bar for each (name, part, whole): which share of the whole the part is."""
    if not rates:
        return ""
    shares = [part / whole if whole else 0.0 for _, part, whole in rates]
    top = max(*shares, 0.05) if len(shares) > 1 else max(shares[0], 0.05)
    across = (WIDTH - _LEFT - _RIGHT) / len(rates)
    parts = [*_grid(top)]
    for index, ((name, part, whole), share) in enumerate(zip(rates, shares, strict=True)):
        left = _LEFT + index * across
        text = f"{label} {name}: {part:,} of {whole:,} ({share:.1%})"
        gap = min(across * 0.18, 14)
        parts.append(_bar(left + gap, across - 2 * gap, share / top, text, "bar-answer"))
        parts.append(_text(left + across / 2, HEIGHT - _BOTTOM + 15, name, "tick middle"))
    parts.append(_text((_LEFT + WIDTH) / 2, HEIGHT - 4, label, "axis middle"))
    return _svg(WIDTH, HEIGHT, f"Share by {label}", parts)


def sunburst(phrases: Mapping[tuple[str, ...], int], *, label: str) -> str:
    """What phrases begin with: a ring for the first word, one for the second, one for the third."""
    total = sum(phrases.values())
    if not total:
        return ""
    parts: list[str] = []
    firsts = _branches(phrases, 0)
    _ring(parts, firsts[: len(_COLOURS)], 0, 0.0, total, total, _COLOURS, ())
    size = 2 * _RINGS[-1][1] + 4
    parts.append(_text(0, -2, f"{total:,}", "centre middle"))
    parts.append(_text(0, 13, "question" if total == 1 else "questions", "word ring1"))
    return _svg(size, size, label, parts, origin=-size / 2)


def _ring(
    parts: list[str],
    branches: Sequence[tuple[str, int, Mapping[tuple[str, ...], int]]],
    depth: int,
    start: float,
    total: int,
    whole: int,
    kinds: Sequence[str],
    before: tuple[str, ...],
) -> None:
    """Slices of one ring from the angle `start` (in turns), and of those outside of them."""
    for index, (word, count, below) in enumerate(branches):
        share = count / total
        if word and share >= _LEAST_SHARE:
            kind, words = kinds[index % len(kinds)], (*before, word)
            text = f"{' '.join(words)} …: {count:,} of {whole:,} ({count / whole:.1%})"
            parts.append(_slice(start, share, depth, text, kind))
            parts += _slice_label(start, share, depth, word)
            if depth + 1 < len(_RINGS):
                _ring(parts, _branches(below, depth + 1), depth + 1, start, total, whole, [kind], words)
        start += share


def _branches(phrases: Mapping[tuple[str, ...], int], depth: int) -> list[tuple[str, int, dict[tuple[str, ...], int]]]:
    """(word, count, phrases) of each word at that depth, the most frequent first; "" is the end of a phrase."""
    below: dict[str, dict[tuple[str, ...], int]] = {}
    for words, count in phrases.items():
        below.setdefault(words[depth] if len(words) > depth else "", {})[words] = count
    branches = [(word, sum(inside.values()), inside) for word, inside in below.items()]
    return sorted(branches, key=lambda branch: (branch[0] == "", -branch[1], branch[0]))


def _slice(start: float, share: float, depth: int, text: str, kind: str) -> str:
    inner, outer = _RINGS[depth]
    share = min(share, 0.9999)  # a whole turn would begin where it ends, and show nothing
    (ax, ay), (bx, by) = _point(start, outer), _point(start + share, outer)
    (cx, cy), (dx, dy) = _point(start + share, inner), _point(start, inner)
    large = 1 if share > 0.5 else 0
    path = (
        f"M{ax:.1f} {ay:.1f}A{outer} {outer} 0 {large} 1 {bx:.1f} {by:.1f}"
        f"L{cx:.1f} {cy:.1f}A{inner} {inner} 0 {large} 0 {dx:.1f} {dy:.1f}Z"
    )
    return f'<path class="slice {kind} ring{depth}" d="{path}"><title>{escape(text)}</title></path>'


def _slice_label(start: float, share: float, depth: int, word: str) -> list[str]:
    """The word along the radius, where there is room for it."""
    inner, outer = _RINGS[depth]
    radius = (inner + outer) / 2
    if 2 * math.pi * radius * share < 12.5 or len(word) * 6.2 > outer - inner - 4:
        return []
    x, y = _point(start + share / 2, radius)
    turn = 360 * (start + share / 2) - 90
    turn = turn + 180 if 90 < turn % 360 < 270 else turn
    place = f'x="{x:.1f}" y="{y:.1f}" transform="rotate({turn:.1f} {x:.1f} {y:.1f})"'
    return [f'<text class="word ring{depth}" {place}>{escape(word)}</text>']


def _point(turn: float, radius: float) -> tuple[float, float]:
    angle = 2 * math.pi * turn
    return radius * math.sin(angle), -radius * math.cos(angle)


def _shares(counts: Counter[float], start: float, width: float, bins: int) -> list[float]:
    """Which share of the values lies in each bin; what lies outside of all counts for the nearest."""
    found = [0] * bins
    for value, count in counts.items():
        found[min(max(math.floor((value - start) / width + 1e-9), 0), bins - 1)] += count
    whole = sum(found)
    return [count / whole for count in found]


def _round_width(least: float, step: float) -> float:
    """The narrowest of 1, 2, 5, 10, 20, ... steps that is as wide as `least`."""
    power = step
    while True:
        for factor in (1, 2, 5):
            if factor * power >= least:
                return factor * power
        power *= 10


def _quantile(counts: Counter[float], share: float) -> float:
    values = sorted(counts)
    wanted, seen = share * counts.total(), 0
    for value in values:
        seen += counts[value]
        if seen >= wanted:
            return value
    return values[-1]


def _grid(top: float) -> list[str]:
    parts = []
    for part in (0.0, 0.5, 1.0):
        height = _y(part)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{height:.1f}" y2="{height:.1f}"/>')
        digits = 0 if top * 50 >= 2 or part == 0 else 1
        parts.append(_text(_LEFT - 6, height + 3.5, f"{100 * part * top:.{digits}f} %", "tick end"))
    return parts


def _bar(x: float, width: float, share: float, text: str, kind: str) -> str:
    top = _y(share)
    place = f'x="{x + 0.5:.1f}" y="{top:.1f}" width="{max(width - 1, 0.5):.1f}" height="{_y(0) - top:.1f}"'
    return f'<rect class="{kind}" {place}><title>{escape(text)}</title></rect>'


def _y(share: float) -> float:
    return HEIGHT - _BOTTOM - share * (HEIGHT - _BOTTOM - _TOP)


def _text(x: float, y: float, text: str, kind: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'


def _number(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".").replace("-", "−") if round(value, 2) else "0"


def _svg(width: float, height: float, label: str, parts: Sequence[str], origin: float = 0) -> str:
    box = f"{origin:g} {origin:g} {width:g} {height:g}"
    return f'<svg viewBox="{box}" role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>'
