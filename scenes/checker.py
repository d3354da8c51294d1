"""Compares the claims of a text about a scene with the truth, and reads answers to probing questions.

`mistakes` are visual: claims that the image contradicts. `unfit` is reasoning that does not follow, and repetition.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from .claims import KIND_OF, SIZE_OF, Claim, read_claims, read_place
from .phrases import NUMBERS
from .unfit import Unfit, find_unfit
from .world import CELLS, COLORS, KINDS, Scene, SceneObject

# The sorts of mistakes.
SORTS = ("object", "color", "size", "place", "count", "absence", "theme", "relation")


@dataclass(frozen=True, slots=True)
class Mistake:
    """A false claim: its sort (one of `SORTS`), what the text said, and the truth."""

    claim: Claim
    sort: str
    said: str
    truth: str


@dataclass(frozen=True, slots=True)
class Report:
    """The claims of a text about a scene, its mistakes, and what is unfit in it.

    Args:
        claims: All claims, in the order of the text.
        mistakes: One for each false statement; a claim may have several.
        covered: The scene's kinds that the text mentions.
        missed: The scene's kinds that the text does not mention.
        unfit: What does not follow, or is said twice, whether it is true or false.
    """

    claims: tuple[Claim, ...]
    mistakes: tuple[Mistake, ...]
    covered: frozenset[str]
    missed: frozenset[str]
    unfit: tuple[Unfit, ...] = ()

    @property
    def mentions(self) -> list[Claim]:
        """The claims that mention an object as present."""
        return [claim for claim in self.claims if claim.is_mention]

    @property
    def hallucinated(self) -> list[Claim]:
        """The mentions of kinds that the scene does not contain."""
        return [mistake.claim for mistake in self.mistakes if mistake.sort == "object"]


def check(text: str, scene: Scene, question: str = "") -> Report:
    """Compares a text with the scene. The question resolves "It is red." and a bare "Yes."."""
    claims = read_claims(text, question)
    mistakes = [mistake for claim in claims for mistake in _mistakes(claim, scene)]
    shown = {item.kind for item in scene.objects}
    mentioned = {claim.kind for claim in claims if claim.is_mention}
    covered, missed = frozenset(shown & mentioned), frozenset(shown - mentioned)
    return Report(tuple(claims), tuple(mistakes), covered, missed, tuple(find_unfit(text, claims, scene)))


def read_answer(text: str, topic: str) -> str | None:
    """The word that decides whether an answer to a probing question of `topic` is correct; None if there is none.

    The word is to be compared with `Pair.truth`: it is the first colour, size, number, place or kind in the text, or
    its "yes" or "no".
    """
    words = re.findall(r"[a-z]+", text.lower())
    if topic == "where":
        places = [place for at in range(len(words)) if (place := read_place(words, at)) is not None]
        return CELLS[places[0][0]] if places else None
    if topic in ("exists", "relation"):
        return words[0] if words and words[0] in ("yes", "no") else None
    numbers = {number: number for number in NUMBERS}
    known: dict[str, dict[str, str]] = {
        "color": {color: color for color in COLORS},
        "size": SIZE_OF,
        "count": numbers,
        "at": KIND_OF,
        "nothing": {**KIND_OF, "nothing": "nothing"},
        "zero": {**numbers, "no": "zero", "none": "zero"},
    }
    if topic not in known:
        raise ValueError(f"topic={topic!r} is not known: use where, exists, relation, {', '.join(known)}.")
    return next((known[topic][word] for word in words if word in known[topic]), None)


def _mistakes(claim: Claim, scene: Scene) -> list[Mistake]:
    if claim.theme is not None:
        return [] if claim.theme == scene.theme else [Mistake(claim, "theme", claim.theme, scene.theme)]
    if claim.relation is not None:
        return _wrong_relation(claim, scene)
    alike = list(scene.objects) if claim.kind == "object" else scene.of_kind(claim.kind)
    if not claim.present:
        denied = _fitting(claim, alike)
        return [Mistake(claim, "absence", f"no {claim.kind}", f"{len(denied)} of them")] if denied else []
    if claim.count is not None and claim.count != len(_fitting(claim, alike)):
        wrong = "object" if not alike and claim.kind in KINDS else "count"
        return [Mistake(claim, wrong, f"{claim.count} {claim.kind}", str(len(alike)))]
    if claim.count is not None:
        return []
    if not alike:
        return [Mistake(claim, "object", claim.kind, "none")]
    return min((_differences(claim, item) for item in alike), key=len)


def _wrong_relation(claim: Claim, scene: Scene) -> list[Mistake]:
    """The mistake if no object of the kind lies so to one of the other kind, or, where that is denied, if one does."""
    pairs = [(one, other) for one in scene.of_kind(claim.kind) for other in scene.of_kind(claim.other) if one != other]
    true = {name for one, other in pairs for name in one.relations(other)}
    if not pairs or (claim.relation in true) == claim.present:
        return []
    said = f"{'' if claim.present else 'not '}{claim.relation} {claim.other}"
    return [Mistake(claim, "relation", said, ", ".join(sorted(true)))]


def _fitting(claim: Claim, items: list[SceneObject]) -> list[SceneObject]:
    return [item for item in items if not _differences(claim, item)]


def _differences(claim: Claim, item: SceneObject) -> list[Mistake]:
    """The attributes in which a claim differs from an object."""
    found = []
    if claim.color not in (None, item.color):
        found.append(Mistake(claim, "color", str(claim.color), item.color))
    if claim.size not in (None, item.size):
        found.append(Mistake(claim, "size", str(claim.size), item.size))
    if claim.cell is not None and claim.cell != item.cell:
        found.append(Mistake(claim, "place", CELLS[claim.cell], CELLS[item.cell]))
    return found
