"""The world of scenes: true texts pass the checker, planted errors do not, and everything is a function of the seed."""

import errno
import json
import os
import random
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from vigc.cli.root import app
from vigc.scenes import (
    Scene,
    SceneObject,
    check,
    read_answer,
    read_claims,
    read_truth,
    render,
    sample_scene,
    sample_scenes,
    vocabulary,
    write_pair,
    write_probes,
    write_scenes,
)
from vigc.scenes.checker import SORTS
from vigc.scenes.dataset import coco_instances, iterate_rows
from vigc.scenes.language import TOPICS, TYPES
from vigc.scenes.phrases import NUMBERS, PLACES, describe
from vigc.scenes.render import _SHAPES, CELL_SIZE, PICTURE_SIZE, _sprite
from vigc.scenes.vocabulary import later_words, words_of
from vigc.scenes.world import CELLS, COLORS, KINDS, MAX_OBJECTS, MAX_OF_A_KIND, MIN_OBJECTS, SIZES, THEMES

SCENES = sample_scenes(11, 1200, unusual=0.3)


def scene_of(*objects: tuple[str, str, str, int], theme: str = "beach") -> Scene:
    return Scene(0, 0, theme, tuple(SceneObject(*item) for item in objects))


HARBOUR = scene_of(("boat", "red", "small", 0), ("fish", "blue", "large", 4), ("fish", "pink", "small", 8))


# The world


def test_a_scene_is_a_function_of_its_arguments():
    assert sample_scenes(3, 50, 0.5) == sample_scenes(3, 50, 0.5)
    random.seed(1)
    np.random.seed(1)
    assert sample_scene(3, 7, 0.5) == sample_scenes(3, 50, 0.5)[7] == sample_scenes(3, 1, 0.5, start=7)[0]
    assert sample_scene(3, 7) != sample_scene(4, 7) != sample_scene(4, 8)


def test_scenes_keep_to_the_world():
    for scene in SCENES:
        assert MIN_OBJECTS <= len(scene.objects) <= MAX_OBJECTS
        cells = [item.cell for item in scene.objects]
        assert cells == sorted(set(cells))
        assert all(0 <= cell < len(CELLS) for cell in cells)
        assert max(Counter(item.kind for item in scene.objects).values()) <= MAX_OF_A_KIND
        assert {item.color for item in scene.objects} <= set(COLORS)
        assert {item.size for item in scene.objects} <= set(SIZES)


def test_typical_scenes_hold_anchors_and_unusual_ones_do_not():
    typical, unusual = sample_scenes(5, 800, False), sample_scenes(5, 800, True)

    def anchored(scenes):
        held = [kind in {item.kind for item in s.objects} for s in scenes for kind in THEMES[s.theme].anchors]
        return sum(held) / len(held)

    def strange(scenes):
        return sum(len(s.strangers) for s in scenes) / sum(len(s.objects) for s in scenes)

    assert 0.78 < anchored(typical) < 0.86
    assert anchored(unusual) == 0
    assert strange(typical) < 0.25 < 0.5 < strange(unusual)
    assert 0.25 < sum(scene.unusual for scene in SCENES) / len(SCENES) < 0.35


@pytest.mark.parametrize("chance", [-0.1, 1.5])
def test_a_chance_outside_its_range_is_refused(chance):
    with pytest.raises(ValueError, match=f"unusual={chance}.*from 0 to 1"):
        sample_scene(0, 0, chance)


# Pictures


def test_pictures_are_a_function_of_the_scene():
    first, again = render(SCENES[0]), render(replace(SCENES[0]))
    assert first.image.size == (PICTURE_SIZE, PICTURE_SIZE)
    assert first.image.mode == "RGB"
    assert first.image.tobytes() == again.image.tobytes()
    assert first.boxes == again.boxes
    other = replace(SCENES[0], index=SCENES[0].index + 1)
    assert render(other).image.tobytes() != first.image.tobytes()


