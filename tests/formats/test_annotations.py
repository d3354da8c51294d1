"""Published annotation files become training rows, exactly and back; damaged ones are refused with file and entry."""

import json
import logging

import pytest
from conftest import FIXTURES
from PIL import Image

from vigc.errors import AnnotationError
from vigc.formats import source_records
from vigc.formats.annotations import LAYOUTS, read_annotations, stream_annotations
from vigc.formats.coco import coco_names
from vigc.formats.json_rows import stream_entries
from vigc.formats.llava import image_id_of
from vigc.processing import TRAIN_FEATURES

FILES = FIXTURES / "annotations"
OKVQA = ("OpenEnded_mscoco_train2014_questions.json", "mscoco_train2014_annotations.json")
VQAV2 = ("v2_OpenEnded_mscoco_train2014_questions.json", "v2_mscoco_train2014_annotations.json")
PUBLISHED = {
    ("conversation_58k.json",): ("llava", "train2017"),
    ("detail_23k.json",): ("llava", "train2017"),
    ("complex_reasoning_77k.json",): ("llava", "train2017"),
    ("vigc_okvqa_train.json",): ("vigc", "train2014"),
    ("vigc_aokvqa_train.json",): ("vigc-aokvqa", "."),
    ("aokvqa_v1p0_train.json",): ("aokvqa", "train2017"),
    OKVQA: ("okvqa", "."),
    VQAV2: ("vqav2", "train2014"),
    ("stable_llava_animal.json",): ("stable-llava", "stable"),
}
SIDES = {"train2017/000000000009.jpg": 20, "train2017/000000000025.jpg": 22, "stable/animal/0.jpg": 24}
SIDES |= {"train2014/COCO_train2014_000000000009.jpg": 26, "train2014/COCO_train2014_000000000025.jpg": 28}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Pictures under the names of the published sets, each of a size of its own; COCO's picture 30 is missing."""
    root = tmp_path_factory.mktemp("pictures")
    for name, side in SIDES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (side, side)).save(root / name)
    return root


def settings_of(names, pictures):
    layout, folder = PUBLISHED[names]
    kind = {"type": "okvqa"} if layout == "vigc" else {}
    return {"files": [FILES / name for name in names], "images": pictures / folder, "layout": layout, **kind}


def columns(rows, *names):
    return [tuple(row[name] for name in names) for row in rows.remove_columns("image")]


def test_every_layout_has_a_golden_file():
    assert {layout for layout, _ in PUBLISHED.values()} == set(LAYOUTS)


@pytest.mark.parametrize("names", PUBLISHED, ids=lambda names: names[0])
def test_entries_come_back_exactly(names, pictures):
    rows, missing = read_annotations(**settings_of(names, pictures))
    assert rows.features == TRAIN_FEATURES
    published = [json.loads((FILES / name).read_text(encoding="utf-8")) for name in names]
    if len(names) == 2:
        answered = {entry["question_id"]: entry for entry in published[1]["annotations"]}
        entries = [
            {"question": entry, "annotation": answered[entry["question_id"]]} for entry in published[0]["questions"]
        ]
    else:
        entries = published[0]
    left_out = {entry.index for entry in missing}
    written = list(source_records(rows.remove_columns("image")))
    expected = [entry for index, entry in enumerate(entries) if index not in left_out]
    # As text: the order of the fields counts too.
    assert json.dumps(written) == json.dumps(expected)


@pytest.mark.parametrize("names", PUBLISHED, ids=lambda names: names[0])
def test_streamed_rows_are_the_same(names, pictures):
    settings = settings_of(names, pictures)
    rows = read_annotations(**settings).rows
    streamed = list(stream_annotations(**settings).remove_columns("image"))
    assert streamed == list(rows.remove_columns("image"))
    assert next(iter(stream_annotations(**settings)))["image"].size == rows[0]["image"].size


