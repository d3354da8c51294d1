"""The vocabulary of the texts about scenes, for a word-level tokenizer."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache

from vigc.processing import INSTRUCTION_TYPES

from .language import NUMBERS, TYPES, write_pair, write_probes
from .world import CELLS, COLORS, KINDS, SIZES, THEMES, sample_scene

PUNCTUATION = (".", ",", "?", ":", ";", "!", "-", "'")
_WORD = re.compile(r"[A-Za-z]+")
_BEHIND_HYPHEN = re.compile(r"-([A-Za-z]+)")

# There are few templates, so that this many scenes use all of them.
_SCENES = 600


def words_of(texts: Iterable[str]) -> set[str]:
    """The words of texts, with their capitals."""
    return {word for text in texts for word in _WORD.findall(text)}


@cache
def vocabulary() -> tuple[str, ...]:
    """All words of texts about scenes and of the prompts of the three types, in each capitalization, sorted."""
    words = words_of(_texts())
    # A sentence may start with any word.
    return tuple(sorted(words | {word.lower() for word in words} | {word.capitalize() for word in words}))


@cache
def hyphenated() -> tuple[str, ...]:
    """The words that follow a hyphen ("in-depth"), which have no space before them, sorted."""
    return tuple(sorted({word for text in _texts() for word in _BEHIND_HYPHEN.findall(text)}))


@cache
def _texts() -> tuple[str, ...]:
    texts = ["Question Answer", " ".join(NUMBERS), *COLORS, *SIZES, *CELLS, *THEMES]
    for kind in KINDS.values():
        texts += [kind.name, kind.plural, kind.activity]
    for name in TYPES:
        texts += [INSTRUCTION_TYPES[name].prompt, *INSTRUCTION_TYPES[name].paraphrases]
    for index in range(_SCENES):
        scene = sample_scene(0, index, unusual=0.3)
        pairs = [*(write_pair(scene, name) for name in TYPES), *write_probes(scene)]
        texts += [text for pair in pairs for text in (pair.question, pair.answer)]
    return tuple(texts)