def test_boxes_frame_what_is_drawn():
    for scene in SCENES[:200]:
        drawn = np.asarray(render(scene).image, dtype=int)
        for item, (x, y, width, height) in zip(scene.objects, render(scene).boxes, strict=True):
            column, row = item.cell % 3, item.cell // 3
            assert column * CELL_SIZE <= x < x + width <= (column + 1) * CELL_SIZE
            assert row * CELL_SIZE <= y < y + height <= (row + 1) * CELL_SIZE
            assert (width > 21 or height > 21) == (item.size == "large")
            # Outside the frame the cell is background: without the object only the noise differs.
            rest = replace(scene, objects=tuple(other for other in scene.objects if other != item))
            difference = np.abs(drawn - np.asarray(render(rest).image, dtype=int)).max(2)
            inside = difference[y : y + height, x : x + width]
            assert inside.mean() > 40


def test_every_kind_has_a_shape_of_its_own():
    assert set(_SHAPES) == set(KINDS)
    for size in SIZES:
        drawn = {kind: np.asarray(_sprite(kind, "red", size), dtype=float) for kind in KINDS}
        for kind, pixels in drawn.items():
            nearest = min(np.abs(pixels - other).mean() for name, other in drawn.items() if name != kind)
            assert nearest > 8, (kind, size)


def test_every_kind_shows_its_color():
    for kind in KINDS:
        for color, value in COLORS.items():
            pixels = np.asarray(_sprite(kind, color, "small"), dtype=float)
            near = (np.abs(pixels[..., :3] - value).max(2) < 40) & (pixels[..., 3] > 200)
            assert near.sum() >= 25, (kind, color)


# Texts


def all_pairs(scene):
    return [write_pair(scene, name, salt) for name in TYPES for salt in range(2)] + write_probes(scene)


def test_the_checker_passes_every_true_text():
    for scene in SCENES:
        for pair in all_pairs(scene):
            report = check(pair.answer, scene, pair.question)
            assert report.claims, pair
            assert not report.mistakes, (pair, report.mistakes)
            assert not report.unfit, (pair, report.unfit)


@pytest.mark.slow
def test_the_checker_passes_very_many_true_texts():
    for scene in sample_scenes(12, 20_000, unusual=0.5):
        for pair in all_pairs(scene):
            report = check(pair.answer, scene, pair.question)
            assert report.claims
            assert not report.mistakes, (pair, report.mistakes)
            assert not report.unfit, (pair, report.unfit)


def test_descriptions_tell_everything_and_no_more():
    for scene in SCENES:
        pair = write_pair(scene, "detail")
        report = check(pair.answer, scene)
        assert not report.missed
        told = [SceneObject(claim.kind, claim.color, claim.size, claim.cell) for claim in report.mentions]
        assert tuple(told) == scene.objects


def test_probes_are_answered_by_their_truth():
    topics = Counter()
    for scene in SCENES:
        for pair in write_probes(scene):
            topics[pair.topic] += 1
            assert read_answer(pair.answer, pair.topic) == pair.truth, pair
            if pair.cell is not None:
                assert scene.at(pair.cell).kind == pair.kind
    assert set(topics) == set(TOPICS)
    assert min(topics.values()) > 0.9 * len(SCENES)


def test_existence_is_balanced_and_truths_vary():
    truths = {topic: Counter() for topic in TOPICS}
    for scene in SCENES:
        for pair in write_probes(scene):
            truths[pair.topic][pair.truth] += 1
    yes = truths["exists"]["yes"] / truths["exists"].total()
    assert 0.46 < yes < 0.54
    assert set(truths["where"]) == set(CELLS)
    assert max(truths["where"].values()) < 0.16 * truths["where"].total()
    assert set(truths["at"]) == set(KINDS)
    assert set(truths["count"]) == {"one", "two", "three"}
    assert truths["count"]["one"] < 0.75 * truths["count"].total()
    # For no kind may the question alone tell the answer.
    asked = {kind: Counter() for kind in KINDS}
    for scene in sample_scenes(13, 6000, unusual=0.3):
        for pair in write_probes(scene):
            if pair.topic == "exists":
                asked[pair.kind][pair.truth] += 1
    assert all(0.2 < counts["yes"] / counts.total() < 0.85 for counts in asked.values()), asked


