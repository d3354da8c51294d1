"""The recipe of vigc-tiny: its rows are the processor's, its stages run and leave a model folder that works."""

import shutil
import subprocess
import sys
from importlib import import_module

import forks
import pytest
import torch
from conftest import ROOT
from safetensors.torch import load_file

RECIPE = ROOT / "recipes" / "tiny"
NAMES = ("data", "measure", "model", "stages", "train")


@pytest.fixture(scope="module")
def recipe():
    """The recipe's files, which are scripts beside each other and no package."""
    sys.path.insert(0, str(RECIPE))
    try:
        yield {name: import_module(name) for name in NAMES}
    finally:
        sys.path.remove(str(RECIPE))
        for name in NAMES:
            sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def pictures(recipe):
    return recipe["data"].Pictures.sample(3, 12, 0.3)


@pytest.fixture(scope="module")
def tiny_processor(recipe):
    return recipe["model"].build_processor()


def rows_of(recipe, pictures):
    shares = dict.fromkeys(("color", "where", "exists", "detail", "complex"), 1.0)
    asked = [recipe["data"].question_row(pictures, index, 5, shares) for index in range(6)]
    return asked + [recipe["data"].instruction_row(pictures, index, 5) for index in range(6)]


def test_rows_are_encoded_as_the_processor_does(recipe, pictures, tiny_processor):
    from vigc.scenes import render

    rows = rows_of(recipe, pictures)
    encoder = recipe["data"].Encoder(tiny_processor, pictures)
    ours = {**encoder.qformer(rows), **encoder.language(rows, with_image=True)}
    images = [render(pictures.scenes[row.scene]).image for row in rows]
    prompts, targets = [row.prompt for row in rows], [row.target for row in rows]
    theirs = tiny_processor(images=images, text=prompts, target=targets, return_tensors="pt")
    assert {name: value.tolist() for name, value in ours.items()} == {name: theirs[name].tolist() for name in ours}
    torch.testing.assert_close(pictures.values([row.scene for row in rows]), theirs["pixel_values"])


def test_rows_are_a_function_of_their_number(recipe, pictures):
    assert rows_of(recipe, pictures) == rows_of(recipe, pictures)


def test_texts_survive_the_tokenizer(recipe, pictures, tiny_processor):
    from vigc.processing import parse_pair

    tokenizer = tiny_processor.tokenizer
    for row in rows_of(recipe, pictures):
        for text in (row.prompt, row.target):
            ids = tokenizer(text)["input_ids"]
            assert tokenizer.unk_token_id not in ids
            assert tiny_processor.decode_texts([ids]) == [text.strip()]
        assert (
            tiny_processor.qformer_tokenizer.unk_token_id
            not in tiny_processor.qformer_tokenizer(row.prompt)["input_ids"]
        )
        if not row.focused and row.target.startswith(" Question:"):
            assert parse_pair(row.target).answer == row.pair.answer


def test_the_embedded_tokenizers_are_a_prefix_of_those_that_a_new_training_gets(tiny_processor):
    from vigc.processing import VigcProcessor
    from vigc.scenes import VIGC_TINY
    from vigc.scenes.vocabulary import first_words, later_words, vocabulary

    embedded = VigcProcessor.from_pretrained(VIGC_TINY)
    for name in ("tokenizer", "qformer_tokenizer"):
        old, new = (getattr(processor, name).get_vocab() for processor in (embedded, tiny_processor))
        assert old.items() < new.items() and sorted(new.values()) == list(range(len(new)))
        # Until it is trained again, the embedded model knows none of the later words.
        added = {word.lstrip("▁").lower() for word in new.keys() - old.keys()}
        assert added == {word.lower() for word in later_words()}
    assert vocabulary() == first_words() + later_words() and len(set(vocabulary())) == len(vocabulary())


def test_later_words_survive_the_tokenizer(tiny_processor):
    from vigc.scenes import sample_scene, write_pair, write_probes
    from vigc.scenes.language import FURTHER_TOPICS

    tokenizer = tiny_processor.tokenizer
    for index in range(20):
        scene = sample_scene(6, index, crowded=True)
        for pair in [write_pair(scene, "detail"), *write_probes(scene, topics=FURTHER_TOPICS)]:
            for text in (pair.question, pair.answer):
                ids = tokenizer(text)["input_ids"]
                assert tokenizer.unk_token_id not in ids
                assert tiny_processor.decode_texts([ids]) == [text]
                questions = tiny_processor.qformer_tokenizer
                assert questions.unk_token_id not in questions(text)["input_ids"]