def test_conversations_give_a_row_per_turn_pair(pictures, caplog):
    with caplog.at_level(logging.WARNING):
        rows, missing = read_annotations(**settings_of(("conversation_58k.json",), pictures))
    assert columns(rows, "conversation_id", "turn", "question", "answers", "image_id", "type", "source") == [
        ("conversation_58k/0", 0, "What is on the table?", ["A blue cup, and beside it 2.5 oranges."], "000000000009",
         "conversation", "conversation_58k"),
        ("conversation_58k/0", 1, "Is the cup full?", ["No, it seems empty."], "000000000009", "conversation",
         "conversation_58k"),
        ("conversation_58k/1", 0, "Which animal stands under the tree?", ["A giraffe – a young one."], "000000000025",
         "conversation", "conversation_58k"),
        ("conversation_58k/2", 0, "Tell me what the weather is like.", ["It is\n\nsunny."], "000000000025",
         "conversation", "conversation_58k"),
    ]  # fmt: skip
    assert [(entry.path.name, entry.index, entry.image) for entry in missing] == [
        ("conversation_58k.json", 3, "000000000030.jpg"),
        ("conversation_58k.json", 4, None),
    ]
    assert "skipped 2 entries" in caplog.text and "000000000030.jpg" in caplog.text
    assert [row["image"].size for row in rows] == [(20, 20), (20, 20), (22, 22), (22, 22)]


def test_types_answers_and_pictures_of_the_other_layouts(pictures):
    found = {}
    for names, (layout, _) in PUBLISHED.items():
        rows = read_annotations(**settings_of(names, pictures)).rows
        found[names[0]] = [(row["type"], row["image"].size[0], row["image_id"], row["answers"]) for row in rows]
        assert all(row["question"] == row["question"].strip() and "<image>" not in row["question"] for row in rows), (
            layout
        )
    clay = ["clay", "clay", "ceramic", "clay", "clay", "pottery", "clay", "clay", "ceramic", "clay"]
    assert found["detail_23k.json"][0][0] == "detail"
    assert found["complex_reasoning_77k.json"][0][0] == "complex"
    assert found["vigc_okvqa_train.json"] == [
        ("okvqa", 26, "000000000009", ["orange", "orange", "mandarin"]),
        ("okvqa", 28, "000000000025", ["leaves"]),
    ]
    assert found["vigc_aokvqa_train.json"] == [("aokvqa", 20, "000000000009", ["clay", "clay", "ceramic"])]
    assert found["aokvqa_v1p0_train.json"] == [
        ("aokvqa", 20, "000000000009", clay),
        ("aokvqa", 22, "000000000025", ["zoo"]),  # no direct answer: the right choice
    ]
    # The pictures of 2014 and of 2017 are the same under two names: the questions' file says which.
    assert found[OKVQA[0]] == [
        ("okvqa", 26, "000000000009", ["orange"] * 9 + ["mandarin"]),
        ("okvqa", 28, "000000000025", ["leaf"] * 7 + ["grass"] * 3),
    ]
    assert found[VQAV2[0]][1] == ("vqav2", 26, "000000000009", ["blue"] * 8 + ["light blue", ""])
    assert found["stable_llava_animal.json"] == [("conversation", 24, "animal/0", ["It looks at the leaves above it."])]


def test_corrected_answers_are_exported_in_place(pictures):
    rows = list(read_annotations(**settings_of(("conversation_58k.json",), pictures)).rows.remove_columns("image"))
    rows[0]["answers"] = ["A cup."]
    rows[3]["question"] = "What is the weather?"
    first, _, last = source_records(rows)
    assert first["conversations"][:2] == [
        {"from": "human", "value": "What is on the table?\n<image>"},
        {"from": "gpt", "value": "A cup."},
    ]
    assert last["conversations"][0]["value"] == "<image>\nWhat is the weather?"
    rows = list(read_annotations(**settings_of(OKVQA, pictures)).rows.remove_columns("image"))
    rows[0]["answers"] = ["apple", "pear"]
    answers = next(source_records(rows))["annotation"]["answers"]
    assert answers == [{"answer": "apple", "answer_id": 1}, {"answer": "pear", "answer_id": 2}]


def test_names_and_ids_of_pictures():
    assert image_id_of("val2014/COCO_val2014_000000000042.jpg") == "000000000042"
    assert image_id_of("000000000042.jpg") == "000000000042"
    assert image_id_of("patch3/objects365_v2_00123.jpg") == "00123"
    assert image_id_of("my cat_1a.jpg") == "my cat_1a"
    names = coco_names(42, "val2017")
    assert names[:2] == ("000000000042.jpg", "val2017/000000000042.jpg")
    assert "train2014/COCO_train2014_000000000042.jpg" in names


