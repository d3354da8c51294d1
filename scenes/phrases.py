"""Phrases of which the texts about scenes are made: numbers, places, relations, and objects with their attributes."""

from __future__ import annotations

import random

from .world import SceneObject

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

# Two phrases for each cell, in the order of CELLS.
PLACES: tuple[tuple[str, str], ...] = (
    ("in the top left corner", "at the top left"),
    ("at the top", "in the top middle"),
    ("in the top right corner", "at the top right"),
    ("on the left side", "on the left"),
    ("in the middle", "in the center"),
    ("on the right side", "on the right"),
    ("in the bottom left corner", "at the bottom left"),
    ("at the bottom", "in the bottom middle"),
    ("in the bottom right corner", "at the bottom right"),
)

# Two phrases for each of RELATIONS.
RELATED: dict[str, tuple[str, str]] = {
    "left of": ("left of", "to the left of"),
    "right of": ("right of", "to the right of"),
    "above": ("above", "above"),
    "below": ("below", "below"),
}


def with_article(noun: str) -> str:
    """`"a boat"`, `"an orange boat"`."""
    return f"{'an' if noun[0] in 'aeio' or noun.startswith('um') else 'a'} {noun}"


def describe(item: SceneObject) -> str:
    """An object with its attributes: "a small red boat"."""
    return with_article(f"{item.size} {item.color} {item.kind}")


def place_of(rng: random.Random, cell: int) -> str:
    """A phrase for a cell. The first is more frequent, so that greedy decoding of a trained model uses it."""
    return PLACES[cell][rng.random() < 0.3]


def related(rng: random.Random, relation: str) -> str:
    """A phrase for one of `RELATIONS`; the first is more frequent, as in [`place_of`]."""
    return RELATED[relation][rng.random() < 0.3]


def capital(text: str) -> str:
    """The text with its first letter as a capital."""
    return text[0].upper() + text[1:]
