"""Splits text into segments: the sentence or paragraph that one step of the Iterative Q-Former keeps."""

from __future__ import annotations

import re
from dataclasses import dataclass

_BLANK_LINE = "\n\n"

# A run of terminators ends a sentence if white space, or a closing quote or bracket, follows. Ideographic full stops
# need no space.
_SENTENCE_END = re.compile(r"""[.!?…]+(?:["'”’)\]]|(?=\s|$))|[。！？]""")
_ABBREVIATION = re.compile(
    r"(?:^|[\s(\"'“‘\[])(?:mr|mrs|ms|dr|prof|st|jr|sr|vs|cf|etc|approx|inc|ltd|e\.g|i\.e|a\.m|p\.m|u\.s|u\.k)\.$", re.I
)
_INITIAL = re.compile(r"(?:^|\s)[A-Z]\.$")
_LIST_NUMBER = re.compile(r"(?:^|\n)\s*\d{1,3}\.$")
_NO_ENDS = (_ABBREVIATION, _INITIAL, _LIST_NUMBER)
_CLOSING = "\"'”’)]"


@dataclass(frozen=True)
class UnitRule:
    """A rule that splits text into segments.

    Args:
        unit: "sentence", or "paragraph" (ends at a blank line).
        split: For sentences: "original" ends one at the first ".", decimals and abbreviations included, as the
            released loop does (`_update` in `vigc/tasks/llava_150k_gen.py`); "safe" ignores those, also ends at "!" and
            "?", and needs to see the next character.
    """

    unit: str = "sentence"
    split: str = "safe"

    @property
    def separator(self) -> str:
        """The separator of two segments of an answer; the released loop puts a space before the blank line."""
        if self.unit == "sentence":
            return " "
        return " " + _BLANK_LINE if self.split == "original" else _BLANK_LINE

    def end(self, text: str, complete: bool) -> int | None:
        """Index after the first segment of `text`, or None if `text` has no end of a segment.

        With `complete=False` more text may follow, and a terminator at the very end does not count yet.
        """
        if self.unit == "paragraph":
            at = text.find(_BLANK_LINE)
            return at if at >= 0 else (len(text) if complete else None)
        if self.split == "original":
            at = text.find(".")
            return at + 1 if at >= 0 else None
        for match in _SENTENCE_END.finditer(text):
            upto = text[: match.end()]
            if match.end() == len(text) and upto[-1] in ".!?…":
                return match.end() if complete else None
            if not any(exception.search(upto.rstrip(_CLOSING)) for exception in _NO_ENDS):
                return match.end()
        return None

    def undecided(self, text: str) -> bool:
        """Whether the next character decides if the end of `text` is the end of a sentence."""
        return self.unit == "sentence" and self.split == "safe" and text.endswith((".", "!", "?", "…"))

    def first(self, text: str) -> str:
        """The first segment of a complete text; "" if it has no end of a segment."""
        at = self.end(text, complete=True)
        return "" if at is None else self._unit(text[:at])

    def split_all(self, text: str) -> list[str]:
        """All segments of a complete text, including text after the last end."""
        units = []
        rest = text.strip()
        while rest:
            at = self.end(rest, complete=True)
            units.append(rest if at is None else self._unit(rest[:at]))
            rest = "" if at is None else rest[at:].strip()
        return units

    def _unit(self, text: str) -> str:
        """Strips a segment; the released loop strips before it appends the full stop again."""
        if self.unit == "sentence" and self.split == "original":
            return text[:-1].strip() + "."
        return text.strip()

    def may_end(self, piece: str) -> bool:
        """Whether a piece of the vocabulary can end a segment (parts of characters can form any)."""
        if _is_part(piece):
            return True
        return "\n" in piece if self.unit == "paragraph" else any(mark in piece for mark in ".!?…。！？")


@dataclass(frozen=True)
class MarkRule:
    """A rule that ends a text after a mark.

    Args:
        mark: The mark, such as "Answer:".
    """

    mark: str

    def end(self, text: str, complete: bool) -> int | None:
        """Index after the first mark, or None if there is none."""
        at = text.find(self.mark)
        return None if at < 0 else at + len(self.mark)

    def undecided(self, text: str) -> bool:
        """Always False: a mark ends the text, whatever follows."""
        return False

    def may_end(self, piece: str) -> bool:
        """Whether a piece of the vocabulary can end with or contain the mark's last character."""
        return _is_part(piece) or self.mark[-1] in piece


def _is_part(piece: str) -> bool:
    """Whether a piece may be only a part of a character."""
    return piece.startswith("<0x") or "\N{REPLACEMENT CHARACTER}" in piece


# The rules that split texts.
Rule = UnitRule | MarkRule
