"""Samples: shares, draws and crops, each a function of seed, epoch and index, whoever asks and in whatever order."""

import json
import math
import pickle
import random
from collections import Counter

import numpy as np
import pytest
import torch
from datasets import Dataset, Value
from PIL import Image, ImageChops
from training import LONG, rows_of

from vigc.errors import TrainingError
from vigc.processing import GENERATED_FEATURES, INSTRUCTION_TYPES, parse_pair
from vigc.trainer import EvaluationPairs, VigcDataCollator, VigcMixture
from vigc.trainer.augment import augmented, crop_box
from vigc.trainer.epochs import EpochSampler
from vigc.trainer.mixture import Sample
from vigc.trainer.rows import draw_answer, references_of


@pytest.fixture(scope="module")
def images(parity_dir):
    return parity_dir / "images"


@pytest.fixture(scope="module")
def rows(images):
    return [rows_of(images, "detail", 9), rows_of(images, "okvqa", 4), rows_of(images, "conversation", 1)]


def all_samples(mixture, epochs):
    return [mixture[epoch, index] for epoch in range(epochs) for index in range(len(mixture))]


def same(one: Sample, other: Sample) -> bool:
    texts = (one.text, one.target, one.task, one.type) == (other.text, other.target, other.task, other.type)
    return texts and one.image.tobytes() == other.image.tobytes()


def test_data_sets_are_drawn_by_the_square_root_of_their_size(rows):
    assert VigcMixture(rows, samples_per_epoch=60).counts == [30, 20, 10]
    assert VigcMixture(rows).counts == [7, 5, 2]  # 14 rows; the greatest remainders are rounded up
    assert VigcMixture(rows, samples_per_epoch=10, weights=[1, 0, 3]).counts == [3, 0, 7]
    released = {"conversation": 507, "detail": 152, "complex": 277}  # the release's numbers are such roots
    sizes = {"conversation": 257_000, "detail": 23_000, "complex": 77_000}
    assert {kind: round(math.sqrt(size)) for kind, size in sizes.items()} == pytest.approx(released, abs=1)


def test_every_row_comes_as_vig_and_vic_before_any_comes_again(rows):
    mixture = VigcMixture(rows[:1], samples_per_epoch=5, seed=3)
    drawn = [tuple(place[1:]) for epoch in range(18) for place in mixture.plan(epoch).tolist()]
    # The order within an epoch is shuffled, so rounds are compared where epochs and rounds end together.
    assert Counter(drawn) == {(row, task): 5 for row in range(9) for task in range(2)}
    for epochs in range(1, 18):
        counts = Counter(drawn[: 5 * epochs])
        assert max(counts.values()) - min(counts.get((row, task), 0) for row in range(9) for task in range(2)) <= 1
    only = VigcMixture(rows, samples_per_epoch=20, tasks=["vic"])
    assert {sample.task for sample in all_samples(only, 1)} == {"vic"}


def test_draws_depend_on_seed_epoch_and_index_alone(rows):
    settings = {"samples_per_epoch": 12, "prefix_probability": 0.5, "image_size": (56, 56)}
    first = all_samples(VigcMixture(rows, seed=1, **settings), 3)
    random.seed(99), np.random.seed(99), torch.manual_seed(99)
    state = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    mixture = pickle.loads(pickle.dumps(VigcMixture(rows, seed=1, **settings)))
    places = [(epoch, index) for epoch in range(3) for index in range(12)]
    shuffled = random.Random(0).sample(places, len(places))
    again = {place: mixture[place] for place in shuffled}
    assert all(same(again[place], sample) for place, sample in zip(places, first, strict=True))
    assert torch.equal(state[0], torch.get_rng_state()) and state[1] == random.getstate()
    assert state[2] == np.random.get_state()[1].tolist()
    other = all_samples(VigcMixture(rows, seed=2, **settings), 3)
    assert sum(same(one, two) for one, two in zip(first, other, strict=True)) < 4
    # Epochs differ from each other.
    assert sum(same(one, two) for one, two in zip(first[:12], first[12:24], strict=True)) < 4


def test_the_sampler_names_the_epoch(rows):
    sampler = EpochSampler(VigcMixture(rows, samples_per_epoch=4))
    assert list(sampler) == [(0, 0), (0, 1), (0, 2), (0, 3)]
    sampler.epoch = 7
    assert list(sampler)[-1] == (7, 3) and len(sampler) == 4


