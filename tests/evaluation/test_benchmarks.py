"""Every benchmark in its published layout, from files to figures and submissions, with VIGC and with a stock VLM."""

import json
import math

import benchmark_files as files
import openpyxl
import pytest
from PIL import Image
from stock_vlm import save_stock_vlm

from vigc.errors import EvaluationError
from vigc.evaluation import BENCHMARKS, DataSettings, evaluate, load_answerer, open_benchmark, read_eval_results
from vigc.evaluation.benchmarks.choice import rotations
from vigc.scenes import VIGC_TINY

NAMES = list(BENCHMARKS)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder per benchmark."""
    root = tmp_path_factory.mktemp("benchmarks")
    for name, make in files.MAKERS.items():
        make(root / name)
    return root


@pytest.fixture(scope="module")
def stock(tmp_path_factory):
    return load_answerer(save_stock_vlm(tmp_path_factory.mktemp("stock") / "stock-vlm"), settings={"max_new_tokens": 6})


@pytest.fixture(scope="module")
def tiny():
    return load_answerer(VIGC_TINY, settings={"max_new_tokens": 12})


def answered(folder, name, texts, **settings):
    """The figures of given answers: a text for all questions, or one by question."""
    benchmark = open_benchmark(name, DataSettings(folder, **settings))
    questions = benchmark.questions()
    path = folder / "given.jsonl"
    rows = [{"question_id": one.id, "text": texts if isinstance(texts, str) else texts[one.id]} for one in questions]
    files.write_lines(path, rows)
    results = evaluate(name, benchmark.settings, folder / "given.json", predictions=path)
    return {key: figure.value for key, figure in results.figures.items()}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("model", ["tiny", "stock"])
def test_from_published_files_to_results(name, model, data, tmp_path, request):
    answerer = request.getfixturevalue(model)
    benchmark = BENCHMARKS[name](DataSettings(data / name))
    questions = benchmark.questions()
    results = evaluate(name, DataSettings(data / name), tmp_path / "r.json", model=answerer, batch_size=3)
    assert results.questions == len(questions) and not results.set_aside
    lines = [json.loads(line) for line in (tmp_path / "r.predictions.jsonl").read_text().splitlines()]
    assert [line["question_id"] for line in lines] == [question.id for question in questions]
    assert all(isinstance(line["text"], str) for line in lines) and any(line["text"] for line in lines)
    assert results.files and all(path.stat().st_size for path in results.files)
    content = json.loads((tmp_path / "r.json").read_text())
    assert content["run"]["model"] == answerer.name and content["run"]["revision"]
    if name == "llava":
        assert not results.figures, "no judge has spoken"
        return
    assert benchmark.main in results.figures
    told = {entry.metric_name: entry.metric_value for entry in read_eval_results(tmp_path / "r.json")}
    assert told == {
        key: round(figure.value, 2) for key, figure in results.figures.items() if not math.isnan(figure.value)
    }
    # What was written can be read back as predictions, and scores the same.
    for number, given in enumerate([tmp_path / "r.predictions.jsonl", *results.files]):
        if len(results.files) == 1 or number == 0:
            again = evaluate(name, DataSettings(data / name), tmp_path / f"{number}.json", predictions=given)
            same = {key: pytest.approx(figure.value, nan_ok=True) for key, figure in results.figures.items()}
            if name not in ("mmbench", "aokvqa") or number == 0:  # those files hold what the texts were read as
                assert {key: figure.value for key, figure in again.figures.items()} == same


def test_pictures_reach_the_model(data, stock, tiny):
    """Another picture, another answer: nothing is answered blind."""
    question = BENCHMARKS["chair"](DataSettings(data / "chair")).questions()[0]
    for model in (stock, tiny):
        pictures = [Image.new("RGB", (64, 64), color) for color in ("red", "green", "blue", "white", "black")]
        texts = model.answer(pictures, [question] * 5)
        assert len(set(texts)) > 1, model.name


def test_okvqa(data, tmp_path):
    folder = data / "okvqa"
    assert answered(folder, "okvqa", "Red.") == {"accuracy": pytest.approx(90)}
    submission = json.loads((folder / "given.submission.json").read_text())
    assert submission[0] == {"question_id": 420, "answer": "Red."} and len(submission) == 8
    question = BENCHMARKS["okvqa"](DataSettings(folder)).questions()[0]
    assert question.task == "okvqa" and question.text == "What is thing 0?"
    assert question.prompt.startswith("What is thing 0?\n") and question.picture.name == "COCO_val2014_000000000042.jpg"


def test_aokvqa(data):
    folder = data / "aokvqa"
    texts = {}
    for question in BENCHMARKS["aokvqa"](DataSettings(folder)).questions():
        texts[question.id] = "B" if question.id.endswith(":choice") else "the wood"
    assert answered(folder, "aokvqa", texts) == pytest.approx(
        {"direct_answer": 100, "direct_answer_exact": 0, "multiple_choice": 100}
    )
    submission = json.loads((folder / "given.submission.json").read_text())
    assert submission["22MexNkBPpdZGX6sxbxVB42"] == {"direct_answer": "the wood", "multiple_choice": "red wood"}
    again = evaluate("aokvqa", DataSettings(folder), folder / "b.json", predictions=folder / "given.submission.json")
    assert again.figures["multiple_choice"].value == 100, "a choice by its text, though another one's text is in it"


def test_a_split_without_answers_gives_a_submission(tmp_path):
    files.aokvqa(tmp_path, "test")
    assert answered(tmp_path, "aokvqa", "A", split="test") == {}
    assert len(json.loads((tmp_path / "given.submission.json").read_text())) == len(files.COCO_IDS)


def test_difficult_direct_answers_are_skipped_on_test(tmp_path):
    files.aokvqa(tmp_path)
    (tmp_path / "aokvqa_v1p0_val.json").rename(tmp_path / "aokvqa_v1p0_test.json")
    benchmark = open_benchmark("aokvqa", DataSettings(tmp_path, split="test"))
    questions = benchmark.questions()
    units = benchmark.units(questions, {question.id: "wood" for question in questions})
    assert sum(unit.counts["questions"] for unit in units) == len(files.COCO_IDS) - 1
    assert sum(unit.counts["choices"] for unit in units) == len(files.COCO_IDS)


def test_mmbench(data):
    folder = data / "mmbench"
    rows = files.mmbench_rows()
    right = {str(row["index"]): f"({row['answer']})" for row in rows}
    found = answered(folder, "mmbench", right)
    assert {key: value for key, value in found.items() if value == 100} == dict.fromkeys(
        ("overall", "CP", "LR", "FP-C", "vanilla"), 100
    )
    # One wrong turn of the four loses the question under CircularEval, not in the plain count.
    found = answered(folder, "mmbench", {**right, "3000243": "none of these"})
    assert found["FP-C"] == 0 and found["overall"] == pytest.approx(200 / 3) and found["vanilla"] == 100
    book = openpyxl.load_workbook(folder / "given.submission.xlsx")
    table = [list(row) for row in book.active.iter_rows(values_only=True)]
    head = ["index", "question", "hint", "A", "B", "C", "D", "category", "l2-category", "split", "prediction"]
    assert table[0] == head and len(table) == len(rows) + 1
    assert table[1][0] == 241 and table[1][-1] == "(B)"


def test_mmbench_s_excel_holds_text_and_no_formula(tmp_path):
    files.mmbench(tmp_path)
    answered(tmp_path, "mmbench", '=HYPERLINK("http://x")\x07')
    cell = openpyxl.load_workbook(tmp_path / "given.submission.xlsx").active["K2"]
    assert cell.data_type == "s" and cell.value == '=HYPERLINK("http://x")'


def test_an_excel_table_that_is_none_is_refused(tmp_path):
    files.mmbench(tmp_path)
    (tmp_path / "broken.xlsx").write_bytes(b"no zip")
    book = openpyxl.Workbook()
    book.active.append(["index", "said"])
    book.save(tmp_path / "other.xlsx")
    for name, reason in (("broken", "cannot be read"), ("other", "'index' and 'prediction' are expected")):
        with pytest.raises(EvaluationError, match=reason):
            evaluate("mmbench", DataSettings(tmp_path), tmp_path / "r.json", predictions=tmp_path / f"{name}.xlsx")


def test_mmbench_without_rotations_is_rotated(tmp_path):
    rows = files.mmbench_rows()
    files.mmbench(tmp_path, [row for row in rows if row["index"] < 1_000_000], "MMBench_DEV_EN.tsv")
    made = {one.id: one for one in BENCHMARKS["mmbench"](DataSettings(tmp_path)).questions()}
    assert sorted(made) == sorted(str(row["index"]) for row in rows)
    for row in rows:
        question = made[str(row["index"])]
        assert question.reference["answer"] == row["answer"]
        assert [question.reference[letter] or "" for letter in "ABCD"] == [row[letter] for letter in "ABCD"]
    turns = rotations(rows[-1])
    assert len(turns) == 4 and len({turn["A"] for turn in turns}) == 4


def test_mmbench_rows_may_name_the_row_that_has_their_picture(tmp_path):
    rows = files.mmbench_rows()
    short = [
        {**row, "image": row["image"] if row["index"] < 1_000_000 else str(row["index"] % 1_000_000)} for row in rows
    ]
    files.mmbench(tmp_path, short)
    pictures = [one.picture for one in BENCHMARKS["mmbench"](DataSettings(tmp_path)).questions()]
    files.mmbench(tmp_path, rows)
    assert pictures == [one.picture for one in BENCHMARKS["mmbench"](DataSettings(tmp_path)).questions()]


def test_llava(data):
    folder = data / "llava"
    assert answered(folder, "llava", "A thing.") == {}
    answers = [json.loads(line) for line in (folder / "given.answers.jsonl").read_text().splitlines()]
    assert list(answers[0]) == ["question_id", "prompt", "text", "answer_id", "model_id", "metadata"]
    assert len({answer["answer_id"] for answer in answers}) == 6

    asked = []

    def judging(questions, references, given, contexts):
        asked.append((questions, references, given, contexts))
        return [{"question_id": one["question_id"], "category": one["category"], "scores": [8, 6]} for one in questions]

    settings, given = DataSettings(folder), folder / "given.jsonl"
    results = evaluate("llava", settings, folder / "j.json", predictions=given, judging=judging)
    assert results.figures["all"].value == results.figures["conv"].value == 75
    questions, references, given_answers, contexts = asked[0]
    assert questions[0] == json.loads((folder / "qa90_questions.jsonl").read_text().splitlines()[0])
    assert references[0]["text"] == "It is a thing." and given_answers == answers and len(contexts) == 2


def test_reviews_made_elsewhere(data, tmp_path):
    from vigc.evaluation import read_reviews

    folder = data / "llava"
    answered(folder, "llava", "A thing.")
    reviews = [
        {"id": number, "question_id": number, "answer1_id": "a", "answer2_id": "b", "content": "8 4", "tuple": scores}
        for number, scores in enumerate([[8, 4]] * 5 + [[-1, -1]])
    ]
    files.write_lines(tmp_path / "reviews.jsonl", reviews)
    judging = read_reviews(tmp_path / "reviews.jsonl")
    results = evaluate(
        "llava", DataSettings(folder), tmp_path / "r.json", predictions=folder / "given.jsonl", judging=judging
    )
    figures = {key: figure.value for key, figure in results.figures.items()}
    assert figures["all"] == pytest.approx(100 * 19 / 39) and figures["all_parsed"] == 50
    assert figures["failed"] == pytest.approx(100 / 6)


def test_reviews_in_both_orders_and_refusals(data, tmp_path):
    """As `judge_answers` gives them: two rows to a question, no scores where the judge refused."""
    from vigc.evaluation import read_reviews

    folder = data / "llava"
    answered(folder, "llava", "A thing.")
    rows = [{"question_id": number, "scores": scores} for number in range(6) for scores in ([8, 4], [6, 3])]
    rows[0] |= {"scores": None, "failure": "refused"}
    rows[3] |= {"scores": [-1, -1], "tuple": [4, 2]}  # read as released, not as we do
    files.write_lines(tmp_path / "reviews.jsonl", rows)
    judging, given = read_reviews(tmp_path / "reviews.jsonl"), folder / "given.jsonl"
    results = evaluate("llava", DataSettings(folder), tmp_path / "r.json", predictions=given, judging=judging)
    figures = {key: figure.value for key, figure in results.figures.items()}
    assert figures["all"] == figures["all_parsed"] == 50 and figures["failed"] == pytest.approx(100 / 11)


def test_chair_counts_what_captions_name_as_present(data):
    folder = data / "chair"
    assert answered(folder, "chair", "A man on a bench with a puppy.") == pytest.approx(
        # Every picture has a person; the dog is in two; the bench in the first by its captions alone.
        {"CHAIR_s": 75, "CHAIR_i": 100 * 5 / 12, "recall": 100 * 7 / 9, "words": 8}
    )
    submission = json.loads((folder / "given.submission.json").read_text())
    assert submission[0] == {"image_id": 42, "caption": "A man on a bench with a puppy."}


def test_chair_takes_the_authors_synonyms(data, tmp_path):
    files.instances(tmp_path)
    lines = "person, human\ndog, quadruped\ncat\nboat\nbench\n"
    (tmp_path / "synonyms.txt").write_text(lines)
    assert answered(tmp_path, "chair", "Two humans")["recall"] > 0
    assert math.isnan(answered(tmp_path, "chair", "Two women")["CHAIR_i"]), "those words are not in that file"


def test_chair_of_few_kinds_knows_the_others_names(tmp_path):
    """Of COCO's kinds the file has dog alone, and the file of synonyms has another one that holds the word."""
    images = [{"id": 9, "file_name": "a.jpg"}]
    notes = {"images": images, "annotations": [], "categories": [{"id": 1, "name": "dog"}]}
    files.write_json(tmp_path / "instances.json", notes)
    assert math.isnan(answered(tmp_path, "chair", "Two hot dogs.")["CHAIR_i"])
    assert answered(tmp_path, "chair", "Two prairie dogs.")["CHAIR_i"] == 100
    (tmp_path / "synonyms.txt").write_text("dog, puppy\nrodent, prairie dog\n")
    assert math.isnan(answered(tmp_path, "chair", "Two prairie dogs and hot dogs.")["CHAIR_i"])
    assert answered(tmp_path, "chair", "A puppy.")["CHAIR_i"] == 100