LLAVA = {"id": "1", "image": "000000000009.jpg", "conversations": [
    {"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "That."},
]}  # fmt: skip
TURNS = LLAVA["conversations"]
VIGC = {"image": "000000000009.jpg", "question": "What?", "answer": ["a"]}
AOKVQA = {"split": "train", "image_id": 9, "question": "What?", "choices": ["a", "b"], "correct_choice_idx": 0}
DAMAGED = [
    ("llava", "x", r"entry 1: is 'x', but an object"),
    ("llava", {**LLAVA, "image": 9}, r"'image' is 9, but text"),
    ("llava", {**LLAVA, "image": "../000000000009.jpg"}, r"is not under"),
    ("llava", {**LLAVA, "conversations": None}, r"'conversations' is None"),
    ("llava", {**LLAVA, "conversations": TURNS[:1]}, r"'conversations' has 1 entries"),
    (
        "llava",
        {**LLAVA, "conversations": [TURNS[1], TURNS[0]]},
        r"'conversations\[0\].from' is 'gpt', but 'human' is expected",
    ),
    (
        "llava",
        {**LLAVA, "conversations": [TURNS[0], {"from": "gpt"}]},
        r"has no 'conversations\[1\].value', only 'from'",
    ),
    (
        "llava",
        {**LLAVA, "conversations": [TURNS[0], {"from": "gpt", "value": " "}]},
        r"'conversations\[1\].value' is ' '",
    ),
    ("llava", {**LLAVA, "conversations": [{"from": "human", "value": "<image>\n"}, TURNS[1]]}, r"which is empty"),
    ("llava", {**LLAVA, "conversations": [TURNS[0], {"from": "gpt", "value": "<image>"}]}, r"which is empty"),
    ("vigc", {"image": "000000000009.jpg", "answer": ["a"]}, r"has no 'question', only 'image', 'answer'"),
    ("vigc", {**VIGC, "answer": []}, r"'answer' is \[\]: at least one"),
    ("vigc", {**VIGC, "answer": ["a", 3]}, r"'answer' is \['a', 3\], but a list of texts"),
    ("vigc", {**VIGC, "question": 7}, r"'question' is 7"),
    ("vigc", {**VIGC, "weight": [0.5, 1]}, r"'weight' has 2 numbers for 1 answers: give one for each"),
    ("vigc", {**VIGC, "weight": ["much"]}, r"'weight' is \['much'\]: a list of numbers, 0 or more"),
    ("vigc", {**VIGC, "weight": [-1]}, r"'weight' is \[-1\]: a list of numbers, 0 or more"),
    ("vigc", {**VIGC, "weight": [0]}, r"'weight' is \[0\]: at least one answer needs a weight above 0"),
    ("vigc-aokvqa", {**VIGC, "direct_answers": ["a"]}, r"has no 'image_path'"),
    ("aokvqa", {**AOKVQA, "image_id": "9"}, r"'image_id' is '9', but a whole number"),
    (
        "aokvqa",
        {**AOKVQA, "correct_choice_idx": 2},
        r"_choice_idx' 2 is not an index into 'choices' \['a', 'b'\]",
    ),
    ("aokvqa", {**AOKVQA, "correct_choice_idx": True}, r"'correct_choice_idx' True is not an index into 'choices'"),
    ("stable-llava", {"image": "000000000009.jpg", "question": "<image>", "answer": "a"}, r"'question' is '<image>'"),
    ("stable-llava", {"image": "000000000009.jpg", "question": "What?", "answer": "<image>"}, r"'answer' is '<image>'"),
]


@pytest.mark.parametrize(("layout", "entry", "message"), DAMAGED)
def test_damaged_fields_are_refused_with_file_and_entry(layout, entry, message, pictures, tmp_path):
    good = {
        "llava": LLAVA,
        "vigc": VIGC,
        "vigc-aokvqa": {"image_path": "000000000009.jpg", "question": "What?", "direct_answers": ["a"]},
        "aokvqa": AOKVQA,
        "stable-llava": {"image": "000000000009.jpg", "question": "<image>\nWhat?", "answer": "That."},
    }[layout]
    path = tmp_path / "damaged.json"
    path.write_text(json.dumps([good, entry]), encoding="utf-8")
    with pytest.raises(AnnotationError, match=message) as caught:
        read_annotations(path, pictures / "train2017", layout=layout, type="detail")
    assert caught.value.index == 1 and str(path) in str(caught.value)


def test_weights_of_generated_answers_are_read(pictures, tmp_path):
    """The release's generated OK-VQA files: an answer is drawn by its weight."""
    entries = [{**VIGC, "ori_answer": "c", "answer": ["a", "b"], "weight": [31.25, 2]}, {**VIGC, "weight": 7.5}, VIGC]
    path = tmp_path / "generated.json"
    path.write_text(json.dumps(entries), encoding="utf-8")
    rows = list(
        read_annotations(path, pictures / "train2017", layout="vigc", type="okvqa").rows.remove_columns("image")
    )
    assert [(row["answers"], row["weights"]) for row in rows] == [
        (["a", "b"], [31.25, 2.0]), (["a"], [7.5]), (["a"], None),
    ]  # fmt: skip
    assert json.dumps(list(source_records(rows))) == json.dumps(entries)
    rows[0]["answers"] = ["b"]
    assert next(source_records(rows)) == {**entries[0], "answer": ["b"], "weight": None}


@pytest.mark.parametrize("image", [".", "animal", "animal/"])
def test_a_folder_is_no_picture(image, pictures, tmp_path):
    path = tmp_path / "detail.json"
    path.write_text(json.dumps([{**LLAVA, "image": "animal/0.jpg"}, {**LLAVA, "image": image}]), encoding="utf-8")
    rows, missing = read_annotations(path, pictures / "stable", layout="llava")
    assert rows["image_id"] == ["0"]
    assert [(one.index, one.image) for one in missing] == [(1, image)]


@pytest.mark.parametrize("layout", ["llava", "stable-llava"])
@pytest.mark.parametrize("answer", ["<image>\nThat.", " That. <image>", "That <image> one."])
def test_an_answer_holds_no_mark_of_the_picture(layout, answer, pictures, tmp_path):
    turns = [TURNS[0], {**TURNS[1], "value": answer}]
    entry = {"image": "000000000009.jpg", "question": "<image>\nWhat?", "answer": answer}
    entry = {**LLAVA, "conversations": turns} if layout == "llava" else entry
    path = tmp_path / "detail.json"
    path.write_text(json.dumps([entry]), encoding="utf-8")
    rows, _ = read_annotations(path, pictures / "train2017", layout=layout)
    assert rows["answers"] == [["That one." if "one" in answer else "That."]]
    assert list(source_records(rows.remove_columns("image"))) == [entry]


def damaged_pair(tmp_path, change):
    questions, annotations = (json.loads((FILES / name).read_text(encoding="utf-8")) for name in OKVQA)
    change(questions["questions"], annotations["annotations"])
    paths = [tmp_path / name for name in OKVQA]
    for path, content in zip(paths, (questions, annotations), strict=True):
        path.write_text(json.dumps(content), encoding="utf-8")
    return paths


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda q, a: a.pop(), r"questions.json, entry 0: 'question_id' 91 has no annotation"),
        (
            lambda q, a: q.append(q[0]),
            r"questions.json, entry 2: 'question_id' 91 has no annotation .* or occurs twice",
        ),
        (lambda q, a: q.pop(), r"annotations.json: 1 annotations answer no question of .* the first 251"),
        (
            lambda q, a: a.append(a[0]),
            r"annotations.json, entry 2: 'question_id' is 251: each annotation needs its own",
        ),
        (
            lambda q, a: (q[0].update(question_id=True), a[1].update(question_id=1)),
            r"questions.json, entry 0: 'question_id' True has no annotation",
        ),
        (lambda q, a: a[1].update(image_id=10), r"questions.json, entry 0: 'image_id' is 9, but 10 in the annotations"),
        (lambda q, a: a[1].update(answers=["x"]), r"questions.json, entry 0: 'answers' of its annotation is \['x'\]"),
        (lambda q, a: a[1]["answers"][0].pop("answer"), r"entry 0: 'answers' is \[None, 'orange'"),
    ],
)
def test_two_files_that_do_not_belong_together(change, message, pictures, tmp_path):
    with pytest.raises(AnnotationError, match=message):
        read_annotations(damaged_pair(tmp_path, change), pictures, layout="okvqa")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "starts with ''"),
        ('{"a": 1}', r"starts with '\{', but a list"),
        ("[1, 2", r"entry 2: the file ends here"),
        ("[1, {]", r"entry 1: is not valid JSON"),
        ("[1 2]", r"entry 1: has '2' instead of"),
        ("[1, ]", r"entry 1: a ',' ends the list"),
        ("[1] x", r"has 'x' after its end"),
        ("[" * 100_000, r"entry 0: is nested too deeply"),
        (f'[1, {{"id": {"9" * 5_000}}}]', r"damaged.json, line 1, entry 1: has an invalid number"),
    ],
)
def test_damaged_json_is_refused(text, message, tmp_path):
    path = tmp_path / "damaged.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(AnnotationError, match=message):
        list(stream_entries(path))


