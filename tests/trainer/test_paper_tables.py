"""The rows of the paper's tables: every command and file checked, steps done once, and a stock model tuned."""

import json
import re
import shutil
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch
from conftest import FIXTURES, ROOT
from dataset_rows import generated, write
from datasets import Dataset
from PIL import Image
from test_export_trl import model, processor  # noqa: F401 - a tiny stock model, as fixtures
from transformers import AutoModelForImageTextToText, AutoProcessor
from typer.testing import CliRunner

from vigc.cli.root import app
from vigc.processing import GENERATED_FEATURES

RECIPE = ROOT / "recipes" / "paper" / "tables"
NAMES = ("checks", "first_words", "run", "sft", "steps")
FILES = FIXTURES / "annotations"
PICTURES = 60
ROWS = {"table1": 11, "table2": 2, "table3": 5, "table4": 8}
SAMPLE = [
    ("table1", "llava-7b"), ("table1", "replace-combined"), ("table2", "minigpt4plus-coco"),
    ("table3", "llava-7b-objects365"), ("table3", "llava-13b-coco"), ("table4", "minigpt4plus-aokvqa-vigc"),
]  # fmt: skip
TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>\n{% elif message['role'] == 'assistant' %}"
    "{% generation %}{{ part['text'] }}</s>{% endgeneration %}{% else %}{{ part['text'] }} {% endif %}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)


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
def stock(tmp_path_factory):
    """A tiny LLaVA as its users have one: a folder, with a chat template that marks replies."""
    from test_export_trl import model as make_model
    from test_export_trl import processor as make_processor

    folder = tmp_path_factory.mktemp("stock")
    own = make_processor.__wrapped__()
    own.chat_template = TEMPLATE
    own.save_pretrained(folder)
    make_model.__wrapped__(own).save_pretrained(folder)
    return folder


def read(name):
    return json.loads((FILES / name).read_text(encoding="utf-8"))


def short_answers(root, part):
    """A part of OK-VQA and of A-OKVQA: enough questions to hold some out, about all pictures."""
    questions, annotations = (
        read("OpenEnded_mscoco_train2014_questions.json"),
        read("mscoco_train2014_annotations.json"),
    )
    ids = [{"image_id": n % PICTURES, "question_id": n} for n in range(800)]
    questions |= {"data_subtype": f"{part}2014", "questions": [{**questions["questions"][0], **one} for one in ids]}
    annotations |= {"annotations": [{**annotations["annotations"][0], **one} for one in ids]}
    entry = {**read("aokvqa_v1p0_train.json")[0], "split": part}
    for name, content in (
        (f"okvqa/OpenEnded_mscoco_{part}2014_questions.json", questions),
        (f"okvqa/mscoco_{part}2014_annotations.json", annotations),
        (f"aokvqa/aokvqa_v1p0_{part}.json", [{**entry, **one, "question_id": str(one["question_id"])} for one in ids]),
    ):
        if part != "test" or name.startswith("aokvqa"):
            (root / name).write_text(json.dumps(content), encoding="utf-8")


@pytest.fixture(scope="module")
def root(tmp_path_factory, vigc_folder, stock):
    """All that README.md of the recipes asks for, small."""
    root = tmp_path_factory.mktemp("root")
    for folder in ("llava", "okvqa", "aokvqa", "llava-bench", "mmbench", "models", "objects365/train"):
        (root / folder).mkdir(parents=True)
    for name in ("conversation_58k.json", "detail_23k.json", "complex_reasoning_77k.json"):
        (entry, *_) = read(name)
        entries = [{**entry, "id": n, "image": f"{n % PICTURES:012d}.jpg"} for n in range(1_000)]
        (root / "llava" / name).write_text(json.dumps(entries), encoding="utf-8")
    for part in ("train", "val", "test"):
        short_answers(root, part)
    published = ["qa90_questions.jsonl", "qa90_gpt4_answer.jsonl", "caps_boxes_coco2014_val_80.jsonl", "rule.json"]
    for name in (*(f"llava-bench/{one}" for one in published), "mmbench/mmbench_dev_20230712.tsv",
                 "objects365/zhiyuan_objv2_train.json"):  # fmt: skip
        (root / name).write_text("{}", encoding="utf-8")
    for subset in ("train2014", "val2014", "train2017", "val2017"):
        folder = root / "coco" / subset
        folder.mkdir(parents=True)
        for number in range(PICTURES):
            prefix = f"COCO_{subset}_" if subset.endswith("14") else ""
            Image.new("RGB", (24, 16), (number, 10, 30)).save(folder / f"{prefix}{number:012d}.jpg")
    for name in ("minigpt4plus-vicuna-7b", "instructblip-vicuna-7b"):
        (root / "models" / name).symlink_to(vigc_folder)
    for size in ("7b", "13b"):
        (root / "models" / f"llava-{size}-stage1").symlink_to(stock)
    return root


