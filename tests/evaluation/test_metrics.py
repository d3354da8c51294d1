"""Metrics against hand-computed examples, other implementations' results, and counts by brute force."""

import http.server
import json
import math
import os
import random
import re
import shutil
import subprocess
import sys
import threading
from collections import Counter

import evaluate
import pytest
from conftest import FIXTURES, ROOT

from vigc.evaluation import written_figures
from vigc.evaluation.metrics.chair import chair
from vigc.evaluation.metrics.mmbench import mmbench
from vigc.evaluation.metrics.vqa_accuracy import vqa_accuracy
from vigc.trainer.evaluation import WrittenRow

FOLDER = ROOT / "evaluation" / "metrics"
NAMES = sorted(path.name for path in FOLDER.iterdir() if (path / "README.md").exists())


def load(name):
    return evaluate.load(str(FOLDER / name))


def golden(name):
    return json.loads((FIXTURES / "evaluation" / name).read_text(encoding="utf-8"))


def test_there_are_five():
    assert NAMES == ["chair", "llava_relative_score", "mmbench", "pope", "vqa_accuracy"]


class Hub(http.server.BaseHTTPRequestHandler):
    """A Space with the files of one metric, served as the Hub serves them."""

    def do_GET(self):
        found = re.fullmatch(r"/spaces/someone/pope/resolve/[^/]+/(\w+\.py)", self.path.split("?")[0])
        path = FOLDER / "pope" / found[1] if found else None
        data = path.read_bytes() if path and path.exists() else b""
        self.send_response(200 if data else 404)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", '"1"')
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    do_HEAD = do_GET

    def log_message(self, *_):
        pass


@pytest.fixture
def hub():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_metrics_stand_alone(tmp_path, hub):
    """Copied away, or as a Space of the Hub, they load where vigc is not, and the examples of their cards run."""
    code = "import sys\nsys.modules['vigc'] = None\n"
    for name in NAMES:
        shutil.copytree(FOLDER / name, tmp_path / name)
        card = (tmp_path / name / "README.md").read_text(encoding="utf-8")
        code += re.search(r"```python\n(.*?)```", card, re.DOTALL)[1]
        outputs = load(name).inputs_description.split("Returns")[1].split("Examples")[0]
        documented = re.findall(r"([\w-]+)(?:, [\w-]+)* \(float\)", outputs)
        assert documented and all(f"`{output}`" in card for output in documented), name
    code += "metric = evaluate.load('someone/pope')\n"
    code += "print(metric.compute(predictions=['yes', 'no'], references=['yes', 'yes'])['recall'])"
    environment = {**os.environ, "HF_ENDPOINT": hub, "HF_HUB_OFFLINE": "0", "HF_DATASETS_OFFLINE": "0"}
    environment |= {"HF_EVALUATE_OFFLINE": "0", "HF_HOME": str(tmp_path / "home"), "NO_PROXY": "127.0.0.1"}
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["50.0"]


@pytest.mark.parametrize("name", NAMES)
def test_the_example_of_the_docstring_holds(name):
    import doctest

    text = load(name).inputs_description.replace(f'evaluate.load("{name}")', f"evaluate.load({str(FOLDER / name)!r})")
    examples = doctest.DocTestParser().get_doctest(text, {"evaluate": evaluate}, name, None, 0)
    assert examples.examples
    assert doctest.DocTestRunner().run(examples).failed == 0


# VQA accuracy


def test_answers_are_normalised_as_evalai_does():
    pairs = golden("normalized_answers.json")["pairs"]
    assert len(pairs) > 500
    wrong = [(text, expected) for text, expected in pairs if vqa_accuracy.normalize_answer(text) != expected]
    assert not wrong


# Spellings of one answer each: equal by construction, whatever the code thinks of them.
SPELLINGS = [
    ["two", "2", "Two.", "the two", " 2 "],
    ["ice cream", "Ice cream", "an ice cream", "ice-cream", "the ice cream!"],
    ["don't", "dont", "Don't."],
    ["10", "ten", "Ten"],
    ["red", "RED", "a red", "red?"],
    ["skateboard", "the skateboard"],
]


@pytest.mark.parametrize("name", ["accuracy", "exact"])
def test_vqa_accuracy_equals_a_count_by_brute_force(name):
    rng = random.Random(11)
    rows = [
        (rng.randrange(len(SPELLINGS)), [rng.choice([0, 1, rng.randrange(6)]) for _ in range(rng.choice([2, 5, 10]))])
        for _ in range(1000)
    ]
    predictions = [rng.choice(SPELLINGS[said]) for said, _ in rows]
    references = [[rng.choice(SPELLINGS[answer]) for answer in answers] for _, answers in rows]
    total = 0.0
    for (said, answers), prediction, texts in zip(rows, predictions, references, strict=True):
        if name == "exact":
            total += min(1, texts.count(prediction) / 3)
            continue
        scores = []
        for left_out in range(len(answers)):
            others = [answer for at, answer in enumerate(answers) if at != left_out]
            scores.append(min(1, others.count(said) / 3))
        total += sum(scores) / len(scores)
    found = load("vqa_accuracy").compute(predictions=predictions, references=references)
    assert found[name] == pytest.approx(100 * total / 1000, abs=1e-9)