def test_chair_of_other_annotations(tmp_path):
    """Objects365 joins names by a slash, and has kinds that COCO's list does not know."""
    categories = [{"id": 1, "name": "Cabinet/shelf"}, {"id": 2, "name": "Street Lights"}, {"id": 3, "name": "Person"}]
    images = [{"id": 9, "file_name": "images/v1/patch0/objects365_v1_00000009.jpg", "width": 4, "height": 4}]
    notes = [{"id": 1, "image_id": 9, "category_id": 1}, {"id": 2, "image_id": 9, "category_id": 3}]
    files.write_json(tmp_path / "instances.json", {"images": images, "annotations": notes, "categories": categories})
    found = answered(tmp_path, "chair", "A woman at the shelves, by a cabinet and a street light.")
    assert found["CHAIR_i"] == pytest.approx(25) and found["recall"] == 100


def test_pope(data):
    folder = data / "pope"
    found = answered(folder, "pope", "Yes, there is.")
    assert {"accuracy": 50, "recall": 100, "precision": 50, "yes_ratio": 100}.items() <= found.items()
    assert found["random/f1"] == found["adversarial/f1"] == found["f1"] == pytest.approx(200 / 3)
    assert len(answered(folder, "pope", "No", split="popular")) == 2 * len(found) // 4
    answers = [json.loads(line) for line in (folder / "given.answers_popular.jsonl").read_text().splitlines()]
    assert answers[0] == {"question_id": 1, "question": "Is there a dog in the image?", "answer": "No"}


