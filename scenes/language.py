"""Writes true question-answer pairs about a scene, of the three task types, and probing questions, in varied wording.

`scenes/claims.py` parses such texts.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .inventory import absent_kind, how_many, inventory
from .phrases import NUMBERS, capital, describe, place_of, related, with_article
from .world import CELLS, KINDS, RELATIONS, THEMES, Scene, SceneObject

TYPES = ("conversation", "detail", "complex")
TOPICS = ("color", "size", "count", "where", "at", "exists")
# Topics that the embedded model has not been trained on: an empty place, a kind of which there is none, and whether one
# object lies so to another.
FURTHER_TOPICS = ("nothing", "zero", "relation")
# What conversations about crowded scenes are about: no grid places.
CROWDED_TOPICS = ("color", "size", "count", "exists", "zero", "relation")

DETAIL_QUESTIONS = (
    "Can you describe the picture in detail?",
    "What does the picture show in detail?",
    "What can you see in the picture?",
    "Please describe everything in the picture.",
    "Could you give a full description of the scene?",
)

_QUESTIONS = {
    "color": ("What color is the {kind}?", "Which color does the {kind} have?"),
    "size": ("How big is the {kind}?", "Is the {kind} small or large?"),
    "count": ("How many {plural} are there?", "How many {plural} can you see in the picture?"),
    "where": ("Where is the {kind}?", "In which part of the picture is the {kind}?"),
    "at": ("What is {place}?", "Which object can you see {place}?"),
    "exists": ("Is there {a_kind} in the picture?", "Can you see {a_kind}?"),
    # As of "at" and "count": the question does not tell that there is nothing.
    "nothing": ("What is {place}?", "Which object can you see {place}?"),
    "zero": ("How many {plural} are there?", "How many {plural} can you see in the picture?"),
}
_ANSWERS = {
    "color": ("The {kind} is {color}.", "It is {color}."),
    "size": ("The {kind} is {size}.", "It is {size}."),
    "where": ("The {kind} is {place}.", "It is {place}."),
    "at": ("There is {thing} {place}.", "It is {thing}."),
    "yes": ("Yes, there is {thing} {place}.", "Yes, there is {a_kind} in the picture."),
    "no": ("No, there is no {kind} in the picture.", "No, there is no {kind}."),
    "zero": ("There are zero {plural}.", "There are zero {plural} in the picture."),
}

_OPENINGS = (
    "The picture shows a {theme}.",
    "This is a picture of a {theme}.",
    "The picture shows a {theme} with {count} objects.",
)
_MENTIONS = (
    "There is {thing} {place}.",
    "{Thing} is {place}.",
    "{Place} there is {thing}.",
    "You can see {thing} {place}.",
)


@dataclass(frozen=True, slots=True)
class Pair:
    """A question with a true answer.

    Args:
        type: One of `TYPES`.
        topic: For a conversation one of `TOPICS` or `FURTHER_TOPICS`, else "detail", "place", "activity" or "odd".
        question: The question.
        answer: A true answer.
        truth: For a conversation, the word that makes an answer correct: a colour, a size, a number, a name of `CELLS`,
            a kind, "nothing", "yes" or "no"; else "".
        kind: For a conversation, the kind of object that it is about; else "".
        cell: For a conversation about a single object or an empty cell, that cell; else None.
    """

    type: str
    topic: str
    question: str
    answer: str
    truth: str = ""
    kind: str = ""
    cell: int | None = None


def probes(scene: Scene, rng: random.Random, topics: Sequence[str] = TOPICS) -> list[Pair]:
    """A probing question about a scene for each topic, except for topics that need a unique object if there is none.

    For "exists", half of the questions are about an object in the scene. Of the other half, 50% are about a kind that
    the theme makes likely, so that a language prior alone answers wrongly.
    """
    found = [_PROBES[topic](scene, rng) for topic in topics]
    return [pair for pair in found if pair is not None]


def conversation(scene: Scene, rng: random.Random) -> Pair:
    """A probing question about a scene; all topics that fit the scene are equally likely."""
    topics = [topic for topic in TOPICS if scene.single or topic in ("count", "at", "exists")]
    if scene.crowded:
        topics = [topic for topic in CROWDED_TOPICS if scene.single or topic in ("count", "exists", "zero")]
    return probes(scene, rng, [rng.choice(topics)])[0]


def detail(scene: Scene, rng: random.Random) -> Pair:
    """A description of all objects: one by one in reading order, or by kinds if the scene is crowded."""
    if scene.crowded:
        return Pair("detail", "detail", rng.choice(DETAIL_QUESTIONS), " ".join(inventory(scene, rng)))
    sentences = [rng.choice(_OPENINGS).format(theme=scene.theme, count=NUMBERS[len(scene.objects)])]
    for item in scene.objects:
        thing, place = describe(item), place_of(rng, item.cell)
        words = {"thing": thing, "place": place, "Thing": capital(thing), "Place": capital(place)}
        sentences.append(rng.choice(_MENTIONS).format(**words))
    return Pair("detail", "detail", rng.choice(DETAIL_QUESTIONS), " ".join(sentences))


def complex_reasoning(scene: Scene, rng: random.Random) -> Pair:
    """A question whose answer needs the scene and some world knowledge."""
    return rng.choice((_place_reasoning, _activity_reasoning, _oddity_reasoning))(scene, rng)


def write_pair(scene: Scene, type: str, salt: object = 0) -> Pair:
    """A pair of a task type about a scene, a pure function of its arguments. Another `salt` gives another pair."""
    rng = random.Random(f"pair:{scene.key}:{type}:{salt}")
    return {"conversation": conversation, "detail": detail, "complex": complex_reasoning}[type](scene, rng)


def write_probes(scene: Scene, salt: object = 0, topics: Sequence[str] = TOPICS) -> list[Pair]:
    """A probing question for each topic that fits the scene, a pure function of the arguments."""
    return probes(scene, random.Random(f"probes:{scene.key}:{salt}"), topics)


def _question(rng: random.Random, topic: str, kind: str = "", place: str = "") -> str:
    words = {"kind": kind, "place": place}
    if kind:
        words |= {"plural": KINDS[kind].plural, "a_kind": with_article(kind)}
    return rng.choice(_QUESTIONS[topic]).format(**words)


def _answer(rng: random.Random, how: str, item: SceneObject | None = None, kind: str = "") -> str:
    kind = item.kind if item else kind
    words = {"kind": kind, "plural": KINDS[kind].plural, "a_kind": with_article(kind)}
    if item:
        words |= {"color": item.color, "size": item.size, "thing": describe(item), "place": place_of(rng, item.cell)}
    return rng.choice(_ANSWERS[how]).format(**words)


def _about_one(topic: str, truth: Callable[[SceneObject], str]) -> Callable[[Scene, random.Random], Pair | None]:
    """A probe about an object that is the only one of its kind."""

    def probe(scene: Scene, rng: random.Random) -> Pair | None:
        if not scene.single:
            return None
        item = rng.choice(scene.single)
        question = _question(rng, topic, item.kind)
        return Pair("conversation", topic, question, _answer(rng, topic, item), truth(item), item.kind, item.cell)

    return probe


def _count(scene: Scene, rng: random.Random) -> Pair:
    kinds = sorted({item.kind for item in scene.objects})
    several = [kind for kind in kinds if len(scene.of_kind(kind)) > 1]
    # Most kinds have one object: without this, "one" would nearly always be correct.
    kind = rng.choice(several if several and rng.random() < 0.7 else kinds)
    number = len(scene.of_kind(kind))
    return Pair("conversation", "count", _question(rng, "count", kind), how_many(kind, number), NUMBERS[number], kind)


def _at(scene: Scene, rng: random.Random) -> Pair:
    item = rng.choice(scene.objects)
    question = _question(rng, "at", place=place_of(rng, item.cell))
    return Pair("conversation", "at", question, _answer(rng, "at", item), item.kind, item.kind, item.cell)


def _exists(scene: Scene, rng: random.Random) -> Pair:
    if rng.random() < 0.5:
        item = rng.choice(scene.objects)
        item = scene.of_kind(item.kind)[0]
        question = _question(rng, "exists", item.kind)
        return Pair("conversation", "exists", question, _answer(rng, "yes", item), "yes", item.kind, item.cell)
    kind = absent_kind(scene, rng)
    return Pair("conversation", "exists", _question(rng, "exists", kind), _answer(rng, "no", kind=kind), "no", kind)


def _nothing(scene: Scene, rng: random.Random) -> Pair | None:
    empty = [cell for cell in range(len(CELLS)) if scene.at(cell) is None]
    if not empty:
        return None
    cell = rng.choice(empty)
    question = _question(rng, "nothing", place=place_of(rng, cell))
    answer = rng.choice((f"There is nothing {place_of(rng, cell)}.", "It is nothing."))
    return Pair("conversation", "nothing", question, answer, "nothing", cell=cell)


def _zero(scene: Scene, rng: random.Random) -> Pair:
    kind = absent_kind(scene, rng)
    return Pair("conversation", "zero", _question(rng, "zero", kind), _answer(rng, "zero", kind=kind), "zero", kind)


def _relation(scene: Scene, rng: random.Random) -> Pair | None:
    """Whether a single object lies so to another; half of the answers are "no", and then say how it lies instead."""
    if len(scene.single) < 2:
        return None
    one, other = rng.sample(scene.single, 2)
    true = one.relations(other)
    truth = rng.choice(("yes", "no"))
    asked = rng.choice([name for name in RELATIONS if (name in true) == (truth == "yes")])
    told = asked if truth == "yes" else rng.choice(true)
    question = f"Is the {one.kind} {related(rng, asked)} the {other.kind}?"
    answer = f"{truth.capitalize()}, the {one.kind} is {related(rng, told)} the {other.kind}."
    return Pair("conversation", "relation", question, answer, truth, one.kind, one.cell)


_PROBES: dict[str, Callable[[Scene, random.Random], Pair | None]] = {
    "color": _about_one("color", lambda item: item.color),
    "size": _about_one("size", lambda item: item.size),
    "count": _count,
    "where": _about_one("where", lambda item: CELLS[item.cell]),
    "at": _at,
    "exists": _exists,
    "nothing": _nothing,
    "zero": _zero,
    "relation": _relation,
}


def _place_reasoning(scene: Scene, rng: random.Random) -> Pair:
    question = "What kind of place could this be, and why?"
    typical = [item for item in scene.objects if item.kind in THEMES[scene.theme].kinds]
    if typical:
        reason = " and ".join(describe(item) for item in typical[:2])
        answer = f"This could be a {scene.theme}, because there is {reason}."
    else:
        item = rng.choice(scene.objects)
        answer = f"This could be a {scene.theme}, although {describe(item)} does not belong there."
    return Pair("complex", "place", question, answer)


def _activity_reasoning(scene: Scene, rng: random.Random) -> Pair:
    item = rng.choice(scene.objects)
    question = rng.choice(("What could a person do here?", "What could happen next in this scene?"))
    answer = (
        f"A person could {KINDS[item.kind].activity}, because there is {describe(item)} {place_of(rng, item.cell)}."
    )
    return Pair("complex", "activity", question, answer)


def _oddity_reasoning(scene: Scene, rng: random.Random) -> Pair:
    questions = ("Is there anything unusual in this scene?", "Does everything in this scene belong together?")
    question = rng.choice(questions)
    odd = "unusual" in question
    if scene.strangers:
        item = scene.strangers[0]
        thing = f"{describe(item)} {place_of(rng, item.cell)}"
        answer = f"{'Yes' if odd else 'No'}, there is {thing}, and it does not belong to a {scene.theme}."
    else:
        item = rng.choice(scene.objects)
        thing = f"{describe(item)} {place_of(rng, item.cell)}"
        answer = f"{'No' if odd else 'Yes'}, everything belongs to a {scene.theme}, for example {thing}."
    return Pair("complex", "odd", question, answer)