def test_texts_are_a_function_of_the_scene():
    scene = SCENES[3]
    assert all_pairs(scene) == all_pairs(replace(scene))
    assert len({write_pair(scene, "detail", salt).answer for salt in range(20)}) > 10


def test_the_vocabulary_holds_every_word():
    known = set(vocabulary()) - set(later_words())
    for scene in SCENES:
        for pair in all_pairs(scene):
            assert words_of([pair.question, pair.answer]) <= known


# Planted errors


def other(values, value):
    return next(item for item in values if item != value)


def planted(scene: Scene, item: SceneObject, sort: str) -> str:
    """A text with one error of a sort about an object that is alone of its kind."""
    place = PLACES[item.cell][0]
    shown = {thing.kind for thing in scene.objects}
    absent = next(kind for kind in KINDS if kind not in shown)
    texts = {
        "object": f"There is {describe(replace(item, kind=absent))} {place}.",
        "color": f"There is {describe(replace(item, color=other(COLORS, item.color)))} {place}.",
        "size": f"There is {describe(replace(item, size=other(SIZES, item.size)))} {place}.",
        "place": f"There is {describe(item)} {PLACES[(item.cell + 4) % 9][1]}.",
        "count": f"There are {NUMBERS[4]} {KINDS[item.kind].plural}.",
        "absence": f"No, there is no {item.kind} in the picture.",
        "theme": f"The picture shows a {other(THEMES, scene.theme)}.",
    }
    return texts[sort]


@pytest.mark.parametrize("sort", [sort for sort in SORTS if sort != "relation"])  # see test_crowded.py
def test_the_checker_catches_planted_errors(sort):
    for scene in SCENES[:400]:
        for item in scene.single:
            truth = f"There is {describe(item)} {PLACES[item.cell][1]}."
            report = check(f"{truth} {planted(scene, item, sort)} {truth}", scene)
            assert [mistake.sort for mistake in report.mistakes] == [sort]
            assert report.mistakes[0].claim.sentence == 1
            assert len(report.hallucinated) == (sort == "object")


def test_swapped_attributes_are_errors_though_each_is_in_the_scene():
    assert check("A large blue fish is in the middle.", HARBOUR).mistakes == ()
    swapped = check("A large pink fish is in the middle.", HARBOUR).mistakes
    assert [mistake.sort for mistake in swapped] == ["color"]


@pytest.mark.parametrize(
    ("text", "question", "sorts"),
    [
        ("It is red.", "What color is the boat?", []),
        ("It is blue.", "What color is the boat?", ["color"]),
        ("The boat is red and large.", "", ["size"]),
        ("It is in the top left corner.", "Where is the boat?", []),
        ("It is on the right.", "Where is the boat?", ["place"]),
        ("It is a small red boat.", "What is at the top left?", []),
        ("It is a small red boat.", "What is in the middle?", ["place"]),
        ("Yes.", "Is there a boat in the picture?", []),
        ("Yes.", "Is there a car in the picture?", ["object"]),
        ("No.", "Can you see a boat?", ["absence"]),
        ("No, there is no car.", "", []),
        ("No, there is a red boat.", "", []),
        ("There is no green boat.", "", []),
        ("There are two fishes.", "", []),
        ("There is one fish.", "", ["count"]),
        ("There are three cars.", "", ["object"]),
        ("This is a beach with three objects.", "", []),
        ("This is a beach with four objects.", "", ["count"]),
        ("In the middle there is a red boat on the left.", "", ["place", "place"]),
        ("A red boat and a little pink fish are in the bottom right corner.", "", []),
        ("There is a red boat in the middle and a green car on the right.", "", ["place", "object"]),
        ("The BOAT is RED! The fish in the center is large; a kite is there.", "", ["object"]),
        ("Nothing of the kind.", "", []),
        ("There is nothing on the right.", "", []),
        ("There is nothing in the middle.", "", ["absence"]),
        ("On the right there is nothing, and in the middle there is nothing.", "", ["absence"]),
        ("There is nothing unusual in the middle.", "", []),
        ("It is nothing.", "What is on the right?", []),
        ("It is nothing.", "What is in the middle?", ["absence"]),
        ("There is nothing.", "Which object can you see in the middle?", ["absence"]),
        ("There are zero cars.", "", []),
        ("There are zero fishes.", "", ["count"]),
        ("There are nine fishes.", "", ["count"]),
        ("Both fishes are pink.", "", ["count"]),
        ("One fish is pink and small.", "", []),
        ("One fish is large. One fish is blue. One fish is green.", "", ["count"]),
    ],
)
def test_the_checker_reads_other_wordings(text, question, sorts):
    assert [mistake.sort for mistake in check(text, HARBOUR, question).mistakes] == sorts


