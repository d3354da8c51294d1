"""A synthetic world: kinds of objects, themes, and random scenes whose content is known.

A scene is a pure function of (seed, index, unusual, crowded): there is no state and no global random generator.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

MIN_OBJECTS, MAX_OBJECTS = 2, 5
MAX_OF_A_KIND = 3

# A crowded scene has more objects than any other, so that their number tells which it is.
MIN_CROWDED, MAX_CROWDED = MAX_OBJECTS + 1, 9
MIN_CROWDED_KINDS, MAX_CROWDED_KINDS = 4, 6

SIZES = ("small", "large")

# Name and RGB value, chosen to stay distinguishable under the renderer's noise.
COLORS: dict[str, tuple[int, int, int]] = {
    "red": (214, 40, 40),
    "orange": (247, 140, 24),
    "yellow": (250, 220, 50),
    "green": (52, 160, 70),
    "blue": (40, 95, 205),
    "purple": (132, 62, 170),
    "pink": (246, 140, 190),
    "white": (248, 248, 248),
}

# The 3 x 3 cells in reading order; a cell's index is its position in this tuple.
CELLS = (
    "top left",
    "top",
    "top right",
    "left",
    "middle",
    "right",
    "bottom left",
    "bottom",
    "bottom right",
)

# How one object can lie to another, by column and by row.
RELATIONS = ("left of", "right of", "above", "below")

# Probabilities that a typical scene has each anchor of its theme, a kind from another theme, and one kind twice. The
# anchors create a language prior, and thereby make hallucination possible.
_ANCHOR, _ANCHOR_CROWDED = 0.82, 0.95
_STRANGER, _STRANGER_UNUSUAL = 0.1, 0.5
_AGAIN = 0.2


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of object.

    Args:
        name: The noun.
        plural: Its plural.
        activity: What a person could do with it, as a verb phrase after "could".
    """

    name: str
    plural: str
    activity: str


@dataclass(frozen=True, slots=True)
class Theme:
    """A kind of place.

    Args:
        name: The noun.
        anchors: The kinds that most scenes of this theme contain.
        others: Other kinds that belong to the theme.
    """

    name: str
    anchors: tuple[str, ...]
    others: tuple[str, ...]

    @property
    def kinds(self) -> tuple[str, ...]:
        """All kinds that belong to the theme."""
        return self.anchors + self.others


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("car", "cars", "drive away"),
        Kind("house", "houses", "go inside"),
        Kind("bus", "buses", "take a ride"),
        Kind("flag", "flags", "wave"),
        Kind("cup", "cups", "drink"),
        Kind("pot", "pots", "cook"),
        Kind("bottle", "bottles", "pour water"),
        Kind("apple", "apples", "eat"),
        Kind("boat", "boats", "sail"),
        Kind("umbrella", "umbrellas", "stay dry"),
        Kind("fish", "fishes", "go fishing"),
        Kind("star", "stars", "make a wish"),
        Kind("tree", "trees", "climb"),
        Kind("flower", "flowers", "smell something sweet"),
        Kind("mushroom", "mushrooms", "make soup"),
        Kind("bed", "beds", "sleep"),
        Kind("lamp", "lamps", "turn on the light"),
        Kind("book", "books", "read"),
        Kind("clock", "clocks", "tell the time"),
        Kind("kite", "kites", "run in the wind"),
        Kind("ball", "balls", "play"),
        Kind("balloon", "balloons", "have a party"),
    )
}

THEMES: dict[str, Theme] = {
    theme.name: theme
    for theme in (
        Theme("street", ("car", "house"), ("bus", "flag")),
        Theme("kitchen", ("cup", "pot"), ("bottle", "apple")),
        Theme("beach", ("boat", "umbrella"), ("fish", "star")),
        Theme("garden", ("tree", "flower"), ("mushroom", "house")),
        Theme("bedroom", ("bed", "lamp"), ("book", "clock")),
        Theme("park", ("kite", "ball"), ("balloon", "tree")),
    )
}


@dataclass(frozen=True, slots=True)
class SceneObject:
    """An object of a scene: a kind of `KINDS`, a colour of `COLORS`, a size of `SIZES`, and the index of its cell."""

    kind: str
    color: str
    size: str
    cell: int

    def relations(self, other: SceneObject) -> tuple[str, ...]:
        """The `RELATIONS` in which the object lies to another; none of a pair if both share the column or the row."""
        row, column = divmod(self.cell, 3)
        other_row, other_column = divmod(other.cell, 3)
        holds = (column < other_column, column > other_column, row < other_row, row > other_row)
        return tuple(name for name, true in zip(RELATIONS, holds, strict=True) if true)


