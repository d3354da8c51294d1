"""CHAIR: objects that a text mentions but the image does not show."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import datasets
import evaluate
import numpy as np

_DESCRIPTION = """\
CHAIR, Caption Hallucination Assessment with Image Relevance (Rohrbach et al., 2018, https://arxiv.org/abs/1809.02156).
Names of known object categories (or their synonyms) in a text are mentions. A mention is hallucinated if the image has
no object of its category.

    CHAIR_s = texts with a hallucinated object / texts
    CHAIR_i = hallucinated mentions / mentions
    recall  = categories in the images that their texts mention / categories in the images

Every mention counts, also in a negation, as in the original. The built-in synonyms of COCO's 80 categories differ from
the original's: to compare with published results, pass the original's `synonyms.txt`. Plurals are recognised.
"""
_CITATION = """\
@inproceedings{rohrbach2018chair,
  title = {Object Hallucination in Image Captioning},
  author = {Rohrbach, Anna and Hendricks, Lisa Anne and Burns, Kaylee and Darrell, Trevor and Saenko, Kate},
  booktitle = {EMNLP},
  year = {2018}
}
"""
_INPUTS = """
Args:
    predictions (list of str): A text about each image.
    references (list of list of str): The object categories in each image, by any of their names.
    synonyms (list of list of str, optional): For each category its name and its synonyms; by default COCO's 80
        categories.

Returns (in %, 0 to 100, but for `words`; NaN where undefined):
    CHAIR_s (float), CHAIR_i (float): As above; lower is better.
    recall (float): As above; higher is better.
    words (float): Mean length of the texts in words; longer texts hallucinate more.

Examples:
    >>> metric = evaluate.load("chair")
    >>> metric.compute(predictions=["A man with two dogs."], references=[["person", "bench"]])
    {'CHAIR_s': 100.0, 'CHAIR_i': 50.0, 'recall': 50.0, 'words': 5.0}
"""

# COCO's categories with synonyms.
COCO = """
person, man, woman, boy, girl, child, kid, baby, toddler, adult, lady, guy, gentleman, people, male, female, player,
    rider, skier, snowboarder, surfer, skater, skateboarder, cyclist, passenger, pedestrian, worker, driver, chef,
    officer, policeman, batter, pitcher, catcher, umpire, mother, father, couple, crowd, student, teenager, soldier,
    bride, groom
bicycle, bike, tricycle
car, automobile, taxi, cab, van, minivan, suv, sedan, jeep, limousine
motorcycle, motorbike, motor bike, scooter, moped
airplane, aeroplane, plane, air plane, aircraft, jet, jetliner, airliner, biplane
bus, minibus, trolley, coach bus
train, locomotive, tram
truck, lorry, pickup, firetruck, fire truck
boat, ship, sailboat, motorboat, canoe, kayak, yacht, ferry, rowboat, raft, vessel, barge, speedboat
traffic light, stoplight, stop light, traffic signal
fire hydrant, hydrant
stop sign
parking meter
bench, pew
bird, duck, goose, seagull, gull, pigeon, parrot, owl, swan, sparrow, eagle, hawk, crow, rooster, chicken, hen,
    flamingo, peacock, pelican, heron, ostrich
cat, kitten, kitty, tabby
dog, puppy, pup, hound, terrier, poodle, bulldog, retriever, labrador, beagle
horse, pony, foal, colt, mare, stallion
sheep, lamb, goat, ram, ewe
cow, cattle, calf, bull, ox, bison, buffalo
elephant
bear, panda
zebra
giraffe
backpack, knapsack, rucksack
umbrella, parasol
handbag, purse, hand bag
tie, necktie, bow tie, bowtie
suitcase, luggage, suit case, briefcase
frisbee
skis, ski
snowboard
sports ball, ball, baseball, football, basketball, soccer ball, tennis ball, volleyball
kite
baseball bat, bat
baseball glove, mitt
skateboard, longboard
surfboard, surf board
tennis racket, racket, racquet
bottle
wine glass, wineglass
cup, mug, teacup
fork
knife, pocketknife
spoon
bowl
banana
apple
sandwich, burger, hamburger, cheeseburger
orange
broccoli
carrot
hot dog, hotdog
pizza
donut, doughnut
cake, cupcake, cheesecake
chair, stool, armchair, seat
couch, sofa, loveseat
potted plant, houseplant, pot plant
bed
dining table, table, desk
toilet, urinal
tv, television, television set, tv set, monitor
laptop, notebook computer, laptop computer
mouse, computer mouse
remote, remote control
keyboard
cell phone, cellphone, mobile phone, phone, smartphone, telephone
microwave, microwave oven
oven, stove
toaster
sink
refrigerator, fridge, freezer
book
clock, watch
vase
scissors
teddy bear, teddy, stuffed bear
hair drier, hair dryer, hairdryer, blow dryer
toothbrush, tooth brush
"""
# Phrases that contain the name of an object but mean another object, or none: mapped to what they mean.
_PHRASES = {
    "toilet seat": "toilet",
    "seat of the toilet": "toilet",
    "train track": None,
    "home plate": None,
    "computer keyboard": "keyboard",
    "baseball player": "person",
    "baseball game": None,
    "baseball field": None,
    "tennis player": "person",
    "soccer player": "person",
    "orange juice": None,
}
_ANIMALS = ("bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe")
_VEHICLES = ("train", "jet", "plane", "car", "bus", "boat", "ship", "truck")
_IRREGULAR = {
    "person": "people",
    "child": "children",
    "mouse": "mice",
    "goose": "geese",
    "ox": "oxen",
    "calf": "calves",
}
_IRREGULAR |= {"knife": "knives", "leaf": "leaves", "shelf": "shelves", "scarf": "scarves", "wolf": "wolves"}
_WORD = re.compile(r"[^\W_]+(?:['’][^\W\d_]+)?")


class Vocabulary:
    """Finds names of object categories in texts.

    Only the categories in `groups` count. Names of other categories prevent words in them from being counted: a hot dog
    is not a dog, even if hot dogs are not a category.

    Args:
        groups: For each category its name and its synonyms, of one or more words; by default those of COCO.
        shields: Further categories that only prevent words from being counted, in addition to COCO's.

    Raises:
        ValueError: A group has no names.
    """

    def __init__(self, groups: Iterable[Sequence[str]] | None = None, shields: Iterable[Sequence[str]] = ()) -> None:
        listed = [list(group) for group in (coco_synonyms() if groups is None else groups)]
        if not listed or not all(group and all(isinstance(name, str) and name for name in group) for group in listed):
            raise ValueError("Each kind of object needs a list of names, its own first: [['dog', 'puppy'], ['cat']].")
        self.kinds = [" ".join(_words(group[0])) for group in listed]
        self.names: dict[str, str] = {}
        for kind, group in zip(self.kinds, listed, strict=True):
            for name in group:
                self.names.setdefault(" ".join(_words(name)), kind)
        # The name of a category is never a synonym of another one.
        self.names |= {kind: kind for kind in self.kinds}
        self._forms: dict[tuple[str, ...], str | None] = {}
        self._add(self.names)
        self._shield([*coco_synonyms(), *shields])
        self._longest = max(map(len, self._forms))

    def _add(self, names: Mapping[str, str | None]) -> None:
        """Adds names and their plurals. A plural does not override a name, and existing entries are kept."""
        forms = {tuple(name.split()): meant for name, meant in names.items()}
        for name, meant in names.items():
            for form in _forms_of(name):
                forms.setdefault(tuple(form.split()), meant)
        self._forms = {**forms, **self._forms}

    def _shield(self, groups: Iterable[Sequence[str]]) -> None:
        """Adds names of several words that contain a known name but mean another object, such as "hot dog"."""
        others = [[" ".join(_words(name)) for name in group] for group in groups if group]
        found = self._meant_by_phrases({name: group for group in others for name in group})
        for group in others:
            if group[0] not in self.names:
                found |= {name: None for name in group if not self._is_kind_of(name, group)}
        self._add({name: meant for name, meant in found.items() if " " in name and name not in self.names})

    def _meant_by_phrases(self, groups: Mapping[str, Sequence[str]]) -> dict[str, str | None]:
        """The category that each phrase in `_PHRASES` means, or None.

        Args:
            groups: All names of a category, by each of its names.
        """
        phrases = {phrase: meant for phrase, meant in _PHRASES.items() if phrase not in self.names}
        for modifiers, nouns in ((("baby", "adult"), _ANIMALS), (("passenger",), _VEHICLES)):
            phrases |= {f"{word} {noun}": noun for noun in nouns for word in modifiers}
        found: dict[str, str | None] = {}
        for phrase, meant in phrases.items():
            own = None if meant is None else self._forms.get((meant,))
            if own is not None or not self._is_kind_of(phrase, groups.get(meant or "", ())):
                found[phrase] = own
        return found

    def _is_kind_of(self, name: str, group: Iterable[str]) -> bool:
        """Whether a name contains a shorter known name of its group: "cell phone", if "phone" is known."""
        forms = {form for other in group if other != name for form in _forms_of(other)}
        words = name.split()
        parts = (words[at:end] for at in range(len(words)) for end in range(at + 1, len(words) + 1))
        return any(tuple(part) in self._forms and " ".join(part) in forms for part in parts)

    def mentions(self, text: str) -> list[str]:
        """The categories of all mentions in a text, in their order; the longest name is matched."""
        words = _words(text)
        found: list[str] = []
        at = 0
        while at < len(words):
            for size in range(min(self._longest, len(words) - at), 0, -1):
                name = tuple(words[at : at + size])
                if name in self._forms:
                    kind = self._forms[name]
                    found += [] if kind is None else [kind]
                    at += size
                    break
            else:
                at += 1
        return found

    def kind(self, name: str) -> str:
        """The category of a name or synonym.

        Raises:
            ValueError: The name is unknown.
        """
        key = " ".join(_words(name))
        if key not in self.names:
            raise ValueError(
                f"The object {name!r} is not among the known kinds: add it to synonyms=, with its synonyms."
            )
        return self.names[key]


def coco_synonyms() -> list[list[str]]:
    """COCO's categories, each followed by its synonyms."""
    return [[name.strip() for name in line.split(",")] for line in re.sub(r",\n +", ", ", COCO).strip().splitlines()]


def _words(text: str) -> list[str]:
    """Lower-case words, split at hyphens and without possessive endings."""
    return [re.sub(r"['’]s?$", "", word) for word in _WORD.findall(text.lower())]


def _forms_of(name: str) -> set[str]:
    """A name and its plurals; for a plural also the singular."""
    head, _, last = name.rpartition(" ")
    endings = {last, f"{last}s"}
    if last in _IRREGULAR:
        endings.add(_IRREGULAR[last])
    if last.endswith("man"):
        endings.add(f"{last[:-3]}men")
    if last.endswith(("s", "x", "z", "ch", "sh", "o")):
        endings.add(f"{last}es")
    if re.search(r"[^aeiou]y$", last):
        endings.add(f"{last[:-1]}ies")
    if re.search(r"[^su]s$", last):
        endings.add(last[:-1])
    return {f"{head} {ending}".strip() for ending in endings}


def counts(prediction: str, reference: Iterable[str], vocabulary: Vocabulary) -> dict[str, float]:
    """The counts of one text for [`figures`].

    Args:
        prediction: The text.
        reference: Names of the object categories in its image.
        vocabulary: The vocabulary of these names.

    Raises:
        ValueError: The vocabulary does not have a name.
    """
    shown = {vocabulary.kind(name) for name in reference}
    mentions = vocabulary.mentions(prediction)
    hallucinated = [kind for kind in mentions if kind not in shown]
    return {
        "texts": 1,
        "texts_hallucinated": bool(hallucinated),
        "mentions": len(mentions),
        "mentions_hallucinated": len(hallucinated),
        "kinds": len(shown),
        "kinds_mentioned": len(shown & set(mentions)),
        "words": len(_words(prediction)),
    }


def figures(sums: Mapping[str, Any]) -> dict[str, float | np.ndarray]:
    """The metrics from summed [`counts`]: numbers give numbers, arrays (of many sums) give arrays of their shape."""
    return {
        "CHAIR_s": _percent(sums["texts_hallucinated"], sums["texts"]),
        "CHAIR_i": _percent(sums["mentions_hallucinated"], sums["mentions"]),
        "recall": _percent(sums["kinds_mentioned"], sums["kinds"]),
        "words": _percent(sums["words"], sums["texts"]) / 100,
    }


def _percent(part: Any, whole: Any) -> Any:
    part, whole = np.asarray(part, float), np.asarray(whole, float)
    return np.divide(100 * part, whole, out=np.full_like(whole, np.nan), where=whole != 0)


class Chair(evaluate.Metric):
    """CHAIR as an `evaluate` module."""

    def _info(self) -> evaluate.MetricInfo:
        features = {"predictions": datasets.Value("string"), "references": datasets.Sequence(datasets.Value("string"))}
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features(features),
            reference_urls=["https://github.com/LisaAnne/Hallucination"],
        )

    def _compute(
        self, predictions: list[str], references: list[list[str]], synonyms: list[list[str]] | None = None
    ) -> dict[str, float]:
        if not predictions:
            raise ValueError("There are no predictions: give one for each reference.")
        vocabulary = Vocabulary(synonyms)
        rows = [counts(*pair, vocabulary) for pair in zip(predictions, references, strict=True)]
        sums = {name: sum(row[name] for row in rows) for name in rows[0]}
        return {name: float(value) for name, value in figures(sums).items()}