def test_steps_of_one_length(images):
    rows = rows_of(images, "detail", 40)
    words = [" ".join(["word"] * (1 + 7 * index % 40)) + "." for index in range(40)]
    rows = rows.map(lambda row, index: {"answers": [words[index]]}, with_indices=True)
    mixture = VigcMixture([rows, rows_of(images, "okvqa", 4)], samples_per_epoch=54, seed=5)
    mixed, grouped = EpochSampler(mixture), EpochSampler(mixture, group=4)
    assert list(grouped) == list(EpochSampler(pickle.loads(pickle.dumps(mixture)), group=4))
    assert sorted(grouped) == sorted(mixed) and list(grouped) != list(mixed)

    def spread(sampler):
        lengths = [len(mixture[place].target) for place in sampler]
        steps = [lengths[at : at + 4] for at in range(0, len(lengths), 4)]
        return sum(max(step) - min(step) for step in steps) / len(steps), max(steps[0]) == max(lengths)

    mixture.tasks = ("vic", "vic")  # targets are answers alone, which differ most
    assert spread(grouped)[0] < 0.3 * spread(mixed)[0]
    assert spread(grouped)[1], "the longest samples come first"
    first = list(grouped)
    grouped.epoch = 1
    assert [index for _, index in grouped] != [index for _, index in first]
    # Fewer samples than one step.
    assert len(list(EpochSampler(VigcMixture([rows], samples_per_epoch=3), group=4))) == 3


def test_answers_come_as_often_as_annotators_gave_them(images):
    mixture = VigcMixture([rows_of(images, "okvqa", 4)], samples_per_epoch=400, tasks=["vic"])
    counts = Counter(sample.target for sample in all_samples(mixture, 5))
    shares = {answer: count / 2000 for answer, count in counts.items()}
    assert shares == pytest.approx({"circle": 0.5, "a black square": 0.25, "a red triangle": 0.25}, abs=0.04)


def test_all_wordings_are_used_and_the_inference_prompt_too(images):
    kind = INSTRUCTION_TYPES["okvqa"]
    samples = all_samples(VigcMixture([rows_of(images, "okvqa", 1)], samples_per_epoch=600), 1)
    asked = Counter(sample.text for sample in samples if sample.task == "vig")
    assert set(asked) == {kind.prompt, *kind.paraphrases} and min(asked.values()) > 10
    question = "What is on the left?"
    templates = {text.format(question=question) for text in kind.answer_templates}
    assert {sample.text for sample in samples if sample.task == "vic"} == templates
    for sample in samples:
        if sample.task == "vig":
            assert sample.target.startswith(" Question: ")
            assert parse_pair(sample.target).question == question
    long = all_samples(VigcMixture([rows_of(images, "detail", 4)], tasks=["vic"]), 1)
    assert all(sample.text.endswith("?") and sample.target == LONG[0] for sample in long)


def test_prefixes_are_whole_sentences_moved_to_the_question(images):
    def samples(probability, kind="detail"):
        mixture = VigcMixture([rows_of(images, kind, 4)], samples_per_epoch=300, prefix_probability=probability)
        return [sample for sample in all_samples(mixture, 1) if sample.task == "vic"]

    moved = [sample for sample in samples(0.5) if sample.target != LONG[0]]
    assert 0.4 < len(moved) / 150 < 0.6
    first, second, third = (
        "The image shows two shapes.",
        "There is a blue circle on the left.",
        "It is about 2.5 units wide.",
    )
    assert {(sample.text.split("? ")[1], sample.target) for sample in moved} == {
        (first, f"{second} {third}"),
        (f"{first} {second}", third),
    }
    assert all(sample.target != LONG[0] for sample in samples(1.0))
    assert all(sample.target == LONG[0] for sample in samples(0.0))
    short = samples(1.0, "okvqa")  # one sentence stays whole
    assert {sample.target for sample in short} == {"circle", "a black square", "a red triangle"}


def test_crops_stay_within_their_bounds():
    rng = random.Random(0)
    for width, height in [(640, 480), (480, 640), (50, 50), (333, 21), (1, 1), (3, 900)]:
        for _ in range(300):
            left, top, right, bottom = crop_box(width, height, 0.5, rng)
            assert 0 <= left < right <= width and 0 <= top < bottom <= height
            wide, high = right - left, bottom - top
            if min(width, height) > 40:
                assert 0.49 <= wide * high / (width * height) <= 1.01
                assert 0.73 <= wide / high <= 1.36
    assert crop_box(900, 30, 0.5, rng) == (430, 0, 470, 30)  # none fits: the middle, 4:3