def test_a_prefix_moves_sentences_and_loses_none(recipe, pictures):
    import random

    data = recipe["data"]
    row = data.question_row(pictures, 0, 5, {"detail": 1.0})
    moved = data.prefixed(row, random.Random(1))
    assert moved.target
    assert f"{moved.prompt} {moved.target}" == f"{row.prompt} {row.target}"
    assert moved.prompt != row.prompt


def test_a_prefix_may_ask_for_the_next_sentence_alone(recipe, pictures):
    import random

    data = recipe["data"]
    row = data.question_row(pictures, 0, 5, {"detail": 1.0})
    sentences = row.target.replace(". ", ".\n").split("\n")
    seen = [data.prefixed(row, random.Random(seed), next_only=True) for seed in range(40)]
    expected = {
        (" ".join([row.prompt, *sentences[:cut]]), "".join(sentences[cut : cut + 1]))
        for cut in range(1, len(sentences) + 1)
    }
    assert {(moved.prompt, moved.target) for moved in seen} == expected


def test_descriptions_in_any_order_say_the_same(recipe, pictures):
    import random

    from vigc.processing import parse_pair
    from vigc.scenes import check

    data, reordered = recipe["data"], set()
    rows = [data.question_row(pictures, index, 5, {"detail": 1.0}) for index in range(8)]
    rows += [row for row in rows_of(recipe, pictures) if row.target.startswith(" Question:")]
    for row in rows:
        moved = data.reordered(row, random.Random(2))
        answer = parse_pair(moved.target).answer if row.target.startswith(" Question:") else moved.target
        assert not check(answer, pictures.scenes[row.scene], row.pair.question).mistakes
        assert len(moved.target) == len(row.target)
        reordered |= {row.pair.type} if moved.target != row.target else set()
    assert reordered == {"detail"}


@pytest.mark.parametrize("any_order", [True, False])
def test_longer_descriptions_say_the_same_in_three_sentences_for_each_object(any_order, recipe, pictures):
    import random

    from vigc.processing import parse_pair
    from vigc.scenes import check

    data = recipe["data"]
    rows = [data.question_row(pictures, index, 5, {"detail": 1.0}) for index in range(12)]
    rows += [row for row in rows_of(recipe, pictures) if row.target.startswith(" Question:")]
    changed = set()
    for row in rows:
        scene = pictures.scenes[row.scene]
        plain = data.reordered(row, random.Random(2)) if any_order else row
        longer = data.spelled_out(plain, scene)
        answer = parse_pair(longer.target).answer if row.target.startswith(" Question:") else longer.target
        report = check(answer, scene, row.pair.question)
        assert not report.mistakes and answer == longer.pair.answer
        if row.pair.type == "detail":
            assert not report.missed and answer.count(".") == 1 + 3 * len(scene.objects)
        changed |= {row.pair.type} if longer != plain else set()
    assert changed == {"detail"}


@pytest.mark.parametrize("alike", [True, False])
def test_batches_hold_one_type_if_the_plan_says_so(alike, recipe, pictures, tiny_processor):
    from dataclasses import replace

    train, encoder = recipe["train"], recipe["data"].Encoder(tiny_processor, pictures)
    plan = replace(train.PLAN, alike=alike)
    stage = recipe["stages"].Stage(48, 6, 1e-3)
    make = train._talking_rows(encoder, plan, stage, 5)
    batches = [[make(6 * number + row) for row in range(6)] for number in range(48)]
    types = [{(row.pair.type, row.target == row.pair.answer) for row in batch} for batch in batches]
    assert all(found == {("conversation", True)} for found in types[1::2])
    if alike:
        assert all(len(found) == 1 for found in types[::2])
        written = [("conversation", False), ("detail", False), ("complex", False), ("detail", True), ("complex", True)]
        assert set.union(*types[::2]) == set(written)
    else:
        assert all({whole for _, whole in found} == {True, False} for found in types[::2])


def test_labels_of_queries_are_the_truth(recipe, pictures):
    data = recipe["data"]
    for row in rows_of(recipe, pictures):
        scene = pictures.scenes[row.scene]
        labels = data.query_labels(scene, row, 9)
        fewer = data.query_labels(scene, row, 3)
        assert {name: values if row.focused else values[::3] for name, values in labels.items()} == {
            name: values * 3 if row.focused else values for name, values in fewer.items()
        }
        kinds = [None if item is None else data.KIND_IDS[item.kind] for item in map(scene.at, range(9))]
        if row.focused:
            assert set(labels["answer"]) == {data.TRUTH_IDS[row.pair.truth]}
        else:
            assert labels["kind"] == [data.NO_KIND if kind is None else kind for kind in kinds]
            assert set(labels["answer"]) == {data.IGNORED}