@pytest.mark.parametrize(("people", "expected"), [(0, 0), (1, 30), (2, 60), (3, 90), (4, 100), (10, 100)])
def test_vqa_accuracy_of_ten_people(people, expected):
    """The steps that follow from the definition with ten answers (Antol et al.: 0, .3, .6, .9, 1)."""
    answers = ["yes"] * people + ["no"] * (10 - people)
    found = load("vqa_accuracy").compute(predictions=["Yes"], references=[answers])["accuracy"]
    assert found == pytest.approx(expected)


# CHAIR


def objects_by_brute_force(text, groups):
    """Every stretch of words is looked at; the longest name that begins first wins."""
    words = re.findall(r"[a-z]+", text.lower())
    names = {}
    for kind, *others in groups:
        for name in (kind, *others):
            names[name] = names[f"{name}s"] = kind
    found, at = [], 0
    while at < len(words):
        ends = [end for end in range(len(words), at, -1) if " ".join(words[at:end]) in names]
        if ends:
            found.append(names[" ".join(words[at : ends[0]])])
        at = ends[0] if ends else at + 1
    return found


GROUPS = [["dog", "puppy"], ["hot dog", "sausage roll"], ["cat"], ["wine glass"], ["glass"], ["bench", "park seat"]]


def test_chair_equals_a_count_by_brute_force():
    rng = random.Random(5)
    fillers = ["a", "the", "with", "hot", "wine", "red", "and", "park", "running,", "near."]
    nouns = [name + ending for group in GROUPS for name in group for ending in ("", "s") if not name.endswith("s")]
    nouns = [name for name in nouns if name not in ("puppys", "benchs")]
    texts = [" ".join(rng.choice(fillers if rng.random() < 0.6 else nouns) for _ in range(12)) for _ in range(500)]
    shown = [rng.sample([group[0] for group in GROUPS], rng.randint(0, 4)) for _ in texts]
    mentions = [objects_by_brute_force(text, GROUPS) for text in texts]
    wrong = [[kind for kind in said if kind not in there] for said, there in zip(mentions, shown, strict=True)]
    found = load("chair").compute(predictions=texts, references=shown, synonyms=GROUPS)
    assert found["CHAIR_s"] == pytest.approx(100 * sum(map(bool, wrong)) / 500)
    assert found["CHAIR_i"] == pytest.approx(100 * sum(map(len, wrong)) / sum(map(len, mentions)))
    seen = sum(len(set(said) & set(there)) for said, there in zip(mentions, shown, strict=True))
    assert found["recall"] == pytest.approx(100 * seen / sum(map(len, shown)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A man and two children ride their bikes.", ["person", "person", "bicycle"]),
        ("Three women, people on benches; some geese and mice", ["person", "person", "bench", "bird", "mouse"]),
        ("A baby elephant near a hot dog stand", ["elephant", "hot dog"]),
        ("The toilet seat is up, and the seat of the toilet is blue", ["toilet", "toilet"]),
        ("A stuffed bear, a teddy bear, a bear", ["teddy bear", "teddy bear", "bear"]),
        ("Two train tracks and a passenger train", ["train"]),
        ("The cat's bow tie and the buses' wheels, knives and scissors", ["cat", "tie", "bus", "knife", "scissors"]),
        ("TVs, sheep, skis, doughnuts, tomatoes, wine glasses", ["tv", "sheep", "skis", "donut", "wine glass"]),
        ("A T-shirt with a traffic-light print; potted plants", ["traffic light", "potted plant"]),
        ("Nothing here, not even words like carpet, catalogue or dogma", []),
    ],
)
def test_chair_reads_objects_of_coco(text, expected):
    assert chair.Vocabulary().mentions(text) == expected


