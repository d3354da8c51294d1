"""Answers from files: read by what they hold, about a part of the images, and from evaluation to judge and back."""

import json
import shlex

import benchmark_files as files
import pytest
from judge_server import JudgeServer, by_length
from typer.testing import CliRunner

from vigc.cli.root import app
from vigc.errors import EvaluationError
from vigc.evaluation import DataSettings, evaluate, load_answerer, open_benchmark
from vigc.evaluation.benchmarks.entries import read_entries
from vigc.scenes import VIGC_TINY


@pytest.fixture(scope="module")
def tiny():
    return load_answerer(VIGC_TINY, settings={"max_new_tokens": 8})


def call(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def values(results):
    return {name: figure.value for name, figure in results.figures.items()}


# Read by content


def as_list(rows):
    return json.dumps(rows)


def as_lines(rows):
    return "".join(f"{json.dumps(row)}\n" for row in rows)


def as_indented_values(rows):
    return "\n".join(json.dumps(row, indent=1) for row in rows)


@pytest.mark.parametrize("ending", ["json", "jsonl", "txt"])
@pytest.mark.parametrize("form", [as_list, as_lines, as_indented_values])
def test_answers_are_read_whatever_the_file_is_called(form, ending, tmp_path):
    files.pope(tmp_path)
    rows = [{"question_id": number, "question": "?", "answer": "Yes"} for number in range(1, 9)]
    path = tmp_path / f"answers.{ending}"
    path.write_text("\ufeff" + form(rows), encoding="utf-8")
    results = evaluate("pope", DataSettings(tmp_path, split="random"), tmp_path / "r.json", predictions=path)
    assert values(results)["accuracy"] == 50 and values(results)["yes_ratio"] == 100


def test_one_answer_is_one_line_and_an_object_is_by_question(tmp_path):
    files.instances(tmp_path)
    for content in ('{"image_id": 42, "caption": "A dog."}', '{"42": "A dog."}', '[{"id": "42", "text": "A dog."}]'):
        (tmp_path / "p.jsonl").write_text(content)
        results = evaluate("chair", DataSettings(tmp_path), tmp_path / "r.json", predictions=tmp_path / "p.jsonl")
        assert (results.questions, results.skipped_images) == (1, 3)


@pytest.mark.parametrize("form", [as_list, as_lines])
def test_benchmarks_own_files_are_read_in_both_forms(form, tmp_path):
    for name, make in (("pope", files.pope), ("llava", files.llava), ("aokvqa", files.aokvqa)):
        make(tmp_path / name)
        before = open_benchmark(name, DataSettings(tmp_path / name)).questions()
        for path in (tmp_path / name).glob("*.json*"):
            path.write_text(form(read_entries(path)))
        assert open_benchmark(name, DataSettings(tmp_path / name)).questions() == before


def test_an_excel_table_by_another_name(tmp_path):
    files.mmbench(tmp_path)
    keys = [one.id for one in open_benchmark("mmbench", DataSettings(tmp_path)).questions()]
    (tmp_path / "p.json").write_text(json.dumps(dict.fromkeys(keys, "A")))
    results = evaluate("mmbench", DataSettings(tmp_path), tmp_path / "r.json", predictions=tmp_path / "p.json")
    results.files[0].rename(tmp_path / "table.json")
    again = evaluate("mmbench", DataSettings(tmp_path), tmp_path / "s.json", predictions=tmp_path / "table.json")
    assert values(again) == pytest.approx(values(results), nan_ok=True)


def test_popes_own_answers_have_no_ids_and_the_order_of_the_questions(tmp_path):
    """`{"question", "answer"}`, a line each, in a `.json` file, as its authors' script takes them."""
    files.pope(tmp_path)
    settings, path = DataSettings(tmp_path, split="popular"), tmp_path / "answer.json"
    questions = open_benchmark("pope", settings).questions()
    rows = [{"question": one.prompt, "answer": one.reference["label"].title()} for one in questions]
    path.write_text(as_lines(rows))
    assert values(evaluate("pope", settings, tmp_path / "r.json", predictions=path))["accuracy"] == 100
    for wrong, reason in (
        (rows[1:], r"has 7 answers without a question's id, and 8 questions are asked.*--split"),
        (rows[::-1], r"answer 0 is to 'Is there a boat in the image\?', but question 'popular/1' is 'Is there a dog"),
        ([{**rows[0], "question_id": 1}, *rows[1:]], "with and without a question's id"),
    ):
        path.write_text(as_lines(wrong))
        with pytest.raises(EvaluationError, match=reason):
            evaluate("pope", settings, tmp_path / "r.json", predictions=path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('{"question_id": 420, "answer": "a"}\n{"question_id": 421, "ans', "p.json, line 2: is not valid JSON"),
        (f"[{'[' * 100_000}", "is not valid JSON (is nested more than 100 levels"),
        ("9" * 5000, "is not valid JSON (Exceeds the limit"),
        ("\ufffd", "line 1: is not valid JSON"),
        ('[{"question_id": 420, "answer": "a"}] [1]', "is no answer"),
    ],
)
def test_files_that_hold_no_answers_are_refused_in_a_line(content, reason, tmp_path):
    files.okvqa(tmp_path)
    (tmp_path / "p.json").write_text(content)
    result = call("evaluate", "okvqa", "-d", tmp_path, "-o", tmp_path / "r.json", "--predictions", tmp_path / "p.json")
    assert result.exit_code == 2 and reason in result.output and result.output.count("\n") == 1, result.output


