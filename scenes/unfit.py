"""Finds what is unfit in a text about a scene though each claim may be true: reasons that are none, and repetitions."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from .claims import KIND_OF, SENTENCE, TOKEN, Claim
from .phrases import with_article
from .world import CELLS, KINDS, THEMES, Scene

# The sorts of unfit statements.
UNFIT_SORTS = ("activity", "belonging", "double")

_KIND_FOR = {kind.activity: kind.name for kind in KINDS.values()}
_ACTIVITY = "|".join(sorted(_KIND_FOR, key=len, reverse=True))
_COULD = re.compile(rf"\b(?:could|can|may|might) ((?:(?:, |,? and |,? or )?\b(?:{_ACTIVITY})\b)+)")


@dataclass(frozen=True, slots=True)
class Unfit:
    """A statement that does not follow, or was made before.

    Args:
        sort: One of `UNFIT_SORTS`. "activity": no object that the sentence names allows it. "belonging": a kind is said
            to belong to a theme and does not, or the other way round. "double": the same object or the same sentence
            again, or more objects of a kind, each with its place, than there are.
        sentence: Index of the sentence, from 0.
        said: What the text says.
        reason: Why it is unfit.
    """

    sort: str
    sentence: int
    said: str
    reason: str


def find_unfit(text: str, claims: list[Claim], scene: Scene) -> list[Unfit]:
    """All unfit statements of a text, by sentence.

    Args:
        text: The text.
        claims: Its claims, from `read_claims`.
        scene: The scene that it is about.
    """
    found: list[Unfit] = []
    sentences = SENTENCE.findall(text.lower())
    theme = scene.theme
    for number, sentence in enumerate(sentences):
        words = re.findall("[a-z]+", sentence)
        theme = next((word for word in words if word in THEMES), theme)
        reader = _Reasoning(words, number, theme, scene)
        found += _activities(sentence, number, claims, scene)
        found += reader.belonging()
        if not _COULD.search(sentence):
            found += reader.reasons()
    found += _doubles(sentences, claims, scene)
    return sorted(found, key=lambda unfit: unfit.sentence)


def _activities(sentence: str, number: int, claims: list[Claim], scene: Scene) -> Iterator[Unfit]:
    """Activities that no object named in the sentence allows; if it names none, then no object of the scene."""
    named = {claim.kind for claim in claims if claim.sentence == number and claim.is_mention}
    allowing = named or {item.kind for item in scene.objects}
    for phrase in _COULD.findall(sentence):
        for activity in re.findall(_ACTIVITY, phrase):
            if _KIND_FOR[activity] not in allowing:
                yield Unfit("activity", number, f"could {activity}", f"no {_KIND_FOR[activity]} is named")


class _Reasoning:
    """Reads what a sentence says about kinds that belong to a theme."""

    def __init__(self, words: list[str], number: int, theme: str, scene: Scene) -> None:
        self.words, self.number, self.theme = words, number, theme
        self.kinds = THEMES[theme].kinds
        self.strangers = [item.kind for item in scene.objects if item.kind not in self.kinds]

    def belonging(self) -> Iterator[Unfit]:
        """Kinds that are said to belong and do not, or not to belong and do; and the same of everything."""
        for at, word in enumerate(self.words):
            if word not in ("belong", "belongs"):
                continue
            denied = bool({"not", "t", "never"} & set(self.words[max(0, at - 2) : at]))
            if {"everything", "all"} & set(self.words[:at]):
                if denied != bool(self.strangers):
                    stranger = f"{with_article(self.strangers[0])} does not" if self.strangers else "it all does"
                    yield self._unfit(f"{'not ' if denied else ''}everything belongs", stranger)
                yield from self._misfits(at)
            elif (before := self._nouns(0, at)) and (before[-1] in self.kinds) == denied:
                said, truth = ("does not belong", "it does") if denied else ("belongs", "it does not")
                yield self._unfit(f"{with_article(before[-1])} {said}", truth)

    def reasons(self) -> Iterator[Unfit]:
        """Kinds that are given as the reason for a theme and do not belong to it."""
        if "because" in self.words and set(THEMES) & set(self.words):
            yield from self._misfits(self.words.index("because"))

    def _misfits(self, start: int) -> Iterator[Unfit]:
        for kind in self._nouns(start, self._end(start + 1)):
            if kind not in self.kinds:
                yield self._unfit(f"{with_article(kind)} as in a {self.theme}", "it does not belong there")

    def _end(self, start: int) -> int:
        """Where what begins at a word ends: at the next contrast."""
        ends = (
            at for at in range(start, len(self.words)) if self.words[at] in ("although", "but", "belong", "belongs")
        )
        return next(ends, len(self.words))

    def _nouns(self, start: int, end: int) -> list[str]:
        """The kinds named from one word to another, without those that are denied ("no car")."""
        return [
            KIND_OF[self.words[at]]
            for at in range(start, end)
            if self.words[at] in KIND_OF and "no" not in self.words[max(start, at - 3) : at]
        ]

    def _unfit(self, said: str, reason: str) -> Unfit:
        return Unfit("belonging", self.number, said, reason)


def _doubles(sentences: list[str], claims: list[Claim], scene: Scene) -> Iterator[Unfit]:
    """At most one for each sentence. Only objects that are introduced count: "the boat" may be named many times."""
    said: set[tuple[str, ...]] = set()
    places: set[tuple[str, int]] = set()
    placed: Counter[str] = Counter()
    for number, sentence in enumerate(sentences):
        words = tuple(TOKEN.findall(sentence))
        reasons = ["the same sentence was there before"] if words and words in said else []
        said.add(words)
        for claim in claims:
            if claim.sentence != number or not (claim.introduced and claim.is_mention) or claim.cell is None:
                continue
            placed[claim.kind] += 1
            there = len(scene.of_kind(claim.kind))
            if (claim.kind, claim.cell) in places:
                reasons.append(f"the {claim.kind} at the {CELLS[claim.cell]} was there before")
            elif placed[claim.kind] > there > 0:
                reasons.append(f"the scene has {there}, and this is number {placed[claim.kind]} with a place")
            places.add((claim.kind, claim.cell))
        if reasons:
            yield Unfit("double", number, sentence.strip(), reasons[0])