def dry_run(recipe, root, table, row, capsys):
    code = recipe["run"].main([table, row, "--root", str(root), "--dry-run", "--judge", "--model", "m", "--url", "u"])
    return code, capsys.readouterr().out


def check_row(recipe, root, table, row, capsys):
    code, output = dry_run(recipe, root, table, row, capsys)
    missing = [line for line in output.splitlines() if line.startswith("missing: ")]
    assert missing == [] and code == 0, output


@pytest.mark.parametrize(("table", "row"), SAMPLE)
def test_a_row_is_ready_when_all_is_there(table, row, recipe, root, capsys):
    check_row(recipe, root, table, row, capsys)


@pytest.mark.slow
@pytest.mark.parametrize("table", ROWS)
def test_every_row_is_ready_when_all_is_there(table, recipe, root, capsys):
    assert len(recipe["run"].TABLES[table]) == ROWS[table]
    for row in recipe["run"].TABLES[table]:
        check_row(recipe, root, table, row, capsys)


def test_each_file_counts(recipe, root):
    """Without it, the dry run names it."""
    place = recipe["steps"].Place(root, judge=("--model", "m"))
    seen = set()
    for rows in recipe["run"].TABLES.values():
        for row in rows.values():
            steps = row.steps(place)
            made = {step.makes for step in steps}
            assert len({step.name for step in steps}) == len(steps)
            for step in steps:
                for path in {*step.needs} - made - seen:
                    seen.add(path)
                    hidden = path.with_name(f"{path.name}.hidden")
                    path.rename(hidden)
                    try:
                        assert str(path) in recipe["checks"].problems_of(step, steps)
                    finally:
                        hidden.rename(path)
    # Nothing under the root was made in vain.
    files = {path for path in root.rglob("*") if path.is_file() and path.suffix in (".json", ".jsonl", ".tsv")}
    assert {path for path in files - seen if "models" not in path.parts} == set()