def test_other_files_of_an_evaluation_name_the_one_with_the_answers(tiny, tmp_path):
    files.llava(tmp_path)
    evaluate("llava", DataSettings(tmp_path), tmp_path / "r.json", model=tiny, batch_size=6)
    files.write_lines(tmp_path / "r.scores.jsonl", [{"id": "1", "image_id": "1", "counts": {}}])
    asked = ("-d", tmp_path, "-o", tmp_path / "x")
    for name, kind in (("r.json", "figures"), ("r.run.json", "settings"), ("r.scores.jsonl", "scores")):
        right = f"{tmp_path / name} holds the {kind} of an evaluation, not its answers: give "
        right += f"{tmp_path / 'r.predictions.jsonl'}."
        for command in (
            ("evaluate", "llava", *asked, "--predictions", tmp_path / name),
            ("judge", tmp_path / name, *asked, "-m", "x", "--url", "http://localhost:1/v1"),
        ):
            result = call(*command)
            assert result.exit_code == 2 and right in result.output.replace("\n", " "), result.output
    (tmp_path / "r.predictions.jsonl").unlink()
    result = call("evaluate", "llava", *asked, "--predictions", tmp_path / "r.json")
    assert "give the file of answers that was scored" in result.output


# A part of the images


def test_chair_scores_the_images_that_have_answers_and_counts_the_others(tmp_path):
    files.chair(tmp_path)
    rows = [{"image_id": 42, "caption": "A dog and a boat."}, {"image_id": 73, "caption": "A cat."}]
    files.write_lines(tmp_path / "whole.json", rows)
    files.write_lines(tmp_path / "more.json", [*rows, {"image_id": 9999, "caption": "A cat."}])
    asked = ("evaluate", "chair", "-d", tmp_path, "-o", tmp_path / "r.json")
    for name, others in (("whole", 0), ("more", 1)):
        result = call(*asked, "--predictions", tmp_path / f"{name}.json")
        assert result.exit_code == 0, result.output
        assert "2 questions about 2 images" in result.output
        assert "Skipped: 2 of 4 images of the annotations have no image file or no answer." in result.output
        assert ("Not counted: 1 answer to questions that were not asked." in result.output) == bool(others)
        content = json.loads((tmp_path / "r.json").read_text())
        assert (content["skipped_images"], content["unasked_answers"]) == (2, others)
        assert content["figures"]["CHAIR_s"]["value"] == 50 and content["questions"] == 2
    assert call(*asked, "--predictions", tmp_path / "more.json", "--limit", 1).output.startswith("chair: 1 question ")
    files.write_lines(tmp_path / "none.json", [{"image_id": 9999, "caption": "A cat."}])
    result = call(*asked, "--predictions", tmp_path / "none.json")
    assert result.exit_code == 2 and "lacks answers to 4 of 4 questions" in result.output


def test_a_model_is_asked_about_the_images_that_are_there(tiny, tmp_path):
    """CHAIR, and POPE over instances; one that is there and broken still counts as wrong."""
    files.chair(tmp_path)
    names = sorted(path.name for path in (tmp_path / "val2014").iterdir())
    (tmp_path / "val2014" / names[0]).unlink()
    (tmp_path / "val2014" / names[1]).write_bytes(b"no picture")
    for name in ("chair", "pope"):
        results = evaluate(name, DataSettings(tmp_path), tmp_path / f"{name}.json", model=tiny, batch_size=32)
        assert (results.pictures, results.skipped_images) == (3, 1)
        assert {reason.partition("'")[0] for _, reason in results.set_aside} == {"image "}
        again = tmp_path / f"{name}.predictions.jsonl"
        assert evaluate(name, DataSettings(tmp_path), tmp_path / "r.json", predictions=again).skipped_images == 1
    half = [json.loads(line) for line in again.read_text().splitlines()][1:]
    files.write_lines(tmp_path / "half.jsonl", half)
    with pytest.raises(EvaluationError, match="lacks answers to 1 of"):
        evaluate("pope", DataSettings(tmp_path), tmp_path / "r.json", predictions=tmp_path / "half.jsonl")