def test_augmented_pictures_are_crops_resized_and_mirrored(images):
    picture = Image.open(sorted(images.glob("*.png"))[0]).convert("RGB")
    mirrored = 0
    for seed in range(40):
        made = augmented(picture, (56, 40), 0.5, random.Random(seed))
        rng = random.Random(seed)
        box = crop_box(*picture.size, 0.5, rng)
        plain = picture.crop(box).resize((56, 40), Image.Resampling.BICUBIC)
        flipped = plain.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        wanted = flipped if rng.random() < 0.5 else plain
        mirrored += wanted is flipped
        assert made.size == (56, 40)
        assert not ImageChops.difference(made, wanted).getbbox()
    assert 10 < mirrored < 30


def test_batches_are_the_processor_s(rows, processor):
    mixture = VigcMixture(rows, samples_per_epoch=6)
    samples = all_samples(mixture, 1)
    batch = VigcDataCollator(processor)(samples)
    expected = processor(
        images=[sample.image for sample in samples],
        text=[sample.text for sample in samples],
        target=[sample.target for sample in samples],
        return_tensors="pt",
    )
    assert set(batch) == {
        "pixel_values", "input_ids", "attention_mask", "labels", "qformer_input_ids", "qformer_attention_mask",
    }  # fmt: skip
    assert all(torch.equal(batch[name], expected[name]) for name in batch)
    assert batch["pixel_values"].shape == (6, 3, 56, 56)


def test_evaluation_asks_as_at_inference(rows, processor):
    pairs = EvaluationPairs(rows)
    assert len(pairs) == 28
    assert pairs.groups == [f"{task}_{kind}" for task in ("vig", "vic") for kind in ("conversation", "detail", "okvqa")]
    samples = [pairs[index] for index in range(28)]
    vig, vic = samples[18], samples[19]
    kind = INSTRUCTION_TYPES["okvqa"]
    assert (vig.text, vig.target) == (kind.prompt, " Question: What is on the left? Answer: circle")
    assert (vic.text, vic.target) == ("Question: What is on the left? Short answer:", "circle")
    assert [pairs.groups[sample.group] for sample in (vig, vic)] == ["vig_okvqa", "vic_okvqa"]
    assert all(same(sample, pairs[index]) for index, sample in enumerate(samples))
    assert VigcDataCollator(processor)(samples[:3])["groups"].tolist() == [1, 4, 1]


def generated_row(images, **changes):
    path = sorted(images.glob("*.png"))[0]
    row = dict.fromkeys(GENERATED_FEATURES)
    row |= {"image": {"bytes": path.read_bytes(), "path": None}, "image_id": "0", "type": "detail", "answers": []}
    return row | {"question": "What is it?", "answer": "A square.", "extra": json.dumps({})} | changes


def test_generated_rows_can_be_trained_on(images, rows):
    generated = Dataset.from_list([generated_row(images), generated_row(images)], features=GENERATED_FEATURES)
    mixture = VigcMixture([generated, rows[0]], samples_per_epoch=20)
    targets = {sample.target for sample in all_samples(mixture, 1) if sample.task == "vic"}
    assert targets == {"A square.", LONG[0]}


@pytest.mark.parametrize("order", [1, -1])
def test_published_and_generated_rows_are_evaluated_together(order, images, rows, processor):
    """Each has a column of answers that the other lacks or leaves null, of whatever type other tools gave it."""
    short = generated_row(images, type="okvqa", answer="red", answers=["red", "blue"], weights=[0.5, 2.0], id="g1")
    generated = [generated_row(images, answers=None, id="g0"), short]
    typed = Dataset.from_list(generated, features=GENERATED_FEATURES)
    columns = {name: [generated[0][name]] for name in ("image", "question", "answer", "answers", "id", "type")}
    untyped = Dataset.from_dict(columns).cast_column("type", Value("large_string"))
    assert untyped.features["answers"] == Value("null")
    parts = [rows[1].remove_columns("weights"), typed, untyped][::order]
    pairs = EvaluationPairs(parts, ["vic"])
    targets = {pairs.rows[index]["id"] or "published": pairs[index].target for index in range(len(pairs))}
    assert len(pairs) == 7 and targets == {"published": "circle", "g0": "A square.", "g1": "blue"}
    assert VigcDataCollator(processor)([pairs[index] for index in range(7)])["pixel_values"].shape[0] == 7
    assert {sample.type for sample in all_samples(VigcMixture(parts), 1)} == {"okvqa", "detail"}


# Weighted answers