def test_every_cut_of_a_file_is_noticed(tmp_path):
    data = (FILES / "conversation_58k.json").read_bytes().rstrip()
    path = tmp_path / "cut.json"
    for length in range(0, len(data), 7):
        path.write_bytes(data[:length])
        with pytest.raises(AnnotationError):
            list(stream_entries(path))


@pytest.mark.parametrize("chunk", [1, 2, 7, 64])
def test_entries_do_not_depend_on_where_reading_pauses(chunk, monkeypatch, tmp_path):
    from vigc.formats import json_stream

    monkeypatch.setattr(json_stream, "_CHUNK", chunk)
    for names in PUBLISHED:
        for name in names:
            content = json.loads((FILES / name).read_text(encoding="utf-8"))
            keys = [key for key in ("questions", "annotations") if isinstance(content, dict) and key in content]
            read = list(stream_entries(FILES / name, keys[0] if keys else None))
            assert read == (content[keys[0]] if keys else content), name
    path = tmp_path / "numbers.json"
    path.write_text("\ufeff [12, 345, -6.75e2 , null, true]\n", encoding="utf-8")
    assert list(stream_entries(path)) == [12, 345, -675.0, None, True]


def test_what_is_asked_for_must_make_sense(pictures, tmp_path):
    llava = FILES / "conversation_58k.json"
    with pytest.raises(ValueError, match=r"layout 'coco' is not known: use one of llava"):
        read_annotations(llava, pictures, layout="coco")
    with pytest.raises(ValueError, match=r"'okvqa' is read from its questions and its annotations, but 1 files"):
        stream_annotations(llava, pictures, layout="okvqa")
    with pytest.raises(ValueError, match=r"nowhere' is not a folder"):
        stream_annotations(llava, pictures / "nowhere", layout="llava")
    mixed = tmp_path / "llava_instruct_150k.json"
    mixed.write_text(json.dumps([LLAVA]), encoding="utf-8")
    with pytest.raises(ValueError, match=r"llava_instruct_150k.json has no task type"):
        read_annotations(mixed, pictures / "train2017", layout="llava")
    with pytest.raises(AnnotationError, match=r"none of the images of its 5 entries is under .*'000000000009.jpg'"):
        read_annotations(llava, pictures, layout="llava")
    with pytest.raises(AnnotationError, match=r"has no 'questions', only 'annotations'"):
        list(stream_entries(_written(tmp_path, {"annotations": []}), "questions"))
    with pytest.raises(AnnotationError, match=r"holds no entries"):
        read_annotations(_written(tmp_path, []), pictures, layout="llava", type="detail")
    with pytest.raises(AnnotationError, match=r"cannot be read"):
        list(stream_entries(tmp_path / "absent.json"))


def _written(folder, content):
    path = folder / "small.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


@pytest.mark.slow
def test_memory_does_not_grow_with_the_file(tmp_path):
    import tracemalloc

    path = tmp_path / "large.json"
    with path.open("w", encoding="utf-8") as file:
        file.write("[")
        for index in range(150_000):
            file.write(("," if index else "") + json.dumps({**LLAVA, "id": index, "text": "x" * 400}))
        file.write("]")
    tracemalloc.start()
    assert sum(1 for _ in stream_entries(path)) == 150_000
    assert tracemalloc.get_traced_memory()[1] < 16 << 20
    tracemalloc.stop()