def test_limit_draws_pictures_with_all_their_questions(data):
    whole = BENCHMARKS["pope"](DataSettings(data / "pope")).questions()
    drawn = BENCHMARKS["pope"](DataSettings(data / "pope", limit=2, seed=1)).questions()
    kept = {question.image_id for question in drawn}
    assert len(kept) == 2 and drawn == [question for question in whole if question.image_id in kept]
    assert drawn == BENCHMARKS["pope"](DataSettings(data / "pope", limit=2, seed=1)).questions()


def test_a_prompt_of_ones_own(data):
    question = BENCHMARKS["okvqa"](DataSettings(data / "okvqa", prompt="Q: {question} A:")).questions()[0]
    assert question.prompt == question.text == "Q: What is thing 0? A:" and question.task is None


@pytest.mark.parametrize("name", NAMES)
def test_an_absent_file_is_named_with_where_it_comes_from(name, tmp_path):
    with pytest.raises(EvaluationError, match=r"needs .*\.(json|jsonl|tsv) .*get it from https://"):
        evaluate(name, DataSettings(tmp_path), tmp_path / "r.json", predictions=tmp_path / "p.jsonl")


@pytest.mark.parametrize(
    ("name", "settings", "reason"),
    [
        ("poem", {}, "'poem' is not known: use one of llava, mmbench"),
        ("pope", {"synonyms": "x"}, "The option 'synonyms' has no effect on pope"),
        ("okvqa", {"prompt": "Say something."}, r"has no question: it needs \{question\}"),
        ("okvqa", {"prompt": "{question} {poem}"}, r"cannot be filled .*\{question\}"),
        ("okvqa", {"limit": 0}, "limit=0"),
        ("mmbench", {"split": "test"}, "with 'test' in its name"),
        ("pope", {"split": "val2014"}, "no split 'val2014': use one of random"),
    ],
)
def test_settings_that_make_no_sense_are_refused(name, settings, reason, data, tmp_path):
    folder = data / name if (data / name).exists() else data
    with pytest.raises(EvaluationError, match=reason):
        open_benchmark(name, DataSettings(folder, **settings)).questions()


