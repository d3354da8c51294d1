"""Running a benchmark: killed and gone on with, scored with intervals, compared, and from the command line."""

import json
import math
import random
import signal
import subprocess
import time
from dataclasses import replace

import benchmark_files as files
import forks
import numpy as np
import pytest
from filelock import FileLock
from huggingface_hub import ModelCard, ModelCardData
from PIL import Image
from stock_vlm import save_stock_encoder_decoder, save_stock_vlm
from typer.testing import CliRunner

from vigc.cli.root import app
from vigc.errors import BusyError, ConflictError, EvaluationError
from vigc.evaluation import (
    BENCHMARKS,
    DataSettings,
    Question,
    Unit,
    compare_results,
    evaluate,
    load_answerer,
    open_benchmark,
    read_eval_results,
)
from vigc.evaluation.benchmarks.base import Option
from vigc.evaluation.benchmarks.predictions import PredictionFile
from vigc.evaluation.intervals import differences, with_intervals
from vigc.scenes import VIGC_TINY, read_truth, write_pair, write_scenes
from vigc.scenes.checker import check, read_answer


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluation") / "scenes"
    write_scenes(folder, 90, seed=21)
    return folder


@pytest.fixture(scope="module")
def tiny():
    return load_answerer(VIGC_TINY, settings={"max_new_tokens": 96})


@pytest.fixture(scope="module")
def stock_folder(tmp_path_factory):
    return save_stock_vlm(tmp_path_factory.mktemp("stock") / "stock-vlm")


@pytest.fixture(scope="module")
def stock(stock_folder):
    return load_answerer(stock_folder, settings={"max_new_tokens": 8})


