"""The vocabulary of the texts about scenes, for a word-level tokenizer."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache

from vigc.processing import INSTRUCTION_TYPES

from .language import FURTHER_TOPICS, TYPES, write_pair, write_probes
from .phrases import NUMBERS, RELATED
from .world import CELLS, COLORS, KINDS, MAX_OBJECTS, SIZES, THEMES, sample_scene

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
    """All words of texts about scenes and of the prompts of the three types, in each capitalization.

    Later words follow all earlier ones, so that words keep their ids: first the words that the embedded model was
    trained on, sorted; then [`later_words`].
    """
    return first_words() + later_words()


@cache
def first_words() -> tuple[str, ...]:
    """The words of scenes that are not crowded, of `TOPICS`, and of the prompts of the three types, sorted.

    The tokenizers in `scenes/vigc_tiny/` have these and no others: [`later_words`] are added when it is trained again.
    """
    return tuple(sorted(_capitalizations(words_of(_first_texts()))))


@cache
def later_words() -> tuple[str, ...]:
    """The words that crowded scenes and `FURTHER_TOPICS` need besides [`first_words`], sorted."""
    return tuple(sorted(_capitalizations(words_of(_later_texts())) - set(first_words())))


@cache
def hyphenated() -> tuple[str, ...]:
    """The words that follow a hyphen ("in-depth"), which have no space before them, sorted."""
    return tuple(sorted({word for text in _first_texts() for word in _BEHIND_HYPHEN.findall(text)}))


def _capitalizations(words: set[str]) -> set[str]:
    # A sentence may start with any word.
    return words | {word.lower() for word in words} | {word.capitalize() for word in words}


@cache
def _first_texts() -> tuple[str, ...]:
    texts = ["Question Answer", " ".join(NUMBERS[: MAX_OBJECTS + 1]), *COLORS, *SIZES, *CELLS, *THEMES]
    for kind in KINDS.values():
        texts += [kind.name, kind.plural, kind.activity]
    for name in TYPES:
        texts += [INSTRUCTION_TYPES[name].prompt, *INSTRUCTION_TYPES[name].paraphrases]
    for index in range(_SCENES):
        scene = sample_scene(0, index, unusual=0.3)
        pairs = [*(write_pair(scene, name) for name in TYPES), *write_probes(scene)]
        texts += [text for pair in pairs for text in (pair.question, pair.answer)]
    return tuple(texts)


@cache
def _later_texts() -> tuple[str, ...]:
    texts = [*NUMBERS, *(phrase for phrases in RELATED.values() for phrase in phrases)]
    for index in range(_SCENES):
        crowded = sample_scene(0, index, unusual=0.3, crowded=True)
        pairs = [write_pair(crowded, name) for name in TYPES]
        for scene in (crowded, sample_scene(0, index, unusual=0.3)):
            pairs += write_probes(scene, topics=FURTHER_TOPICS)
        texts += [text for pair in pairs for text in (pair.question, pair.answer)]
    return tuple(texts)