# What is printed


def test_pope_prints_its_headline_and_says_once_why_there_are_no_intervals(tmp_path):
    files.pope(tmp_path)
    keys = [one.id for one in open_benchmark("pope", DataSettings(tmp_path)).questions()]
    (tmp_path / "p.json").write_text(json.dumps(dict.fromkeys(keys, "Yes")))
    asked = ("evaluate", "pope", "-d", tmp_path, "-o", tmp_path / "r.json", "--predictions", tmp_path / "p.json")
    lines = call(*asked).output.splitlines()
    assert lines[1] == "POPE f1: 66.7"
    assert sum("resample" in line for line in lines) == 1
    assert "  No interval for 24 metrics: every resample of the images gives the same value." in lines
    texts = {key: "Yes" if number % 5 else "No" for number, key in enumerate(keys)}
    (tmp_path / "p.json").write_text(json.dumps(texts))
    lines = call(*asked).output.splitlines()
    assert lines[1].startswith("POPE f1: ") and " 95 % [" in lines[1]
    same = call("evaluate", "compare", tmp_path / "r.json", tmp_path / "r.json").output
    assert same.count(" equal") == 24 and "noise" not in same


def run_as_printed(line, **words):
    """A command as it was printed, with what the reader has to fill in."""
    name, *arguments = shlex.split(line)
    assert name == "vigc"
    return call(*[words.get(argument, argument) for argument in arguments])


@pytest.mark.parametrize("limit", [(), ("--limit", 1, "--seed", 5)])
def test_llava_without_reviews_prints_the_commands_that_make_figures(limit, tmp_path):
    folder = tmp_path / "my data"
    files.llava(folder)
    (folder / "annotations").mkdir()
    for path in folder.glob("qa90*"):
        path.rename(folder / "annotations" / path.name)
    model = ("--model", VIGC_TINY, "--max-new-tokens", 8)
    result = call("evaluate", "llava", "-d", folder, "-o", tmp_path / "r.json", *model, *limit)
    assert result.exit_code == 0, result.output
    judge, score = (line.strip() for line in result.output.splitlines() if line.startswith("  vigc "))
    with JudgeServer(by_length) as server:
        judged = run_as_printed(f"{judge} --url {server.url}", JUDGE="tester")
        assert judged.exit_code == 0, judged.output
        assert len(server.requests) == (3 if limit else 6)
        assert ("has no answer to 3 questions, which are skipped." in judged.output) == bool(limit)
    scored = run_as_printed(score)
    assert scored.exit_code == 0 and "LLaVA-eval all: " in scored.output, scored.output
    assert "vigc judge" not in scored.output
    assert json.loads((tmp_path / "r.json").read_text())["model"] == "vigc-tiny"


def test_the_judge_takes_predictions_and_any_layout_of_answers(tiny, tmp_path):
    files.llava(tmp_path)
    evaluate("llava", DataSettings(tmp_path), tmp_path / "r.json", model=tiny, batch_size=6)
    answers = [json.loads(line) for line in (tmp_path / "r.answers.jsonl").read_text().splitlines()]
    broken = [json.loads(line) for line in (tmp_path / "r.predictions.jsonl").read_text().splitlines()]
    broken[2] = {"question_id": "2", "text": None, "reason": "is not there"}
    files.write_lines(tmp_path / "r.predictions.jsonl", broken)
    files.write_json(tmp_path / "answers.json", [*answers[:2], {**answers[2], "text": ""}, *answers[3:]])
    files.write_json(tmp_path / "other.json", {"999": "A thing."})
    asked = ("-d", tmp_path, "-m", "tester", "-o", tmp_path / "reviews.jsonl")
    with JudgeServer(by_length) as server:
        for name in ("r.predictions.jsonl", "answers.json"):
            result = call("judge", tmp_path / name, *asked, "--url", server.url)
            assert result.exit_code == 0, result.output
        assert len(server.requests) == 6, "the same answers are judged once"
        result = call("judge", tmp_path / "other.json", *asked, "--url", server.url)
        assert result.exit_code == 2 and "answers none of the 6 questions of LLaVA-eval" in result.output
        assert "its first answer is to '999', the first question 0" in result.output