def call(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def given(path, texts):
    files.write_lines(path, [{"question_id": key, "text": text} for key, text in texts.items()])
    return path


def values(results):
    return {name: figure.value for name, figure in results.figures.items()}


# The world's truth. Evaluation and scenes do not know each other: they meet in the folder.


def test_chair_agrees_with_the_world_s_own_truth(scenes, tiny, tmp_path):
    """Text by text: of true descriptions, of those of other scenes, and of what the embedded model writes."""
    truth = {str(scene.index): scene for scene in read_truth(scenes / "scenes.jsonl").values()}
    others = dict(zip(truth, [*list(truth.values())[1:], truth["0"]], strict=True))
    settings = DataSettings(scenes, prompt="Please describe everything in the picture.")
    evaluate("chair", settings, tmp_path / "m.json", model=tiny, batch_size=16)
    written = [json.loads(line) for line in (tmp_path / "m.predictions.jsonl").read_text().splitlines()]
    for name, texts in (
        ("true", {key: write_pair(scene, "detail").answer for key, scene in truth.items()}),
        ("wrong", {key: write_pair(scene, "detail").answer for key, scene in others.items()}),
        ("model", {row["question_id"]: row["text"] for row in written}),
    ):
        results = evaluate(
            "chair",
            DataSettings(scenes),
            tmp_path / f"{name}.json",
            predictions=given(tmp_path / f"{name}.jsonl", texts),
        )
        rows = [json.loads(line) for line in (tmp_path / f"{name}.scores.jsonl").read_text().splitlines()]
        assert [row["id"] for row in rows] == list(truth)
        for row in rows:
            report = check(texts[row["id"]], truth[row["id"]])
            counts = row["counts"]
            assert counts["mentions"] == len(report.mentions)
            assert counts["mentions_hallucinated"] == len(report.hallucinated)
            assert counts["texts_hallucinated"] == bool(report.hallucinated)
            assert counts["kinds_mentioned"] == len(report.covered)
            assert counts["kinds"] == len(report.covered) + len(report.missed)
        if name == "true":
            assert values(results)["CHAIR_i"] == 0 and values(results)["recall"] == 100
        if name == "wrong":
            assert values(results)["CHAIR_s"] > 90


def test_pope_agrees_with_the_world_s_own_truth(scenes, tiny, tmp_path):
    """Every label, and every answer of the embedded model, as the world's own checker has them."""
    truth = {f"{scene.index:012d}.png": scene for scene in read_truth(scenes / "scenes.jsonl").values()}
    settings = DataSettings(scenes, prompt="Is there {an_object} in the picture?", limit=12)
    results = evaluate("pope", settings, tmp_path / "pope.json", model=tiny, batch_size=32)
    right, asked = 0, 0
    for setting in ("random", "popular", "adversarial"):
        questions, answers = (
            [json.loads(line) for line in (tmp_path / f"pope.{name}").read_text().splitlines()]
            for name in (f"coco_pope_{setting}.json", f"answers_{setting}.jsonl")
        )
        labels = [question["label"] for question in questions]
        assert labels.count("yes") == labels.count("no")
        for question, answer in zip(questions, answers, strict=True):
            kind = question["text"].removesuffix(" in the picture?").split()[-1]
            there = "yes" if truth[question["image"]].of_kind(kind) else "no"
            assert question["label"] == there
            right += read_answer(answer["answer"], "exists") == there
            asked += 1
    assert results.questions == asked
    assert values(results)["accuracy"] == pytest.approx(100 * right / asked)
    assert values(results)["unclear"] == 0 and values(results)["accuracy"] > 80, "the embedded model sees"


def test_pope_s_settings_are_what_they_are_called(scenes, tmp_path):
    """Counted anew from the file of instances."""
    content = json.loads((scenes / "instances.json").read_text())
    kinds = {item["id"]: item["name"] for item in content["categories"]}
    shown = {item["file_name"]: set() for item in content["images"]}
    names = {item["id"]: item["file_name"] for item in content["images"]}
    for item in content["annotations"]:
        shown[names[item["image_id"]]].add(kinds[item["category_id"]])
    frequency = {kind: sum(kind in there for there in shown.values()) for kind in kinds.values()}
    together = {
        (one, other): sum({one, other} <= there for there in shown.values()) for one in frequency for other in frequency
    }
    call("evaluate", "pope", "-d", scenes, "-o", tmp_path / "p.json", "-m", "x")  # no such model, no trace
    assert not list(tmp_path.iterdir())
    questions = open_benchmark("pope", DataSettings(scenes)).questions()
    for image, there in shown.items():
        for setting, rank in (
            ("popular", lambda kind: frequency[kind]),
            ("adversarial", lambda kind, there=there: sum(together[kind, other] for other in there)),
        ):
            asked = [
                question.reference["object"]
                for question in questions
                if question.name == image
                and question.reference["setting"] == setting
                and question.reference["label"] == "no"
            ]
            left = set(frequency) - there - set(asked)
            assert len(asked) == min(3, len(there))
            assert min(map(rank, asked)) >= max(map(rank, left))


# Resuming


def outputs(folder, stem):
    return {path.name: path.read_bytes() for path in sorted(folder.glob(f"{stem}*"))}


@pytest.mark.parametrize(("images", "least", "tokens"), [(20, 4, 20), pytest.param(30, 8, 40, marks=pytest.mark.slow)])
def test_a_killed_run_goes_on_and_writes_the_same_files(scenes, tmp_path, images, least, tokens):
    options = ["--data", scenes, "--model", VIGC_TINY, "--batch-size", 4, "--max-new-tokens", tokens, "--limit", images]
    command = ["-m", "vigc", "evaluate", "chair", *options, "--output", "killed/r.json"]
    journal = tmp_path / "killed" / "r.predictions.jsonl"
    process = forks.popen(*command, cwd=tmp_path, stdout=subprocess.DEVNULL)
    while process.poll() is None and not (journal.exists() and journal.read_bytes().count(b"\n") >= least):
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = journal.read_bytes()
    assert least <= kept.count(b"\n") < images, "it was killed amid its work"
    journal.write_bytes(kept + kept[:25])  # a line that was being written

    assert call("evaluate", "chair", *options, "--output", tmp_path / "killed" / "r.json").exit_code == 0
    assert call("evaluate", "chair", *options, "--output", tmp_path / "whole" / "r.json").exit_code == 0
    assert outputs(tmp_path / "killed", "r") == outputs(tmp_path / "whole", "r")
    assert journal.read_bytes().startswith(kept)


def test_a_run_can_stop_after_any_answer(stock, tmp_path):
    files.okvqa(tmp_path)
    settings = DataSettings(tmp_path)
    evaluate("okvqa", settings, tmp_path / "whole.json", model=stock, batch_size=3)
    whole = outputs(tmp_path, "whole.")
    lines = whole["whole.predictions.jsonl"].splitlines(keepends=True)
    for count in range(len(lines) + 1):
        (tmp_path / "whole.predictions.jsonl").write_bytes(b"".join(lines[:count]))
        evaluate("okvqa", settings, tmp_path / "whole.json", model=stock, batch_size=3)
        assert outputs(tmp_path, "whole.") == whole


def test_of_two_answers_to_a_question_none_is_chosen(stock, tmp_path):
    files.okvqa(tmp_path)
    settings, path = DataSettings(tmp_path), tmp_path / "r.predictions.jsonl"
    evaluate("okvqa", settings, tmp_path / "r.json", model=stock)
    whole = path.read_bytes()
    first = whole[: whole.index(b"\n") + 1]
    path.write_bytes(whole + first + first[:25])  # the same line twice, and one that was being written
    before = (tmp_path / "r.json").read_bytes()
    evaluate("okvqa", settings, tmp_path / "r.json", model=stock)
    assert (tmp_path / "r.json").read_bytes() == before and path.read_bytes() == whole + first
    other = {**json.loads(first), "text": "something else"}
    files.write_lines(path, [*map(json.loads, whole.splitlines()), other])
    with pytest.raises(
        EvaluationError, match=r"line \d+ answers question '\d+' a second time, with other content: remove"
    ):
        evaluate("okvqa", settings, tmp_path / "r.json", model=stock)


def test_a_run_that_ended_before_its_first_answer_is_in_nobody_s_way(stock, tmp_path, monkeypatch):
    files.okvqa(tmp_path)
    with monkeypatch.context() as patch, pytest.raises(TypeError):
        patch.setattr(type(stock.generator), "run", None)
        evaluate("okvqa", DataSettings(tmp_path), tmp_path / "r.json", model=stock, batch_size=4)
    evaluate("okvqa", DataSettings(tmp_path), tmp_path / "r.json", model=stock, batch_size=5)


def test_a_finished_run_asks_nothing_again(stock, tmp_path, monkeypatch):
    files.okvqa(tmp_path)
    evaluate("okvqa", DataSettings(tmp_path), tmp_path / "r.json", model=stock)
    monkeypatch.setattr(type(stock.generator), "run", None)
    evaluate("okvqa", DataSettings(tmp_path), tmp_path / "r.json", model=stock)


def test_another_run_is_refused_and_may_be_overwritten(stock, tmp_path):
    files.okvqa(tmp_path)
    output = tmp_path / "r.json"
    evaluate("okvqa", DataSettings(tmp_path), output, model=stock, batch_size=4)
    with pytest.raises(ConflictError, match=r"batch_size was 4, is 5.*--overwrite") as caught:
        evaluate("okvqa", DataSettings(tmp_path), output, model=stock, batch_size=5)
    assert caught.value.exit_code == 4
    evaluate("okvqa", DataSettings(tmp_path), output, model=stock, batch_size=5, overwrite=True)


def test_answers_without_their_settings_are_not_mixed_with_others(stock, tmp_path):
    files.okvqa(tmp_path)
    evaluate("okvqa", DataSettings(tmp_path), tmp_path / "r.json", model=stock)
    for damage in ("[1]", "{", None):
        (tmp_path / "r.run.json").unlink() if damage is None else (tmp_path / "r.run.json").write_text(damage)
        with pytest.raises(ConflictError, match="but not its settings"):
            evaluate("okvqa", DataSettings(tmp_path), tmp_path / "r.json", model=stock)


@pytest.mark.parametrize("line", ['{"question_id": [1], "text": "a"}', '{"question_id": "1", "text": 2}', "[]"])
def test_a_line_that_is_no_answer_ends_in_one_sentence(line, tmp_path):
    (tmp_path / "r.predictions.jsonl").write_text(f"{line}\n")
    with (
        pytest.raises(EvaluationError, match="line 1 is not a valid answer: correct the line"),
        PredictionFile(tmp_path / "r.predictions.jsonl"),
    ):
        pass


def test_a_change_of_the_questions_is_noticed(stock, tmp_path):
    files.okvqa(tmp_path)
    evaluate("okvqa", DataSettings(tmp_path), tmp_path / "r.json", model=stock)
    path = tmp_path / "OpenEnded_mscoco_val2014_questions.json"
    path.write_text(path.read_text().replace("What is thing 1?", "What is it?"))
    with pytest.raises(ConflictError, match="asked was"):
        evaluate("okvqa", DataSettings(tmp_path), tmp_path / "r.json", model=stock)


def test_a_second_process_is_kept_out(stock, tmp_path):
    files.okvqa(tmp_path)
    with FileLock(tmp_path / ".r.json.lock"), pytest.raises(BusyError, match="Another process") as caught:
        evaluate("okvqa", DataSettings(tmp_path), tmp_path / "r.json", model=stock)
    assert caught.value.exit_code == 5


def test_a_broken_picture_is_set_aside_and_counts_as_wrong(stock_folder, tmp_path):
    files.okvqa(tmp_path)
    (tmp_path / "val2014" / "COCO_val2014_000000000073.jpg").write_bytes(b"no picture")
    (tmp_path / "val2014" / "COCO_val2014_000000000139.jpg").unlink()
    result = call("evaluate", "okvqa", "-d", tmp_path, "-m", stock_folder, "-o", tmp_path / "r.json")
    assert result.exit_code == 3, result.output
    assert "Skipped, 4 questions (counted as wrong):" in result.output
    assert "is not an image" in result.output and "was not found" in result.output
    content = json.loads((tmp_path / "r.json").read_text())
    assert [key for key, _ in content["set_aside"]] == ["730", "731", "1390", "1391"]
    assert len(json.loads((tmp_path / "r.submission.json").read_text())) == 8


def test_every_benchmark_is_a_command():
    from typer.main import get_command

    assert set(get_command(app).commands["evaluate"].commands) == {*BENCHMARKS, "compare"}


def test_an_option_of_its_own_is_declared_by_the_benchmark_alone(stock_folder, tmp_path, monkeypatch):
    """A benchmark of one file and a line in the table: its command, its help, its option, and what runs record."""

    class Shouting(BENCHMARKS["okvqa"]):
        name, title, summary = "shouting", "Shouting", "OK-VQA, loudly."
        options = (Option("loudness", "How loud.", int, "3"),)

        def read(self):
            marks = "!" * self.settings.own.get("loudness", 3)
            return [replace(question, prompt=question.text + marks) for question in super().read()]

    monkeypatch.setitem(BENCHMARKS, "shouting", Shouting)
    files.okvqa(tmp_path)
    shown = call("evaluate", "shouting", "--help").output
    assert "OK-VQA, loudly." in shown and "--loudness" in shown and "How loud." in shown
    assert "--loudness" not in call("evaluate", "okvqa", "--help").output
    options = ["-d", tmp_path, "-m", stock_folder, "--max-new-tokens", 2, "--limit", 1]
    result = call("evaluate", "shouting", *options, "-o", tmp_path / "r.json", "--loudness", 5)
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "r.json").read_text())["run"]["data"]["loudness"] == 5
    other = call("evaluate", "shouting", *options, "-o", tmp_path / "r.json", "--loudness", 4)
    assert other.exit_code == 4 and "data was" in other.output
    assert call("evaluate", "okvqa", *options, "-o", tmp_path / "s.json", "--loudness", 5).exit_code == 2
    with pytest.raises(EvaluationError, match="The option 'loudness' has no effect on okvqa"):
        open_benchmark("okvqa", DataSettings(tmp_path, options={"loudness": 5}))