@pytest.mark.parametrize(
    ("groups", "text", "expected"),
    [
        ([["dog"], ["cat"]], "Two hot dogs and a dog", ["dog"]),
        ([["bear"]], "a teddy bear, stuffed bears, a bear", ["bear"]),
        ([["bicycle", "bike"], ["oven"]], "a motor bike, a microwave oven, a bike", ["bicycle"]),
        ([["person", "baby", "player", "passenger"]], "a baby elephant, passenger trains", []),
        ([["person", "baby"]], "a baby giraffe beside a baby", ["person"]),
        ([["chair", "seat"]], "the toilet seat, the seat of the toilet, a seat", ["chair"]),
        ([["dogs"]], "a hot dog, a baby dog, a dog", ["dogs", "dogs"]),
        # A kind of its own group that bears a shorter name of that group: no other thing.
        (
            [["phone"], ["table"], ["ball"]],
            "a cell phone on a dining table by a soccer ball",
            ["phone", "table", "ball"],
        ),
        ([["player"]], "a baseball player", ["player"]),
        (
            [["Traffic Light"], ["Street Lights"], ["light"]],
            "traffic lights, a street light, a light",
            ["traffic light", "street lights", "light"],
        ),
        ([["stop light"]], "a stop light", ["stop light"]),
    ],
)
def test_names_of_kinds_that_are_not_asked_for_shield_their_words(groups, text, expected):
    assert chair.Vocabulary(groups).mentions(text) == expected


def test_chair_of_kinds_of_ones_own_is_shielded_too():
    found = load("chair").compute(predictions=["A hot dog."], references=[["cat"]], synonyms=[["dog"], ["cat"]])
    assert found["CHAIR_s"] == 0 and math.isnan(found["CHAIR_i"])
    assert chair.Vocabulary([["sheep"]], [["sheep dog"]]).mentions("a sheep dog, a sheep") == ["sheep"]


def test_shields_change_nothing_where_all_kinds_are_asked_for():
    own = chair.Vocabulary()
    assert {form for form, meant in own._forms.items() if meant is None} == {
        tuple(form.split()) for name, meant in chair._PHRASES.items() if meant is None for form in chair._forms_of(name)
    }


def test_cocos_kinds_are_complete_and_apart():
    groups = chair.coco_synonyms()
    assert len(groups) == 80 and groups[0][0] == "person" and groups[-1][0] == "toothbrush"
    twice = [name for name, count in Counter(name for group in groups for name in group).items() if count > 1]
    assert not twice


def test_chair_of_the_paper_s_kind_of_example():
    """Of five mentions two are of things that are not there; one of the two texts has them."""
    texts = ["A cat and a dog lie on a couch.", "A dog on a bench."]
    found = load("chair").compute(predictions=texts, references=[["couch"], ["dog", "bench", "person"]])
    assert found == {"CHAIR_s": 50.0, "CHAIR_i": 40.0, "recall": 75.0, "words": 7.0}


# POPE


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Yes, there is a dog.", "yes"),
        ("No", "no"),
        ("no, there is none", "no"),
        ("There is not a dog. Yes.", "no"),
        ("Yes. There is no cat.", "yes"),
        ("I cannot tell", "yes"),
        ("", "yes"),
        ("NO", "yes"),  # as the authors' script has it
    ],
)
def test_pope_reads_an_answer_as_its_authors_do(text, expected):
    assert load("pope").compute(predictions=[text], references=["yes"])["yes_ratio"] == 100.0 * (expected == "yes")


def test_pope_equals_a_count_by_brute_force():
    rng = random.Random(3)
    truth = [rng.choice(["yes", "no"]) for _ in range(400)]
    said = [rng.choice(["Yes.", "No.", "Perhaps"]) for _ in truth]
    pairs = Counter((label, "no" if text == "No." else "yes") for label, text in zip(truth, said, strict=True))
    hit, miss, false = pairs["yes", "yes"], pairs["yes", "no"], pairs["no", "yes"]
    precision, recall = hit / (hit + false), hit / (hit + miss)
    found = load("pope").compute(predictions=said, references=truth)
    expected = {
        "accuracy": (hit + pairs["no", "no"]) / 400,
        "precision": precision,
        "recall": recall,
        "f1": 2 * precision * recall / (precision + recall),
        "yes_ratio": (hit + false) / 400,
        "unclear": said.count("Perhaps") / 400,
    }
    assert found == pytest.approx({name: 100 * value for name, value in expected.items()})


# MMBench and LLaVA-eval


def test_choices_are_read_as_mmbench_does():
    reference = golden("choices.json")
    wrong = [
        (text, expected)
        for text, expected in reference["pairs"]
        if mmbench.read_choice(text, reference["options"]) != expected
    ]
    assert not wrong


def test_an_option_inside_another_can_be_chosen_by_its_text():
    options = {"A": "red wood", "B": "wood"}
    assert mmbench.read_choice("Red wood", options) == "A"
    assert mmbench.read_choice("It is red wood.", options) is None


