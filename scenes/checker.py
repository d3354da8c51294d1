"""Extracts the claims of a text about a scene, and finds the false ones.

The checker knows the vocabulary, not the sentence templates of `language.py`, so it also reads generated texts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace

from .language import NUMBERS
from .world import CELLS, COLORS, KINDS, SIZES, THEMES, Scene, SceneObject

# The sorts of mistakes.
SORTS = ("object", "color", "size", "place", "count", "absence", "theme")

_KIND_OF = {word: kind.name for kind in KINDS.values() for word in (kind.name, kind.plural)}
_SIZE_OF = {**{size: size for size in SIZES}, "little": "small", "big": "large"}
_NUMBER_OF = {word: number for number, word in enumerate(NUMBERS)}
_ROWS = {"top": 0, "upper": 0, "bottom": 2, "lower": 2}
_COLUMNS = {"left": 0, "right": 2}
_CENTER = {"middle", "center"}
_PLACE_WORDS = {*_ROWS, *_COLUMNS, *_CENTER, "the", "corner", "side", "part", "half", "of", "picture", "hand"}
_PREPOSITIONS = {"in", "at", "on", "to"}
_SENTENCE = re.compile(r"[^.!?]+")
_TOKEN = re.compile(r"[a-z]+|[,;:]")


@dataclass(frozen=True, slots=True)
class Claim:
    """One statement of a text.

    Args:
        kind: A kind of object, "object" for objects of any kind, or "" for the whole scene (then `theme` is set).
        color: Its colour, if stated.
        size: Its size, if stated.
        cell: Index of its cell, if stated.
        count: The number of such objects, if stated.
        present: False if the text denies that there is one.
        theme: The theme of the scene, if stated.
        sentence: Index of the sentence, from 0.
    """

    kind: str
    color: str | None = None
    size: str | None = None
    cell: int | None = None
    count: int | None = None
    present: bool = True
    theme: str | None = None
    sentence: int = 0

    @property
    def is_mention(self) -> bool:
        """Whether the claim mentions an object of a kind as present. CHAIR counts these."""
        return self.kind in KINDS and self.present and self.count != 0


@dataclass(frozen=True, slots=True)
class Mistake:
    """A false claim: its sort (one of `SORTS`), what the text said, and the truth."""

    claim: Claim
    sort: str
    said: str
    truth: str


@dataclass(frozen=True, slots=True)
class Report:
    """The claims of a text about a scene, and its mistakes.

    Args:
        claims: All claims, in the order of the text.
        mistakes: One for each false statement; a claim may have several.
        covered: The scene's kinds that the text mentions.
        missed: The scene's kinds that the text does not mention.
    """

    claims: tuple[Claim, ...]
    mistakes: tuple[Mistake, ...]
    covered: frozenset[str]
    missed: frozenset[str]

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
    return Report(tuple(claims), tuple(mistakes), frozenset(shown & mentioned), frozenset(shown - mentioned))


def read_claims(text: str, question: str = "") -> list[Claim]:
    """All claims of a text, in order."""
    subject = _subject(question)
    claims: list[Claim] = []
    for number, sentence in enumerate(_SENTENCE.findall(text.lower())):
        found = _Sentence(number, subject).read(_TOKEN.findall(sentence))
        claims += found
        named = [claim for claim in found if claim.kind in KINDS]
        subject = Claim(named[-1].kind) if named else subject
    bare = re.match(r"\s*(yes|no)\b", text.lower())
    if not claims and subject and bare and re.match(r"\s*(is there|can)\b", question.lower()):
        claims.append(replace(subject, present=bare[1] == "yes"))
    return claims


def read_answer(text: str, topic: str) -> str | None:
    """The word that decides whether an answer to a probing question of `topic` is correct; None if there is none.

    The word is to be compared with `Pair.truth`: it is the first colour, size, number, place or kind in the text, or
    its "yes" or "no".
    """
    words = re.findall(r"[a-z]+", text.lower())
    if topic == "where":
        places = [place for at in range(len(words)) if (place := _read_place(words, at)) is not None]
        return CELLS[places[0][0]] if places else None
    if topic == "exists":
        return words[0] if words and words[0] in ("yes", "no") else None
    known: dict[str, dict[str, str]] = {
        "color": {color: color for color in COLORS},
        "size": _SIZE_OF,
        "count": {number: number for number in NUMBERS},
        "at": _KIND_OF,
    }
    if topic not in known:
        raise ValueError(f"topic={topic!r} is not known: use where, exists, {', '.join(known)}.")
    return next((known[topic][word] for word in words if word in known[topic]), None)


def _subject(question: str) -> Claim | None:
    """The meaning of "it" in an answer: the kind or the cell that the question names."""
    words = re.findall(r"[a-z]+", question.lower())
    for at, word in enumerate(words):
        if word in _KIND_OF:
            return Claim(_KIND_OF[word])
        if (place := _read_place(words, at)) is not None:
            return Claim("", cell=place[0])
    return None


def _read_place(words: list[str], at: int) -> tuple[int, int] | None:
    """The cell named at word `at` ("in the top left corner"), and the index after its words; None if there is none."""
    if words[at] not in _PREPOSITIONS or words[at + 1 : at + 2] != ["the"]:
        return None
    end = at + 1
    while end < len(words) and words[end] in _PLACE_WORDS:
        end += 1
    phrase = words[at:end]
    rows = [_ROWS[word] for word in phrase if word in _ROWS]
    columns = [_COLUMNS[word] for word in phrase if word in _COLUMNS]
    if not (rows or columns or _CENTER & set(phrase)):
        return None
    # "at the top" is in the middle of its row, "on the left" in the middle of its column.
    return (rows or [1])[0] * 3 + (columns or [1])[0], end


@dataclass(slots=True)
class _Sentence:
    """Parses one sentence from left to right: attributes before a noun belong to it, later ones to the last noun."""

    number: int
    subject: Claim | None
    claims: list[Claim] = field(default_factory=list)
    pending: dict[str, object] = field(default_factory=dict)
    about_subject: bool = False

    def read(self, tokens: list[str]) -> list[Claim]:
        at = 0
        while at < len(tokens):
            place = _read_place(tokens, at)
            if place is not None:
                self._place(place[0])
                at = place[1]
                continue
            self._word(tokens[at], tokens[at + 1 : at + 2])
            at += 1
        self._settle()
        return self.claims

    def _word(self, word: str, following: list[str]) -> None:
        if word in _KIND_OF:
            self._noun(_KIND_OF[word])
        elif word == "objects":
            self._noun("object")
        elif word in THEMES:
            self.claims.append(Claim("", theme=word, sentence=self.number))
            self.pending.clear()
        elif word in COLORS:
            self.pending["color"] = word
        elif word in _SIZE_OF:
            self.pending["size"] = _SIZE_OF[word]
        elif word in _NUMBER_OF:
            self.pending["count"] = _NUMBER_OF[word]
        elif word == "no" and following != [","]:
            self.pending["present"] = False
        elif word == "it" and not self._last():
            self.about_subject = self.subject is not None
        elif word in (",", ";", "and", "because", "although"):
            self._settle()

    def _noun(self, kind: str) -> None:
        claim = Claim(kind, sentence=self.number, **self.pending)  # type: ignore[arg-type]
        # "It is a red boat", as the answer about a cell.
        if self.about_subject and self.subject and not self.subject.kind and claim.cell is None:
            claim = replace(claim, cell=self.subject.cell)
        self.claims.append(claim)
        self.pending.clear()
        self.about_subject = False

    def _place(self, cell: int) -> None:
        last = self._last()
        if last is None and not self.about_subject:
            self.pending["cell"] = cell
        elif last is None or last.cell is not None:
            self._settle()
            self._state(cell=cell)
        else:
            self._settle()
            self._add(cell=cell)

    def _settle(self) -> None:
        """Assigns pending attributes without a following noun to the last object: "the boat is red"."""
        stated = {name: value for name, value in self.pending.items() if name in ("color", "size", "count")}
        if stated:
            self._state(**stated)
            for name in stated:
                del self.pending[name]

    def _state(self, **stated: object) -> None:
        """Adds attributes to the last claim; to a new one about the same object, if it has them already."""
        last = self._last()
        if last is not None and all(getattr(last, name) is None for name in stated):
            self._add(**stated)
        elif last is not None or (self.subject and self.subject.kind):
            kind = last.kind if last is not None else self.subject.kind if self.subject else ""
            self.claims.append(Claim(kind, sentence=self.number, **stated))  # type: ignore[arg-type]

    def _add(self, **stated: object) -> None:
        """Adds attributes to the last claim about an object."""
        at = max(index for index, claim in enumerate(self.claims) if claim.kind)
        self.claims[at] = replace(self.claims[at], **stated)  # type: ignore[arg-type]

    def _last(self) -> Claim | None:
        """The last claim about an object in this sentence; None if there is none."""
        named = [claim for claim in self.claims if claim.kind]
        return named[-1] if named else None


def _mistakes(claim: Claim, scene: Scene) -> list[Mistake]:
    if claim.theme is not None:
        return [] if claim.theme == scene.theme else [Mistake(claim, "theme", claim.theme, scene.theme)]
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