def test_answers_are_as_long_as_the_benchmark_wants_unless_told(tmp_path, stock_folder):
    files.okvqa(tmp_path)
    results = evaluate("okvqa", DataSettings(tmp_path), tmp_path / "r.json", model=load_answerer(stock_folder))
    assert json.loads(results.output.read_text())["run"]["settings"]["max_new_tokens"] == 16


# Intervals and comparisons


def units(hits, per_image=1):
    return [Unit(str(number), str(number // per_image), {"hits": hit, "rows": 1}) for number, hit in enumerate(hits)]


def share(sums):
    return {"share": 100 * sums["hits"] / sums["rows"]}


def test_an_interval_is_that_of_the_textbook():
    """Of a share of independent pictures: value +- 1.96 sqrt(p (1 - p) / n)."""
    hits = [number % 10 < 3 for number in range(500)]
    found = with_intervals(units(hits), share)["share"]
    half = 100 * 1.96 * math.sqrt(0.3 * 0.7 / 500)
    assert found.value == pytest.approx(30)
    assert (found.low, found.high) == (pytest.approx(30 - half, abs=0.5), pytest.approx(30 + half, abs=0.5))


def test_questions_of_one_picture_are_drawn_together():
    """Five answers to each picture that are all right or all wrong are worth one, and the interval says so."""
    pictures = [number % 10 < 3 for number in range(100)]
    together = with_intervals(units([hit for hit in pictures for _ in range(5)], per_image=5), share)["share"]
    alone = with_intervals(units(pictures), share)["share"]
    assert (together.low, together.high) == pytest.approx((alone.low, alone.high))


def test_nothing_is_said_where_all_resamples_agree():
    found = with_intervals(units([False] * 40), share)["share"]
    assert found.value == 0 and math.isnan(found.low) and math.isnan(found.high)


def test_intervals_hold_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(0)
    held = 0
    for number in range(100):
        found = with_intervals(units(rng.random(120) < 0.6), share, seed=number)["share"]
        held += found.low <= 60 <= found.high
    assert 89 <= held <= 100


def test_a_difference_is_paired():
    """B is right wherever A is, and in twelve pictures more: each alone is uncertain, their difference is not."""
    rng = random.Random(1)
    a = [rng.random() < 0.5 for _ in range(200)]
    b = [hit or number % 16 == 0 for number, hit in enumerate(a)]
    found = differences(units(a), units(b), share)["share"]
    assert found.value == pytest.approx(found.b - found.a) and 0 < found.low < found.value < found.high
    assert not found.is_noise
    first, second = (with_intervals(units(hits), share)["share"] for hits in (a, b))
    assert first.high > second.low, "their own intervals overlap"


def test_models_that_are_equally_good_differ_by_noise_and_equal_figures_by_nothing():
    rng = random.Random(2)
    a, b = ([rng.random() < 0.5 for _ in range(200)] for _ in range(2))
    assert differences(units(a), units(b), share)["share"].verdict == "noise"
    same = [differences(units(a), units(other), share)["share"] for other in (a, a[::-1])]
    assert [(one.verdict, one.is_noise) for one in same] == [("equal", False)] * 2
    nothing = [Unit("1", "1", {"hits": 0, "rows": 0})]
    assert differences(nothing, nothing, lambda sums: {"x": sums["hits"] * math.nan})["x"].verdict == "undefined"


def test_compare_on_the_command_line(tmp_path):
    files.pope(tmp_path)
    keys = [f"{setting}/{number}" for setting in ("random", "popular", "adversarial") for number in range(1, 9)]
    truth = {key: "Yes" if int(key.split("/")[1]) % 2 else "No" for key in keys}
    for name, texts in (("a", dict.fromkeys(keys, "Yes")), ("b", truth)):
        result = call(
            *("evaluate", "pope", "-d", tmp_path, "-o", tmp_path / f"{name}.json"),
            *("--predictions", given(tmp_path / f"{name}.jsonl", texts)),
        )
        assert result.exit_code == 0, result.output
    result = call("evaluate", "compare", tmp_path / "a.json", tmp_path / "b.json")
    lines = {line.split()[0]: line for line in result.output.splitlines() if line.strip()}
    assert lines["accuracy"].split()[1:4] == ["50.0", "100.0", "50.0"] and "more than noise" in lines["accuracy"]
    assert lines["recall"].endswith(" equal") and "noise" not in lines["recall"]
    found = compare_results(tmp_path / "a.json", tmp_path / "b.json")
    assert found["precision"].value == 50


def test_what_cannot_be_compared_is_refused(tmp_path):
    files.pope(tmp_path)
    files.okvqa(tmp_path)
    pope = {f"random/{number}": "No" for number in range(1, 9)}
    okvqa = {f"{number * 10 + place}": "red" for number in files.COCO_IDS for place in range(2)}
    for name, benchmark, texts, split in (
        ("a", "pope", pope, "random"),
        ("b", "pope", {key.replace("random", "popular"): text for key, text in pope.items()}, "popular"),
        ("c", "okvqa", okvqa, None),
    ):
        settings = DataSettings(tmp_path, split=split)
        evaluate(benchmark, settings, tmp_path / f"{name}.json", predictions=given(tmp_path / f"{name}.jsonl", texts))
    for other, reason in (
        ("b", "have different questions: 16"),
        ("c", "compare the same benchmark"),
        ("d", "cannot be read"),
    ):
        result = call("evaluate", "compare", tmp_path / "a.json", tmp_path / f"{other}.json")
        assert result.exit_code == 2 and reason in result.output


def test_a_model_card_takes_the_figures(tmp_path):
    files.okvqa(tmp_path)
    okvqa = {f"{number * 10 + place}": "red" for number in files.COCO_IDS for place in range(2)}
    evaluate("okvqa", DataSettings(tmp_path), tmp_path / "r.json", predictions=given(tmp_path / "p.jsonl", okvqa))
    data = ModelCardData(model_name="mine", eval_results=read_eval_results(tmp_path / "r.json"))
    card = ModelCard(f"---\n{data.to_yaml()}\n---\n")
    (entry,) = card.data.eval_results
    assert (entry.dataset_name, entry.metric_name, entry.metric_value) == ("OK-VQA", "accuracy", 90.0)


# Predictions made elsewhere, and mistakes


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.json", [{"question_id": 420, "answer": "red"}]),
        ("p.json", {"420": "red"}),
        ("p.jsonl", [{"question_id": "420", "prediction": "red"}]),
    ],
)
def test_predictions_come_in_the_layouts_of_the_field(name, content, tmp_path):
    files.okvqa(tmp_path)
    (files.write_lines if name.endswith("l") else files.write_json)(tmp_path / name, content)
    with pytest.raises(EvaluationError, match="lacks answers to 7 of 8 questions, the first '421'"):
        evaluate("okvqa", DataSettings(tmp_path), tmp_path / "r.json", predictions=tmp_path / name)


@pytest.mark.parametrize("name", ["okvqa", "mmbench", "aokvqa", "chair", "pope", "llava"])
def test_any_text_is_kept_as_it_is(name, tmp_path):
    """Line ends that JSON does not escape, half a character, a formula, a control character, nothing."""
    files.MAKERS[name](tmp_path)
    odd = ["two\u2028lines\x85and\u2029three", "half \ud83d", "=1+1", "bell \x07 \x1b[31m", "", "\U0001f642 née"]
    questions = open_benchmark(name, DataSettings(tmp_path)).questions()
    texts = {question.id: odd[number % len(odd)] for number, question in enumerate(questions)}
    results = evaluate(
        name, DataSettings(tmp_path), tmp_path / "r.json", predictions=given(tmp_path / "p.jsonl", texts)
    )
    assert results.questions == len(texts)
    written = results.files[0]
    again = [json.loads(line) for line in written.read_bytes().splitlines()] if written.suffix == ".jsonl" else None
    if name == "llava":
        assert [row["text"] for row in again] == list(texts.values())
    elif name == "pope":
        assert [row["answer"] for row in again] == list(texts.values())[: len(again)]
    elif name in ("okvqa", "chair"):
        rows = json.loads(written.read_text())
        assert [row.get("answer", row.get("caption")) for row in rows] == list(texts.values())


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "cannot be read"),
        ('"text"', "a list or an object is expected"),
        ('[{"question": 1}]', "is no answer: an object with one of question_id"),
        ('[{"question_id": 420, "answer": 5}]', "the answer to 420 is 5, but text is expected"),
        ('[{"question_id": 420, "answer": "a"}, {"question_id": 420, "answer": "b"}]', "'420' twice"),
        ('[{"question_id": 9, "answer": "a"}]', "and 1 that are not asked, the first '9'"),
    ],
)
def test_predictions_that_are_none_are_refused(content, reason, tmp_path):
    files.okvqa(tmp_path)
    (tmp_path / "p.json").write_text(content)
    result = call("evaluate", "okvqa", "-d", tmp_path, "-o", tmp_path / "r.json", "--predictions", tmp_path / "p.json")
    assert result.exit_code == 2 and reason in result.output
    assert not (tmp_path / "r.json").exists()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ((), "Give either a model or predictions"),
        (("-m", "nowhere/at-all"), "'nowhere/at-all' cannot be loaded"),
        (("-m", "{stock}", "--iqf-steps", 2), "iqf_steps has no effect on"),
        (("-m", "{tiny}", "--no-correct", "--iqf-steps", 2), "Without correction iqf_steps has no effect"),
        (("-m", "{stock}", "--dtype", "float8"), "dtype 'float8' is not known"),
        (("-m", "{stock}", "--device", "cuda:99"), "device 'cuda:99' cannot be used"),
        (("-m", "{stock}", "--images", "{empty}"), "None of the 8 images was found"),
        (
            (
                "-m",
                "{untold}",
            ),
            "has no chat template",
        ),
    ],
)
def test_mistakes_are_said_in_a_sentence(options, reason, stock_folder, tmp_path):
    import shutil

    files.okvqa(tmp_path)
    untold = tmp_path / "untold"
    shutil.copytree(stock_folder, untold)
    (untold / "chat_template.jinja").unlink()
    (tmp_path / "empty").mkdir()
    words = {"stock": stock_folder, "tiny": VIGC_TINY, "empty": tmp_path / "empty", "untold": untold}
    options = [option.format(**words) if isinstance(option, str) else option for option in options]
    result = call("evaluate", "okvqa", "-d", tmp_path, "-o", tmp_path / "r.json", *options)
    assert result.exit_code == 2 and reason in result.output, result.output
    assert len(result.output.splitlines()) == 1 and "Traceback" not in result.output