def test_claims_hold_all_that_is_said():
    first, second = read_claims("There is a small red boat at the top left. Two blue fishes are there.")
    assert (first.kind, first.color, first.size, first.cell, first.sentence) == ("boat", "red", "small", 0, 0)
    assert (second.kind, second.color, second.count, second.sentence) == ("fish", "blue", 2, 1)


def test_an_unknown_topic_is_refused():
    with pytest.raises(ValueError, match=r"topic='shape'.*where, exists, relation, color"):
        read_answer("It is round.", "shape")


# Folders


def test_llava_layout(tmp_path):
    assert write_scenes(tmp_path / "out", rows=10, seed=2) == {"rows": 10, "scenes": 4}
    folder = tmp_path / "out"
    entries = {name: json.loads((folder / f"{name}.json").read_text()) for name in TYPES}
    assert [len(entries[name]) for name in TYPES] == [4, 3, 3]
    truth = read_truth(folder / "scenes.jsonl")
    for name, listed in entries.items():
        for entry in listed:
            human, answer = entry["conversations"]
            assert human["from"] == "human"
            assert answer["from"] == "gpt"
            assert human["value"].count("<image>") == 1
            assert (folder / "images" / entry["image"]).is_file()
            scene = truth[entry["id"]]
            assert scene == sample_scene(2, scene.index)
            assert not check(answer["value"], scene, human["value"]).mistakes, name
    again = tmp_path / "again"
    write_scenes(again, rows=10, seed=2)
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(again) for path in again.rglob("*") if path.is_file())
    assert all((folder / path).read_bytes() == (again / path).read_bytes() for path in files)


def test_dataset_layout(tmp_path):
    from datasets import load_dataset

    from vigc.processing import TRAIN_FEATURES

    write_scenes(tmp_path / "out", rows=11, seed=4, layout="dataset", unusual=0.5)
    truth = read_truth(tmp_path / "out" / "scenes.jsonl")
    rows = load_dataset(str(tmp_path / "out"), split="train")
    assert len(rows) == 11
    assert set(rows.features) == set(TRAIN_FEATURES)
    assert Counter(rows["type"]) == {"conversation": 4, "detail": 4, "complex": 3}
    for row in rows:
        scene = truth[row["image_id"]]
        assert row["image"].convert("RGB").tobytes() == render(scene).image.tobytes()
        assert not check(row["answers"][0], scene, row["question"]).mistakes
    details = load_dataset(str(tmp_path / "out"), "detail", split="train")
    assert set(details["type"]) == {"detail"}


def test_a_dataset_is_read_as_it_is_now(tmp_path, caplog):
    from datasets import load_dataset

    def read(folder, config=None):
        rows = load_dataset(str(tmp_path / folder), config, split="train")
        return rows["answers"][:]

    def expected(seed, type=None):
        return [[row.pair.answer] for row in iterate_rows(9, seed) if type in (None, row.pair.type)]

    for folder, seed in (("one/rows", 0), ("other/rows", 1), ("again/rows", 2)):
        write_scenes(tmp_path / folder, rows=9, seed=seed, layout="dataset")
        assert sorted(read(folder)) == sorted(expected(seed))
        assert read(folder, "detail") == expected(seed, "detail")
    shutil.rmtree(tmp_path / "one")
    write_scenes(tmp_path / "one" / "rows", rows=9, seed=3, layout="dataset")
    assert sorted(read("one/rows")) == sorted(expected(3))
    assert "malformed" not in caplog.text