def test_commands_that_would_be_refused_are_named(recipe, root, stock, tmp_path):
    steps, check = recipe["steps"], recipe["checks"].problems_of

    def problem(tool, *words):
        step = steps.Step("it", tool, [str(word) for word in words], tmp_path / "made")
        return " ".join(check(step, [step]))

    assert "No such option" in problem("vigc", "mix", "a", "--output", "b", "--ad", "detail")
    assert "Missing parameter: model" in problem("vigc", "judge", "a", "--data", "b", "--output", "c")
    assert "no command 'paint'" in problem("vigc", "paint")
    assert "'bach_size' is not known" in problem("torchrun", "train", _recipe(tmp_path, bach_size=1))
    base = root / "llava/conversation_58k.json"
    told = problem("vigc", "mix", base, "--image-root", root / "coco/train2017", "--from", base, "--from-image-root",
                   root / "coco/train2017", "--add", "detail=7", "--output", tmp_path / "x")  # fmt: skip
    assert "7 instances of type detail are requested" in told
    unmarked = shutil.copytree(stock, tmp_path / "unmarked")
    (unmarked / "chat_template.jinja").write_text("{{ messages }}", encoding="utf-8")
    tuned = ["--config", RECIPE / "llava_7b.yaml", "--data", tmp_path, "--output_dir", tmp_path / "run"]
    told = problem("sft", *tuned, "--model", unmarked)
    assert "holds no data/*.parquet" in told and "marks no replies" in told
    coded = shutil.copytree(stock, tmp_path / "coded")
    config = json.loads((coded / "config.json").read_text(encoding="utf-8"))
    config |= {"model_type": "painted", "auto_map": {"AutoConfig": "configuration_painted.PaintedConfig"}}
    (coded / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert "contains custom code" in problem("sft", *tuned, "--model", coded)
    assert "learning_rats" in problem("sft", *tuned, "--model", unmarked, "--learning_rats", "1")
    assert "invalid float value: 'x'" in problem("sft", *tuned, "--model", unmarked, "--learning_rate", "x")
    assert "required: --model" in problem("sft", *tuned)


def _recipe(folder, **more):
    path = folder / "wrong.yaml"
    path.write_text(json.dumps({"model": "x", "data": [], **more}), encoding="utf-8")
    return path


def test_steps_are_done_once_and_a_failure_ends_the_row(recipe, root, tmp_path, capfd):
    steps, run = recipe["steps"], recipe["run"].run
    place = steps.Place(tmp_path, processes=2)
    counted = tmp_path / "vigc" / "words.json"
    questions = root / "okvqa/OpenEnded_mscoco_train2014_questions.json"
    words = steps.Step("words", "words", [str(questions), "--output", str(counted)], counted)
    broken = steps.Step("broken", "words", ["nowhere.json", "--output", str(tmp_path / "no")], tmp_path / "no")
    never = steps.Step("never", "words", [str(questions), "--output", str(tmp_path / "never")], tmp_path / "never")
    assert run([words, broken, never], place) == 1
    said = capfd.readouterr()
    assert "nowhere.json" in said.err and "broken ended with exit code 1" in said.out
    assert not (tmp_path / "never").exists()
    assert json.loads(counted.read_text(encoding="utf-8")) == recipe["first_words"].first_words(questions)
    stamp = counted.stat().st_mtime_ns
    assert run([words], place) == 0 and counted.stat().st_mtime_ns == stamp
    assert "done: words" in capfd.readouterr().out
    other = steps.Step("words", "words", [*words.words, "--more"], counted)
    assert run([other], place) == 4 and "was made by another command" in capfd.readouterr().out


def test_first_words_are_counted(recipe, tmp_path):
    path = tmp_path / "q.json"
    asked = ["What is it?", "Is it red?", "What now?", " ", "is it?"]
    path.write_text(json.dumps([{"question": text} for text in asked]), encoding="utf-8")
    assert recipe["first_words"].first_words(path) == {"What": 2, "Is": 1, "is": 1}


# A stock model, tuned on what `vigc mix` and `vigc export` write


@pytest.fixture(scope="module")
def chats(tmp_path_factory):
    """Four chats of a mixture with nothing but generated rows."""
    folder = tmp_path_factory.mktemp("chats")
    rows = [{**dict.fromkeys(GENERATED_FEATURES), **generated(n)} for n in range(4)]
    assert len(Dataset.from_list(rows, features=GENERATED_FEATURES)) == 4
    write(folder / "rows", rows)
    for words in (["mix", folder / "rows", "-o", folder / "mixed"],
                  ["export", folder / "mixed", "--format", "trl-sft", "-o", folder / "chats"]):  # fmt: skip
        result = CliRunner().invoke(app, [str(word) for word in words])
        assert result.exit_code == 0, result.output
    return folder / "chats"


def test_a_stock_model_is_tuned_with_its_picture_encoder_frozen(recipe, stock, chats, tmp_path):
    words = [
        "--config", RECIPE / "llava_7b.yaml", "--model", stock, "--data", chats, "--output_dir", tmp_path / "run",
        "--use_cpu", "true", "--bf16", "false", "--max_steps", "2", "--save_steps", "1", "--warmup_steps", "0",
        "--learning_rate", "1e-2", "--dataloader_num_workers", "0", "--per_device_train_batch_size", "2",
        "--disable_tqdm", "true",
    ]  # fmt: skip
    words = [str(word) for word in words]
    with pytest.raises(SystemExit) as ended:
        recipe["sft"].main([*words, "--dry_run", "true"])
    assert ended.value.code == 0
    recipe["sft"].main(words)
    before, after = (AutoModelForImageTextToText.from_pretrained(folder) for folder in (stock, tmp_path / "run"))
    moved = {
        name.split(".")[1]
        for (name, old), (_, new) in zip(before.named_parameters(), after.named_parameters(), strict=True)
        if not torch.equal(old, new)
    }
    assert AutoProcessor.from_pretrained(tmp_path / "run").chat_template == TEMPLATE
    assert {"language_model", "multi_modal_projector"} <= moved and "vision_tower" not in moved
    # Killed after the first checkpoint, it ends at the same weights.
    shutil.rmtree(tmp_path / "run" / "checkpoint-2")
    (tmp_path / "run" / "model.safetensors").unlink()
    recipe["sft"].main(words)
    again = AutoModelForImageTextToText.from_pretrained(tmp_path / "run")
    for (name, one), (_, other) in zip(after.named_parameters(), again.named_parameters(), strict=True):
        torch.testing.assert_close(one, other, msg=name, rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="the model has no module 'tower'; it has language_model"):
        recipe["sft"].freeze(before, ["tower"])


def test_the_readme_names_every_place(recipe):
    text = (RECIPE / "README.md").read_text(encoding="utf-8")
    for choices in re.findall(r"\{(\w+(?:,\w+)+)\}", text):
        text += "".join(text.replace(f"{{{choices}}}", choice) for choice in choices.split(","))
    for rows in recipe["run"].TABLES.values():
        for row in rows.values():
            steps = row.steps(recipe["steps"].Place(Path("/data")))
            for path in {need for step in steps for need in step.needs} - {step.makes for step in steps}:
                folder, _, name = str(path.relative_to("/data")).rpartition("/")
                assert f"`{folder}/" in text and name in text, path