def weighted(images, weights, answers=("red", "blue", "red", " ")):
    row = generated_row(images, type="okvqa", answers=list(answers), weights=weights, answer="green", id="heavy")
    return Dataset.from_list([row], features=GENERATED_FEATURES)


def test_answers_are_drawn_in_proportion_to_their_weights(images):
    heavy, alike = (weighted(images, weights).remove_columns("image")[0] for weights in ([1.0, 6.0, 2.0, 90.0], None))
    drawn = Counter(draw_answer(heavy, random.Random(seed)) for seed in range(2000))
    assert drawn["blue"] / 2000 == pytest.approx(2 / 3, abs=0.03) and drawn["red"] + drawn["blue"] == 2000
    assert Counter(draw_answer(alike, random.Random(seed)) for seed in range(2000))["red"] / 2000 == pytest.approx(
        2 / 3, abs=0.03
    )
    mixtures = [VigcMixture([weighted(images, [1.0, 0.0, 2.0, 0.0]), weighted(images, [1.0, 1.0, 0.0, 0.0])],
                            weights=[1, 3], samples_per_epoch=24, tasks=["vic"], seed=3) for _ in range(2)]  # fmt: skip
    targets = [[sample.target for sample in all_samples(mixture, 2)] for mixture in mixtures]
    assert targets[0] == targets[1] and targets[0][:24] != targets[0][24:]
    assert 6 < Counter(targets[0])["blue"] < 30, "half of 36, and none of the other 12"


def test_an_evaluation_takes_the_heaviest_answer(images):
    assert EvaluationPairs([weighted(images, [1.0, 6.0, 2.0, 90.0])])[1].target == "blue"
    assert EvaluationPairs([weighted(images, [4.0, 6.0, 3.0, 90.0])])[1].target == "red", "given twice: 4 + 3"
    heavy, light = (weighted(images, weights).remove_columns("image")[0] for weights in ([1.0, 6.0, 2.0, 9.0], None))
    assert references_of(heavy) == ["red"] * 1 + ["blue"] * 7 + ["red"] * 2, "as ten annotators would have answered"
    assert references_of(light) == ["red", "blue", "red"]


@pytest.mark.parametrize(
    "weights",
    [[1.0], [1.0, -1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 5.0], [math.nan, 1.0, 1.0, 1.0], [math.inf, 1.0, 1.0, 1.0]],
)
def test_weights_that_fit_no_answers_are_refused(weights, images, rows):
    for made in (VigcMixture, EvaluationPairs):
        with pytest.raises(TrainingError, match=r"Dataset 1, row 0: the weights .* of heavy do not fit its 4 answers"):
            made([rows[0], weighted(images, weights)])


def test_a_turn_has_an_order_of_its_own(rows):
    """Half an epoch of a turn: the same rows would come first in every turn."""
    mixture = VigcMixture(rows[:1], samples_per_epoch=9)
    halves = [frozenset(map(tuple, mixture.plan(epoch).tolist())) for epoch in range(0, 20, 2)]
    assert len(set(halves)) == 10
    assert all(first.isdisjoint(map(tuple, mixture.plan(2 * turn + 1).tolist())) for turn, first in enumerate(halves))


def test_data_that_cannot_be_trained_on_is_refused(images, rows, tmp_path):
    with pytest.raises(ValueError, match=r"Dataset 1 has no question, answers, only image"):
        VigcMixture([rows[0], rows[0].remove_columns(["question", "answers"])])
    with pytest.raises(ValueError, match=r"Dataset 0 is empty"):
        VigcMixture([rows[0].select([])])
    with pytest.raises(ValueError, match=r"Unknown task 'poems'"):
        VigcMixture([rows[0].remove_columns("type").add_column("type", ["poems"] * 9)])
    with pytest.raises(ValueError, match=r"weights=\[1\]: give one number, 0 or more, for each of the 3"):
        VigcMixture(rows, weights=[1])
    with pytest.raises(ValueError, match=r"at least one dataset"):
        VigcMixture([])
    silent = Dataset.from_list([generated_row(images, answer=" ")], features=GENERATED_FEATURES)
    with pytest.raises(ValueError, match=r"'What is it\?' .* has no answer: remove this row"):
        VigcMixture([silent])[0, 0]
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"not a picture")
    damaged = Dataset.from_list(
        [generated_row(images, image={"bytes": None, "path": str(broken)})], features=GENERATED_FEATURES
    )
    with pytest.raises(ValueError, match=r"20 rows of dataset 0 .*broken\.png"):
        VigcMixture([damaged])[0, 0]
