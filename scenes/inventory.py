"""Long descriptions of crowded scenes, without grid places: what there is, how many of each, attributes, relations.

The other errors of the field dominate in such texts: kinds that are not there, wrong numbers, wrong relations.
"""

from __future__ import annotations

import random
from collections import Counter
from itertools import permutations

from .phrases import NUMBERS, related
from .world import KINDS, THEMES, Scene, SceneObject

_OPENINGS = (
    "The picture shows a {theme} with {count} objects.",
    "This is a picture of a {theme} with {count} objects.",
    "This is a picture of a {theme}.",
)
_MIN_RELATIONS, _MAX_RELATIONS = 2, 4
_MAX_SENTENCES = 17
# An absence is stated of one scene in two.
_ABSENCE = 0.5


def inventory(scene: Scene, rng: random.Random) -> list[str]:
    """A description of a scene in sentences that are all true: 10 to 17 of them if the scene is crowded.

    An opening; for each kind how many there are and of what color or size; relations between objects that are the only
    one of their kind; sometimes what is missing.
    """
    sentences = [rng.choice(_OPENINGS).format(theme=scene.theme, count=NUMBERS[len(scene.objects)])]
    kinds = list(dict.fromkeys(item.kind for item in scene.objects))
    rng.shuffle(kinds)
    for kind in kinds:
        items = scene.of_kind(kind)
        sentences.append(how_many(kind, len(items)))
        sentences.append(_one(rng, items[0]) if len(items) == 1 else _some(rng, items))
    # The last sentence is left for what is missing.
    sentences += _relations(rng, scene, at_most=_MAX_SENTENCES - 1 - len(sentences))
    if rng.random() < _ABSENCE:
        sentences.append(f"There is no {absent_kind(scene, rng)}.")
    return sentences


def how_many(kind: str, number: int) -> str:
    """The number of a kind as a sentence: "There is one tree.", "There are two cars."."""
    return f"There is one {kind}." if number == 1 else f"There are {NUMBERS[number]} {KINDS[kind].plural}."


def absent_kind(scene: Scene, rng: random.Random) -> str:
    """A kind that the scene does not have, half of the time one that its theme makes likely."""
    shown = {item.kind for item in scene.objects}
    absent = [kind for kind in KINDS if kind not in shown]
    expected = [kind for kind in THEMES[scene.theme].kinds if kind not in shown]
    return rng.choice(expected if expected and rng.random() < 0.5 else absent)


def _one(rng: random.Random, item: SceneObject) -> str:
    attributes = [item.size, item.color]
    rng.shuffle(attributes)
    return f"The {item.kind} is {attributes[0]} and {attributes[1]}."


def _some(rng: random.Random, items: list[SceneObject]) -> str:
    """How many objects of one kind have a certain color or size."""
    name = rng.choice(("color", "size"))
    values = Counter(getattr(item, name) for item in items)
    value = rng.choice(list(values))
    number, plural = values[value], KINDS[items[0].kind].plural
    if number == 1:
        return f"One {items[0].kind} is {value}."
    if number == len(items):
        return f"{'Both' if number == 2 else f'All {NUMBERS[number]}'} {plural} are {value}."
    return f"{NUMBERS[number].capitalize()} {plural} are {value}."


def _relations(rng: random.Random, scene: Scene, at_most: int) -> list[str]:
    """Different true relations between single objects, for a pair of objects at most one by column and one by row."""
    pairs = [(one, other, name) for one, other in permutations(scene.single, 2) for name in one.relations(other)]
    rng.shuffle(pairs)
    wanted = min(at_most, rng.randint(_MIN_RELATIONS, _MAX_RELATIONS))
    # "The tree is left of the lamp" and "the lamp is right of the tree" say the same.
    said: dict[tuple[frozenset[str], bool], str] = {}
    for one, other, name in pairs:
        key = frozenset((one.kind, other.kind)), name in ("above", "below")
        if len(said) < wanted and key not in said:
            said[key] = f"The {one.kind} is {related(rng, name)} the {other.kind}."
    return list(said.values())