def test_first_weights_can_be_trained(recipe, tiny_processor):
    model = recipe["model"].build_model(tiny_processor, seed=0)
    assert model.query_tokens.std() > 0.5
    assert all(parameter.std() > 1e-3 for parameter in model.parameters() if parameter.dim() > 1)
    assert model.num_parameters() * 2 < 11 * 2**20


def test_sizes_are_those_of_the_plan(recipe):
    processor = recipe["model"].build_processor(queries=2)
    model = recipe["model"].build_model(processor, seed=0, width=32)
    assert model.query_tokens.shape == (1, 2, 32)
    assert processor.encode_prompts(["Where is the boat?"])["input_ids"].eq(model.config.image_token_index).sum() == 2


@pytest.mark.parametrize("scenes", [40, pytest.param(100, marks=pytest.mark.slow)])
def test_the_embedded_model_reaches_its_targets_and_needs_the_picture(recipe, scenes):
    from vigc.modeling_vigc import VigcForConditionalGeneration
    from vigc.processing import VigcProcessor
    from vigc.scenes import VIGC_TINY, sample_scenes

    measure = recipe["measure"]
    model = VigcForConditionalGeneration.from_pretrained(VIGC_TINY, dtype=torch.float32).eval()
    subject = measure.Subject(model, VigcProcessor.from_pretrained(VIGC_TINY))
    found = measure.figures(subject, sample_scenes(measure.HELD_OUT_SEED, scenes))
    missed = {}
    for name, (least, most) in measure.TARGETS.items():
        value, target = found["true"][name], most if least is None else least
        # A share of so few scenes may be two standard errors away from that of all.
        chance = 2 * (target * (100 - target) / scenes) ** 0.5
        if value < target - chance if most is None else value > target + chance:
            missed[name] = (value, target)
        if name != "well-formed" and abs(value - found["wrong"][name]) < 10:
            missed[f"{name}, wrong picture"] = (value, found["wrong"][name])
    assert not missed


def committed(folder, message):
    """The new commit of a repository, as a card names it."""
    git = ["git", "-C", str(folder), "-c", "user.name=Ada", "-c", "user.email=ada@example.org"]
    subprocess.run([*git, "add", "--all"], check=True)
    subprocess.run([*git, "commit", "--quiet", "--allow-empty", "-m", message], check=True)
    return subprocess.run([*git, "describe", "--always"], capture_output=True, text=True, check=True).stdout.strip()


def test_the_build_runs_from_end_to_end_and_goes_on_where_it_was(tmp_path):
    output, kept, recipe = tmp_path / "tiny", tmp_path / "kept", tmp_path / "repository" / "tiny"
    shutil.copytree(RECIPE, recipe, ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run(["git", "init", "--quiet", str(recipe.parent)], check=True)
    commit = committed(recipe.parent, "The recipe")
    command = [recipe / "train.py", "--quick", "--scenes", "6", "--threads", "1"]
    command += ["--output", output, "--checkpoints", kept]
    with open(tmp_path / "errors", "w+") as errors:
        first = forks.popen(*command, stdout=subprocess.PIPE, stderr=errors)
        said = first.stdout.readline()
        later = committed(recipe.parent, "While it is built")
        said += first.communicate()[0]
    assert first.returncode == 0, (tmp_path / "errors").read_text()
    assert "| well-formed |" in said
    card = (output / "README.md").read_text(encoding="utf-8")
    assert f"commit {commit}," in card and later not in card
    weights = (output / "model.safetensors").read_bytes()
    before, after = (load_file(kept / f"{stage}.safetensors") for stage in ("c3", "e"))
    moved = {name.split(".")[0] for name in before if not before[name].equal(after[name])}
    assert moved == {"qformer", "query_tokens", "language_projection"}
    for stage in ("d", "e"):
        (kept / f"{stage}.safetensors").unlink()
    again = forks.run(*command)
    assert again.returncode == 0, again.stderr
    assert (output / "model.safetensors").read_bytes() == weights
    assert sum(path.stat().st_size for path in output.rglob("*") if path.is_file()) < 12 * 10**6

    measured = forks.run(RECIPE / "measure.py", output, "--scenes", "6")
    assert measured.returncode == 0, measured.stderr
    assert "| Figure, % | Typical scenes | Wrong images | Target | Reached | Unusual scenes |" in measured.stdout
