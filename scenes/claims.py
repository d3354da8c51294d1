"""Reads the claims of a text about a scene.

The reader knows the vocabulary, not the sentence templates of `language.py`, so it also reads generated texts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace

from .phrases import NUMBERS
from .world import COLORS, KINDS, SIZES, THEMES

KIND_OF = {word: kind.name for kind in KINDS.values() for word in (kind.name, kind.plural)}
SIZE_OF = {**{size: size for size in SIZES}, "little": "small", "big": "large"}
SENTENCE = re.compile(r"[^.!?]+")
TOKEN = re.compile(r"[a-z]+|[,;:]")
_NUMBER_OF = {**{word: number for number, word in enumerate(NUMBERS)}, "both": 2}
_ROWS = {"top": 0, "upper": 0, "bottom": 2, "lower": 2}
_COLUMNS = {"left": 0, "right": 2}
_CENTER = {"middle", "center"}
_PLACE_WORDS = {*_ROWS, *_COLUMNS, *_CENTER, "the", "corner", "side", "part", "half", "of", "picture", "hand"}
_PREPOSITIONS = {"in", "at", "on", "to"}
_ABOVE_OR_BELOW = {"above": "above", "below": "below", "under": "below", "beneath": "below"}
_BEFORE_A_NOUN = {"a", "an", "the", *COLORS, *SIZE_OF}
# What follows these words was introduced before, or need not be.
_REASONS = ("because", "although", "since", "example")


@dataclass(frozen=True, slots=True)
class Claim:
    """One statement of a text.

    Args:
        kind: A kind of object, "object" for objects of any kind, or "" for the whole scene (then `theme` is set).
        color: Its colour, if stated.
        size: Its size, if stated.
        cell: Index of its cell, if stated.
        count: The number of such objects, if stated.
        present: False if the text denies that there is one, or that the relation holds.
        theme: The theme of the scene, if stated.
        sentence: Index of the sentence, from 0.
        relation: One of `RELATIONS` in which the object lies to another; the nouns themselves have claims of their own.
        other: The kind of the other object of a relation; else "".
        introduced: Whether an article or a number introduces the object ("a boat"), and not as a reason for something
            else ("because there is a boat"). "The boat" refers to one that is known.
    """

    kind: str
    color: str | None = None
    size: str | None = None
    cell: int | None = None
    count: int | None = None
    present: bool = True
    theme: str | None = None
    sentence: int = 0
    relation: str | None = None
    other: str = ""
    introduced: bool = False

    @property
    def is_mention(self) -> bool:
        """Whether the claim mentions an object of a kind as present. CHAIR counts these."""
        return self.kind in KINDS and self.present and self.count != 0 and self.relation is None


def read_claims(text: str, question: str = "") -> list[Claim]:
    """All claims of a text, in order. The question resolves "It is red." and a bare "Yes."."""
    subject = _subject(question)
    claims: list[Claim] = []
    for number, sentence in enumerate(SENTENCE.findall(text.lower())):
        found = _Sentence(number, subject).read(TOKEN.findall(sentence))
        claims += found
        named = [claim for claim in found if claim.kind in KINDS]
        subject = Claim(named[-1].kind) if named else subject
    bare = re.match(r"\s*(yes|no)\b", text.lower())
    if not claims and subject and bare:
        claims += [replace(claim, present=bare[1] == "yes") for claim in _asked(question.lower(), subject)]
    return claims


def _asked(question: str, subject: Claim) -> list[Claim]:
    """What a bare "Yes." affirms and a bare "No." denies."""
    if re.match(r"\s*(is there|can)\b", question):
        return [subject]
    return [claim for claim in _Sentence(0, None).read(TOKEN.findall(question)) if claim.relation]


def _subject(question: str) -> Claim | None:
    """The meaning of "it" in an answer: the kind or the cell that the question names."""
    words = re.findall(r"[a-z]+", question.lower())
    for at, word in enumerate(words):
        if word in KIND_OF:
            return Claim(KIND_OF[word])
        if (place := read_place(words, at)) is not None:
            return Claim("", cell=place[0])
    return None


def read_place(words: list[str], at: int) -> tuple[int, int] | None:
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


def read_relation(words: list[str], at: int) -> tuple[str, int] | None:
    """The relation stated at word `at` ("to the left of the lamp"), and the index after its words.

    None if there is none, or if no object follows ("to the left of the picture").
    """
    word, end = words[at], at
    if word in _ABOVE_OR_BELOW:
        relation, end = _ABOVE_OR_BELOW[word], at + 1
    else:
        if word in _PREPOSITIONS and words[at + 1 : at + 2] == ["the"]:
            end += 2
        sides = words[end : end + 1]
        end += 1
        while words[end : end + 1] in (["hand"], ["side"]):
            end += 1
        if sides not in (["left"], ["right"]) or words[end : end + 1] != ["of"]:
            return None
        relation, end = f"{sides[0]} of", end + 1
    noun = end
    while noun < len(words) and words[noun] in _BEFORE_A_NOUN:
        noun += 1
    return (relation, end) if noun < len(words) and words[noun] in KIND_OF else None


@dataclass(slots=True)
class _Sentence:
    """Parses one sentence from left to right: attributes before a noun belong to it, later ones to the last noun.

    Args:
        number: The sentence's index.
        subject: The meaning of "it".
        claims: Those read so far.
        pending: Attributes that wait for a noun.
        waiting: A relation that waits for one of its objects, or for both.
        last: Index of the claim that later attributes belong to; None if no object was named.
        about_subject: Whether "it" was read, and no noun after it.
        reason: Whether what follows is a reason or an example.
    """

    number: int
    subject: Claim | None
    claims: list[Claim] = field(default_factory=list)
    pending: dict[str, object] = field(default_factory=dict)
    waiting: Claim | None = None
    last: int | None = None
    about_subject: bool = False
    reason: bool = False

    def read(self, tokens: list[str]) -> list[Claim]:
        at = 0
        while at < len(tokens):
            if (relation := read_relation(tokens, at)) is not None:
                self._relation(relation[0], denied=_is_denied(tokens, at))
                at = relation[1]
            elif (place := read_place(tokens, at)) is not None:
                self._place(place[0])
                at = place[1]
            elif tokens[at] == "nothing":
                at = self._nothing(tokens, at)
            else:
                self._word(tokens[at], tokens[at + 1 : at + 2])
                at += 1
        self._settle()
        # "Left of the lamp", as the answer to where something is.
        if self.number == 0 and self.waiting and self.waiting.other and self.subject and self.subject.kind:
            self.claims.append(replace(self.waiting, kind=self.subject.kind))
        return self.claims

    def _word(self, word: str, following: list[str]) -> None:
        if word in KIND_OF:
            self._noun(KIND_OF[word])
        elif word == "objects":
            self._noun("object")
        elif word in THEMES:
            self.claims.append(Claim("", theme=word, sentence=self.number))
            self.pending.clear()
        elif word in COLORS:
            self.pending["color"] = word
        elif word in SIZE_OF:
            self.pending["size"] = SIZE_OF[word]
        elif word in _NUMBER_OF:
            self.pending |= {"count": _NUMBER_OF[word], "introduced": True}
        elif word in ("a", "an", "the"):
            self.pending["introduced"] = word != "the"
        elif word == "no" and following != [","]:
            self.pending["present"] = False
        elif word == "it" and self.last is None:
            self.about_subject = self.subject is not None
        elif word in (",", ";", "and", *_REASONS):
            self._settle()
            self.reason |= word in _REASONS

    def _noun(self, kind: str) -> None:
        claim = Claim(kind, sentence=self.number, **self.pending)  # type: ignore[arg-type]
        claim = replace(claim, introduced=claim.introduced and not self.reason)
        # "It is a red boat", as the answer about a cell.
        if self.about_subject and self.subject and not self.subject.kind and claim.cell is None:
            claim = replace(claim, cell=self.subject.cell)
        self.claims.append(claim)
        self.pending.clear()
        waiting = self.waiting
        if waiting is not None and waiting.kind:
            # Whatever follows is still about the first of the two objects.
            self.claims.append(replace(waiting, other=kind))
            self.waiting = None
            return
        self.last, self.about_subject = len(self.claims) - 1, False
        if waiting is not None and waiting.other:
            self.claims.append(replace(waiting, kind=kind))
            self.waiting = None
        elif waiting is not None:
            self.waiting = replace(waiting, other=kind)

    def _relation(self, relation: str, denied: bool) -> None:
        self._settle()
        # No kind yet where the relation comes first: "left of the lamp there is a tree".
        named = (self.last is not None or self.about_subject) and self.waiting is None
        kind = self._kind() if named else ""
        if kind in KINDS or not named:
            self.waiting = Claim(kind, present=not denied, sentence=self.number, relation=relation)

    def _nothing(self, tokens: list[str], at: int) -> int:
        """Reads that a place is empty: "nothing in the middle", "it is nothing"; not "nothing unusual"."""
        end = at + 1
        place = read_place(tokens, end) if end < len(tokens) else None
        if place is not None:
            cell, end = place
        elif tokens[end : end + 1] in ([], [","], ["there"]):
            asked = self.subject.cell if self.subject else None
            cell = self.pending.pop("cell", asked)  # type: ignore[assignment]
        else:
            return end
        if cell is not None:
            self.claims.append(Claim("object", cell=cell, present=False, sentence=self.number))
        return end

    def _place(self, cell: int) -> None:
        if self.last is None and not self.about_subject:
            self.pending["cell"] = cell
            return
        self._settle()
        self._state(cell=cell)

    def _settle(self) -> None:
        """Assigns pending attributes without a following noun to the last object: "the boat is red"."""
        stated = {name: value for name, value in self.pending.items() if name in ("color", "size", "count")}
        if stated:
            self._state(**stated)
            for name in stated:
                del self.pending[name]

    def _state(self, **stated: object) -> None:
        """Adds attributes to the last claim; to a new one about the same object, if it has them already."""
        last = None if self.last is None else self.claims[self.last]
        if last is not None and self.last is not None and all(getattr(last, name) is None for name in stated):
            self.claims[self.last] = replace(last, **stated)  # type: ignore[arg-type]
        elif kind := self._kind():
            self.claims.append(Claim(kind, sentence=self.number, **stated))  # type: ignore[arg-type]
            self.last = len(self.claims) - 1

    def _kind(self) -> str:
        """The kind of the last object, else that of "it"; "" if there is neither."""
        if self.last is not None:
            return self.claims[self.last].kind
        return self.subject.kind if self.subject else ""


def _is_denied(words: list[str], at: int) -> bool:
    """Whether "not" or "isn't" is right before word `at`."""
    return words[max(0, at - 1) : at] == ["not"] or words[max(0, at - 2) : at] == ["isn", "t"]
