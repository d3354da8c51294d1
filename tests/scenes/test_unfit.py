"""Reasoning that does not follow, and repetitions: none in true texts (test_scenes.py), and every planted one found."""

import pytest

from vigc.scenes import Scene, SceneObject, check, sample_scenes, write_pair
from vigc.scenes.phrases import PLACES, describe
from vigc.scenes.unfit import UNFIT_SORTS
from vigc.scenes.world import CELLS, KINDS, THEMES

# A beach with a boat, two fishes, and a lamp that does not belong there.
HARBOUR = Scene(
    0,
    0,
    "beach",
    (
        SceneObject("boat", "red", "small", 0),
        SceneObject("fish", "blue", "large", 4),
        SceneObject("lamp", "white", "small", 5),
        SceneObject("fish", "pink", "small", 8),
    ),
)
SHORE = Scene(0, 1, "beach", HARBOUR.objects[:2])
SCENES = sample_scenes(31, 150, unusual=0.3)


def unfit(text, scene=HARBOUR):
    return [(found.sort, found.sentence) for found in check(text, scene).unfit]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A person could sail, because there is a boat.", []),
        ("A person could sail, because there is a lamp.", ["activity"]),
        ("A person could sail and turn on the light, because there is a boat and a lamp.", []),
        ("A person could sail or sleep, because there is a boat.", ["activity"]),
        ("Somebody might go fishing, because of the two fishes.", []),
        ("A person could sail.", []),
        ("A person could sleep.", ["activity"]),
        ("You can see a boat.", []),
        ("A person could read a letter, because there is a lamp.", ["activity"]),
        ("A person could sail, because there is no lamp and a boat.", []),
        ("Beds are for those who sleep.", []),
    ],
)
def test_activities_need_what_is_named(text, expected):
    assert [sort for sort, _ in unfit(text)] == expected


@pytest.mark.parametrize(
    ("text", "scene", "expected"),
    [
        ("This could be a beach, because there is a small red boat.", HARBOUR, 0),
        ("This could be a beach, because there is a boat and a lamp.", HARBOUR, 1),
        ("This could be a beach, because there is a lamp and a clock.", HARBOUR, 2),
        ("This could be a bedroom, because there is a lamp.", HARBOUR, 0),
        ("This could be a bedroom, because there is a boat.", HARBOUR, 1),
        ("This could be a beach, although a lamp does not belong there.", HARBOUR, 0),
        ("This could be a beach, although a boat does not belong there.", HARBOUR, 1),
        ("This could be a beach, because there is a boat, although a lamp does not belong there.", HARBOUR, 0),
        ("This could be a beach, because there is no lamp.", HARBOUR, 0),
        ("Because there is a lamp, this could be a beach.", HARBOUR, 1),
        ("Yes, there is a lamp on the right, and it does not belong to a beach.", HARBOUR, 0),
        ("Yes, there is a fish in the middle, and it doesn't belong to a beach.", HARBOUR, 1),
        ("The boat belongs to a beach.", HARBOUR, 0),
        ("The lamp belongs to a beach.", HARBOUR, 1),
        ("Yes, everything belongs to a beach, for example a boat.", SHORE, 0),
        ("Yes, everything belongs to a beach, for example a lamp.", SHORE, 1),
        ("Yes, everything belongs to a beach, for example a boat.", HARBOUR, 1),
        ("Yes, everything belongs to a beach, for example a lamp.", HARBOUR, 2),
        ("Not everything belongs to a beach.", HARBOUR, 0),
        ("Not everything belongs to a beach.", SHORE, 1),
        ("This is a bedroom. The lamp belongs there.", HARBOUR, 0),
        ("A person could go fishing at this beach, because there is a fish and a lamp.", HARBOUR, 0),
    ],
)
def test_belonging_is_compared_with_the_theme_that_the_text_names(text, scene, expected):
    assert [sort for sort, _ in unfit(text, scene)] == ["belonging"] * expected


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("There is a boat at the top left. There is a fish in the middle.", []),
        ("There is a boat at the top left. A small boat is in the top left corner.", [1]),
        ("There is a boat at the top left. There is a boat on the right.", [1]),
        ("There is a fish in the middle. There is a fish at the bottom right.", []),
        ("A fish is in the middle. A fish is at the bottom right. A fish is at the top.", [2]),
        ("There is a boat. There is a fish. There is a boat.", [2]),
        ("There is one boat. The boat is red. The boat is small.", []),
        ("There is a boat at the top left. The boat at the top left is red. It is small.", []),
        ("There is a boat at the top left. A person could sail, because there is a boat at the top left.", []),
        ("There is a kite at the top left. There is a kite on the right.", []),  # mistakes, but no doubles
        ("A boat is at the top left and a boat is at the top left. A boat is at the top left.", [0, 1]),
    ],
)
def test_doubles_are_found_and_second_sentences_about_one_thing_are_none(text, sentences):
    assert unfit(text) == [("double", sentence) for sentence in sentences]


def planted(scene, item, sort):
    """A sentence with one unfit statement about an object."""
    theme = THEMES[scene.theme]
    strange = item.kind not in theme.kinds
    texts = {
        "activity": f"A person could {next(k.activity for k in KINDS.values() if k.name != item.kind)}, "
        f"because there is {describe(item)} {PLACES[item.cell][0]}.",
        "belonging": f"This could be a {scene.theme}, because there is {describe(item)}."
        if strange
        else f"Yes, there is {describe(item)}, and it does not belong to a {scene.theme}.",
        "double": f"You can see {describe(item)} {PLACES[item.cell][1]}.",
    }
    return texts[sort]


@pytest.mark.parametrize("sort", UNFIT_SORTS)
def test_planted_statements_are_found_in_descriptions(sort):
    for scene in SCENES:
        text = write_pair(scene, "detail").answer
        for item in scene.objects:
            report = check(f"{text} {planted(scene, item, sort)}", scene)
            assert [(found.sort, found.sentence) for found in report.unfit] == [(sort, len(scene.objects) + 1)]
            assert report.unfit[0].said and report.unfit[0].reason
            assert not report.mistakes  # what is said of the image is true


def test_one_object_too_many_is_found_beside_the_wrong_place():
    for scene in SCENES:
        empty = next(cell for cell in range(len(CELLS)) if scene.at(cell) is None)
        text = f"{write_pair(scene, 'detail').answer} There is {describe(scene.objects[0])} {PLACES[empty][0]}."
        report = check(text, scene)
        assert [found.sort for found in report.unfit] == ["double"]
        assert "place" in {mistake.sort for mistake in report.mistakes}