@dataclass(frozen=True, slots=True)
class Scene:
    """The content of an image. It determines all pixels.

    Args:
        seed: The world's seed.
        index: The scene's index in that world.
        theme: A name of `THEMES`.
        objects: The objects in reading order, at most one per cell.
        unusual: Whether the scene was sampled without the theme's anchors.
    """

    seed: int
    index: int
    theme: str
    objects: tuple[SceneObject, ...]
    unusual: bool = False

    @property
    def key(self) -> str:
        """A unique name of the scene. With a purpose added, it seeds every random choice about the scene."""
        sort = "unusual" if self.unusual else "typical"
        return f"{self.seed}:{self.index}:{f'crowded {sort}' if self.crowded else sort}"

    @property
    def crowded(self) -> bool:
        """Whether the scene has more objects than a text names with their places: see `scenes/inventory.py`."""
        return len(self.objects) > MAX_OBJECTS

    def of_kind(self, kind: str) -> list[SceneObject]:
        """The objects of a kind, in reading order."""
        return [item for item in self.objects if item.kind == kind]

    def at(self, cell: int) -> SceneObject | None:
        """The object in a cell; None if the cell is empty."""
        return next((item for item in self.objects if item.cell == cell), None)

    @property
    def single(self) -> list[SceneObject]:
        """The objects that are the only one of their kind, so that "the" identifies them."""
        return [item for item in self.objects if len(self.of_kind(item.kind)) == 1]

    @property
    def strangers(self) -> list[SceneObject]:
        """The objects that do not belong to the theme."""
        return [item for item in self.objects if item.kind not in THEMES[self.theme].kinds]


def sample_scene(seed: int, index: int, unusual: float | bool = 0.0, crowded: bool = False) -> Scene:
    """The scene `index` of the world `seed`.

    Args:
        seed: Any integer.
        index: Any integer.
        unusual: The probability that the scene has no anchors of its theme and many strangers; or True or False.
        crowded: Whether the scene has 6 to 9 objects of 4 to 6 kinds instead of 2 to 5 objects. At least two of them
            are the only one of their kind. Scenes of the two sorts have nothing in common, whatever their index.

    Raises:
        ValueError: The probability is not between 0 and 1.
    """
    if not 0 <= unusual <= 1:
        raise ValueError(f"unusual={unusual!r} is not a probability: give a number from 0 to 1.")
    rng = random.Random(f"{'crowded' if crowded else 'scene'}:{seed}:{index}")
    # Drawn first, so that the other draws do not depend on the probability.
    is_unusual = rng.random() < unusual
    theme = THEMES[rng.choice(list(THEMES))]
    kinds = _sample_crowd(rng, theme, is_unusual) if crowded else _sample_kinds(rng, theme, is_unusual)
    cells = sorted(rng.sample(range(len(CELLS)), len(kinds)))
    rng.shuffle(kinds)
    objects = tuple(
        SceneObject(kind, rng.choice(list(COLORS)), rng.choice(SIZES), cell)
        for kind, cell in zip(kinds, cells, strict=True)
    )
    return Scene(seed, index, theme.name, objects, is_unusual)


def sample_scenes(
    seed: int, count: int, unusual: float | bool = 0.0, start: int = 0, crowded: bool = False
) -> list[Scene]:
    """The scenes `start` to `start + count - 1` of the world `seed`."""
    return [sample_scene(seed, index, unusual, crowded) for index in range(start, start + count)]


def _sample_kinds(rng: random.Random, theme: Theme, unusual: bool) -> list[str]:
    count = rng.randint(MIN_OBJECTS, MAX_OBJECTS)
    kinds = [] if unusual else [kind for kind in theme.anchors if rng.random() < _ANCHOR]
    while len(kinds) < count:
        repeatable = [kind for kind in kinds if kinds.count(kind) < MAX_OF_A_KIND]
        if repeatable and rng.random() < _AGAIN:
            kinds.append(rng.choice(repeatable))
        else:
            kinds.append(_another_kind(rng, theme, kinds, unusual))
    return kinds


def _another_kind(rng: random.Random, theme: Theme, kinds: list[str], unusual: bool) -> str:
    """A kind that is not among those drawn so far, of the theme or a stranger."""
    belonging = [kind for kind in theme.others if kind not in kinds]
    strange = rng.random() < (_STRANGER_UNUSUAL if unusual else _STRANGER)
    strangers = [kind for kind in KINDS if kind not in theme.kinds]
    pool = strangers if strange or not belonging else belonging
    return rng.choice([kind for kind in pool if kind not in kinds])


def _sample_crowd(rng: random.Random, theme: Theme, unusual: bool) -> list[str]:
    different = rng.randint(MIN_CROWDED_KINDS, MAX_CROWDED_KINDS)
    kinds = [] if unusual else [kind for kind in theme.anchors if rng.random() < _ANCHOR_CROWDED]
    while len(kinds) < different:
        kinds.append(_another_kind(rng, theme, kinds, unusual))
    # The others stay single, so that a relation between "the" one and "the" other can be stated.
    repeatable = rng.sample(kinds, 2) * (MAX_OF_A_KIND - 1)
    count = rng.randint(MIN_CROWDED, min(MAX_CROWDED, different + len(repeatable)))
    return kinds + rng.sample(repeatable, count - different)