def test_coco_file_agrees_with_the_renderer():
    coco = coco_instances(SCENES[:50])
    names = {category["id"]: category["name"] for category in coco["categories"]}
    assert set(names.values()) == set(KINDS)
    assert len({note["id"] for note in coco["annotations"]}) == len(coco["annotations"])
    for scene, image in zip(SCENES[:50], coco["images"], strict=True):
        notes = [note for note in coco["annotations"] if note["image_id"] == image["id"]]
        assert [names[note["category_id"]] for note in notes] == [item.kind for item in scene.objects]
        assert [tuple(note["bbox"]) for note in notes] == list(render(scene).boxes)
        assert all(note["area"] == note["bbox"][2] * note["bbox"][3] for note in notes)


def test_folders_in_use_and_wrong_settings_are_refused(tmp_path):
    (tmp_path / "mine.txt").write_text("kept")
    with pytest.raises(FileExistsError, match="not an empty folder"):
        write_scenes(tmp_path, rows=3)
    with pytest.raises(ValueError, match=r"layout='coco'.*'llava' or 'dataset'"):
        write_scenes(tmp_path / "new", rows=3, layout="coco")
    with pytest.raises(ValueError, match="rows=0"):
        write_scenes(tmp_path / "new", rows=0)
    with pytest.raises(ValueError, match="unusual=2"):
        write_scenes(tmp_path / "new", rows=3, unusual=2)
    assert not (tmp_path / "new").exists()
    damaged = tmp_path / "scenes.jsonl"
    damaged.write_text('{"image_id": "1"}\n')
    with pytest.raises(ValueError, match="line 1 is not a scene"):
        read_truth(damaged)


def test_the_command_writes_a_folder(tmp_path):
    from typer.testing import CliRunner

    from vigc.cli.root import app

    command = ["scenes", "--output", str(tmp_path / "out"), "--rows", "6", "--seed", "3", "--unusual", "0.5"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert "6 rows about 2 scenes" in result.output
    assert len(read_truth(tmp_path / "out" / "scenes.jsonl")) == 2
    again = CliRunner().invoke(app, command)
    assert again.exit_code == 2
    assert "not an empty folder" in again.output


@pytest.mark.parametrize("layout", ["llava", "dataset"])
@pytest.mark.parametrize(("number", "code"), [(errno.ENOSPC, 75), (errno.EROFS, 2)])
def test_a_full_disk_leaves_no_half_folder(tmp_path, monkeypatch, layout, number, code):
    whole, out = tmp_path / "whole" / "out", tmp_path / "new" / "out"
    write_scenes(whole, 6, layout=layout)
    out.mkdir(parents=True)
    write_text = Path.write_text

    def fail(path, *given, **more):  # what is written last: pictures or rows are there
        if path.name == "instances.json":
            raise OSError(number, os.strerror(number), str(path))
        return write_text(path, *given, **more)

    command = ["scenes", "--output", str(out), "--rows", "6", "--layout", layout]
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", fail)
        result = CliRunner().invoke(app, command)
    assert result.exit_code == code and "Traceback" not in result.output
    said = {errno.ENOSPC: "No space left on device", errno.EROFS: "the file system is read-only"}[number]
    assert said in result.stderr.splitlines()[-1]
    assert list(out.parent.iterdir()) == [out] and not any(out.iterdir())
    # What one leaves behind that was killed is in nobody's way.
    (out.with_name(".out.tmp") / "images").mkdir(parents=True)
    assert CliRunner().invoke(app, command).exit_code == 0
    files = {path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert files == {path.relative_to(whole): path.read_bytes() for path in whole.rglob("*") if path.is_file()}
    assert list(out.parent.iterdir()) == [out]