@pytest.mark.parametrize(
    ("name", "file", "old", "new", "reason"),
    [
        ("okvqa", "mscoco_val2014_annotations.json", '"question_id": 420', '"question_id": 1', "420 has no annotation"),
        (
            "okvqa",
            "OpenEnded_mscoco_val2014_questions.json",
            '"question": "What is thing 1?", ',
            "",
            "has no 'question'",
        ),
        ("aokvqa", "aokvqa_v1p0_val.json", '"steel", "paper"', '"steel"', "'choices' is .* four are expected"),
        ("llava", "qa90_questions.jsonl", '"complex"', '"poem"', "'category' 'poem' is none of conv"),
        ("llava", "qa90_gpt4_answer.jsonl", '"text"', '"said"', "entry 0: has no 'text'"),
        ("pope", "coco_pope_random.json", '"yes"', '"perhaps"', "'label' is 'perhaps'"),
        ("chair", "annotations/instances_val2014.json", '"category_id": 4', '"category_id": 99', "category 99"),
        ("mmbench", "mmbench_dev_20230712.tsv", "l2-category", "l2", "entry 0: has no 'l2-category'"),
        ("mmbench", "mmbench_dev_20230712.tsv", "241\t", "x\t", "'index' is 'x'"),
    ],
)
def test_damaged_files_are_refused_with_file_and_entry(name, file, old, new, reason, tmp_path):
    files.MAKERS[name](tmp_path)
    text = (tmp_path / file).read_text()
    assert old in text
    (tmp_path / file).write_text(text.replace(old, new))
    with pytest.raises((EvaluationError, ValueError), match=reason) as caught:
        open_benchmark(name, DataSettings(tmp_path)).questions()
    assert name == "pope" or file.split("/")[-1] in str(caught.value)