def asked(number, text, task=None):
    return Question(str(number), str(number), None, "x", text, text, task, {})


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"repetition_penalty": 1.5},
        {"num_beams": 3, "repetition_penalty": 1.5, "length_penalty": -1.0, "temperature": 0.5},
        {"num_beams": 3, "min_new_tokens": 4, "no_repeat_ngram_size": 2, "early_stopping": True},
    ],
)
def test_a_plain_answer_is_that_of_transformers(settings):
    """InstructBLIP, and VIGC without correction: prompts of any length, penalties that count them, beams."""
    texts = ["What can you see in the picture?", "Is there a dog?", "How many are there, and where are they?"]
    questions = [asked(number, text, "okvqa") for number, text in enumerate(texts)]
    images = [Image.new("RGB", (96, 96), color) for color in ("red", "green", "blue")]
    plain = load_answerer(VIGC_TINY, settings={"max_new_tokens": 12, **settings}, correct=False)
    found = plain.answer(images, questions)
    model, processor = plain.generator.model, plain.generator.processor
    inputs = processor(images=images, text=texts, task=["okvqa"] * len(texts), return_tensors="pt")
    ids = model.generate(**inputs, correct=False, **{"max_new_tokens": 12, "num_beams": 1, **settings})
    assert found == processor.decode_texts(ids[:, inputs["input_ids"].shape[1] :])
    assert found == [plain.answer([image], [one])[0] for image, one in zip(images, questions, strict=True)]


