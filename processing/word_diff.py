"""Word-level diff of a draft and its corrected answer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import SequenceMatcher

# (text, whether only this side has it)
Part = tuple[str, bool]

_WORD = re.compile(r"\w+(?:['’]\w+)*")
# A word or punctuation mark with the white space after it: joined, the pieces are the text.
_PIECE = re.compile(r"(?:\w+(?:['’]\w+)*|[^\w\s])\s*")


def word_differences(draft: str, answer: str) -> tuple[list[Part], list[Part]]:
    """Splits two texts into the parts that both have and the parts that only one has.

    White space is not compared. The parts of each side, joined, are its text without surrounding white space.
    """
    old, new = _PIECE.findall(draft.strip()), _PIECE.findall(answer.strip())
    old_words, new_words = ([piece.rstrip() for piece in pieces] for pieces in (old, new))
    matcher = SequenceMatcher(None, old_words, new_words, autojunk=False)
    before: list[Part] = []
    after: list[Part] = []
    for kind, old_start, old_end, new_start, new_end in matcher.get_opcodes():
        _add(before, old[old_start:old_end], kind != "equal")
        _add(after, new[new_start:new_end], kind != "equal")
    return before, after


def words_changed(draft: str | None, answer: str) -> tuple[int, int]:
    """The numbers of words that only the draft has, and that only the answer has."""
    if draft is None or draft == answer:
        return 0, 0
    before, after = word_differences(draft, answer)
    lost, gained = (sum(len(_WORD.findall(text)) for text, marked in side if marked) for side in (before, after))
    return lost, gained


def _add(parts: list[Part], pieces: Sequence[str], marked: bool) -> None:
    text = "".join(pieces)
    if not text:
        return
    # White space at the end of a marked part is not marked.
    bare = text.rstrip() if marked else text
    parts.append((bare, marked))
    if bare != text:
        parts.append((text[len(bare) :], False))