def test_mmbench_by_hand():
    """Three questions: one right in both turns, one in one turn only, one never named."""
    base = {"A": "cat", "B": "dog", "C": "", "D": ""}
    turned = {**base, "A": "dog", "B": "cat"}
    rows, said = [], []
    for number, ability, answers in (
        (1, "logic_reasoning", "AB"),
        (2, "logic_reasoning", "AA"),
        (3, "attribute_reasoning", "??"),
    ):
        rows.append({"index": number, "answer": "A", "l2-category": ability, **base})
        rows.append({"index": number + 1_000_000, "answer": "B", "l2-category": ability, **turned})
        said += list(answers)
    found = load("mmbench").compute(predictions=said, references=rows)
    assert {name: value for name, value in found.items() if not math.isnan(value)} == pytest.approx(
        {"overall": 100 / 3, "LR": 50, "AR": 0, "vanilla": 200 / 3, "unmatched": 100 / 3}
    )
    assert {name for name, value in found.items() if math.isnan(value)} == {"RR", "FP-S", "FP-C", "CP"}


def test_llava_relative_score_by_hand():
    rows = [("conv", 8, 10), ("conv", 7, 9), ("detail", 6, 8), ("complex", 9, 9), ("complex", -1, -1)]
    found = load("llava_relative_score").compute(
        categories=[row[0] for row in rows], predictions=[row[1] for row in rows], references=[row[2] for row in rows]
    )
    expected = {"conv": 15 / 19, "detail": 6 / 8, "complex": 8 / 8, "all": 29 / 35, "failed": 1 / 5}
    expected |= {"conv_parsed": 15 / 19, "detail_parsed": 6 / 8, "complex_parsed": 9 / 9, "all_parsed": 30 / 36}
    assert found == pytest.approx({name: 100 * value for name, value in expected.items()})


@pytest.mark.parametrize(
    ("name", "inputs", "reason"),
    [
        ("vqa_accuracy", {"predictions": ["a"], "references": [["a"]]}, "has 1 answers .*at least two"),
        ("vqa_accuracy", {"predictions": ["a"], "references": ["a"]}, "string but expected a list"),
        ("vqa_accuracy", {"predictions": ["a", "b"], "references": [["a", "a"]]}, r"Mismatch .*predictions \(2\)"),
        ("chair", {"predictions": ["a"], "references": [["unicorn"]]}, "'unicorn' is not among the known kinds"),
        ("chair", {"predictions": ["a"], "references": [["a"]], "synonyms": []}, "needs a list of names"),
        ("pope", {"predictions": ["a"], "references": ["maybe"]}, "'maybe' is neither 'yes' nor 'no'"),
        ("pope", {"predictions": [], "references": []}, "no predictions"),
        (
            "llava_relative_score",
            {"predictions": [-1.0], "references": [5.0], "categories": ["conv"]},
            "-1.0 and 5.0 are no scores",
        ),
        (
            "llava_relative_score",
            {"predictions": [1.0], "references": [5.0], "categories": ["poem"]},
            "'poem' is not known",
        ),
        (
            "mmbench",
            {
                "predictions": ["A"],
                "references": [{"index": 1, "answer": "C", "l2-category": "x", "A": "a", "B": "b", "C": "", "D": ""}],
            },
            "'answer' 'C' of row 1 is none of its options",
        ),
        (
            "mmbench",
            {
                "predictions": ["A"],
                "references": [{"index": 1, "answer": "A", "l2-category": "x", "A": "a", "B": "b", "C": "", "D": ""}],
            },
            "'l2-category' 'x' of row 1 is not known",
        ),
    ],
)
def test_inputs_of_the_wrong_shape_are_refused(name, inputs, reason):
    with pytest.raises(ValueError, match=reason):
        load(name).compute(**inputs)


# What a model in training writes


def written(type, references, given=None, draft=None, answer=None):
    return WrittenRow(0, type, "What?", references, "", draft and "What?", draft, answer, given)


def test_written_texts_give_the_figures_of_their_types():
    people = ["red"] * 3 + ["dark red"] * 7
    rows = [
        written("okvqa", people, given="Red."),  # what three of ten people said
        written("aokvqa", people, given="dark red"),
        written("vqav2", ["two"], given="2"),  # the only answer there is
        written("okvqa", ["two"], given=None),
        written("detail", ["A cat."], draft="A cat.", answer="A  cat."),
        written("complex", ["A cat."], draft="A dog.", answer="A cat."),
        written("conversation", ["A cat."]),  # no pair
        written("conversation", ["A cat."], draft="A dog.", answer="A dog."),
    ]
    figures = written_figures(rows)
    assert figures == {"vqa_accuracy": pytest.approx((0.9 + 1 + 1 + 0) / 4), "edit_rate": pytest.approx(1 / 3)}
    assert set(written_figures(rows[:4])) == {"vqa_accuracy"} and set(written_figures(rows[4:])) == {"edit_rate"}
    assert written_figures([written("detail", ["A cat."])]) == {}