@pytest.mark.parametrize("correct", [True, False])
def test_a_drawn_answer_depends_on_its_question_alone(correct):
    drawn = load_answerer(
        VIGC_TINY, settings={"max_new_tokens": 16, "do_sample": True, "temperature": 2.0}, correct=correct
    )
    image = Image.new("RGB", (96, 96), "red")
    questions = [asked(number, "What can you see in the picture?") for number in range(4)]
    found = drawn.answer([image] * 4, questions)
    assert len(set(found)) > 1 and found[2:] == drawn.answer([image] * 2, questions[2:])


def test_a_model_with_an_encoder_answers_and_is_not_corrected(tmp_path):
    folder = save_stock_encoder_decoder(tmp_path / "flan")
    model = load_answerer(folder, settings={"max_new_tokens": 6})
    (text,) = model.answer([Image.new("RGB", (96, 96), "red")], [asked(0, "Is it red?")])
    assert text and model.settings["correct"] is False
    with pytest.raises(EvaluationError, match="A correction has no effect on 'flan': only VIGC corrects"):
        load_answerer(folder, correct=True)


@pytest.mark.slow
def test_chair_and_pope_agree_with_the_world_on_many_scenes(tmp_path):
    write_scenes(tmp_path / "s", 3000, seed=77, unusual=0.3)
    truth = {str(scene.index): scene for scene in read_truth(tmp_path / "s" / "scenes.jsonl").values()}
    others = dict(zip(truth, [*list(truth.values())[1:], truth["0"]], strict=True))
    texts = {key: write_pair(scene, "detail").answer for key, scene in others.items()}
    evaluate("chair", DataSettings(tmp_path / "s"), tmp_path / "r.json", predictions=given(tmp_path / "p.jsonl", texts))
    for line in (tmp_path / "r.scores.jsonl").read_text().splitlines():
        row = json.loads(line)
        report = check(texts[row["id"]], truth[row["id"]])
        assert row["counts"]["mentions"] == len(report.mentions)
        assert row["counts"]["mentions_hallucinated"] == len(report.hallucinated)
        assert row["counts"]["kinds_mentioned"] == len(report.covered)
