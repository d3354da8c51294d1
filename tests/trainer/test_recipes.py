"""Runs described by a recipe: what is accepted, what a dry run finds, the published recipes, and `vigc train`."""

import json
import shutil
from importlib.util import find_spec

import pytest
import torch
import yaml
from conftest import FIXTURES, ROOT
from datasets import Dataset
from PIL import Image
from training import QUICK, digest
from typer.testing import CliRunner

from vigc.cli.root import app
from vigc.formats.hf_datasets import load_rows
from vigc.modeling_vigc import VigcForConditionalGeneration
from vigc.processing import GENERATED_FEATURES, VigcProcessor
from vigc.scenes import VIGC_TINY, write_scenes
from vigc.trainer import VigcTrainer, VigcTrainingArguments, dry_run, train
from vigc.trainer.recipe import read_recipe
from vigc.trainer.train import load_data, load_model

RECIPES = sorted((ROOT / "recipes").rglob("*.yaml"))
TRAINING = [path for path in RECIPES if path.parent.name in ("paper", "lora")]
FILES = FIXTURES / "annotations"
PLACES = {
    "conversation_58k.json": "llava", "detail_23k.json": "llava", "complex_reasoning_77k.json": "llava",
    "aokvqa_v1p0_train.json": "aokvqa", "OpenEnded_mscoco_train2014_questions.json": "okvqa",
    "mscoco_train2014_annotations.json": "okvqa",
}  # fmt: skip


@pytest.fixture(scope="module")
def data_root(tmp_path_factory):
    """The published data's places, with small files: what a user of the recipes has under --data_root."""
    root = tmp_path_factory.mktemp("data")
    for name, folder in PLACES.items():
        (root / folder).mkdir(exist_ok=True)
        shutil.copy(FILES / name, root / folder / name)
        if folder == "llava" and not name.startswith("conversation"):
            (entry,) = json.loads((FILES / name).read_text(encoding="utf-8"))
            entries = [{**entry, "image": f"{number:012d}.jpg"} for number in (9, 25)]
            (root / folder / name).write_text(json.dumps(entries), encoding="utf-8")
        if folder != "llava":
            copied = root / folder / name.replace("train", "val")
            copied.write_text((FILES / name).read_text(encoding="utf-8").replace('"train"', '"val"'), encoding="utf-8")
    for subset in ("train2014", "val2014", "train2017", "val2017"):
        folder = root / "coco" / subset
        folder.mkdir(parents=True)
        for number in (9, 25):
            prefix = f"COCO_{subset}_" if subset.endswith("14") else ""
            Image.new("RGB", (80, 60), (number * 9, 10, 30)).save(folder / f"{prefix}{number:012d}.jpg")
    return root


@pytest.fixture
def recipe(tmp_path, data_root, vigc_folder):
    questions, answers = "OpenEnded_mscoco_train2014_questions.json", "mscoco_train2014_annotations.json"

    def write(**changes):
        values = {
            "model": str(vigc_folder), "output_dir": str(tmp_path / "run"), "data_root": str(data_root),
            "data": [
                {"layout": "okvqa", "images": "coco/train2014",
                 "files": [f"okvqa/{questions}", f"okvqa/{answers}"]},
                {"layout": "llava", "files": "llava/conversation_58k.json", "images": "coco/train2017"},
            ],
            "validation_data": [{"layout": "llava", "files": "llava/detail_23k.json", "images": "coco/train2017"}],
            **QUICK, **changes,
        }  # fmt: skip
        path = tmp_path / "recipe.yaml"
        path.write_text(
            yaml.safe_dump({name: value for name, value in values.items() if value != "drop"}), encoding="utf-8"
        )
        return path

    return write


def run(*arguments):
    return CliRunner().invoke(app, ["train", *map(str, arguments)])


# The published recipes


@pytest.mark.parametrize("path", TRAINING, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_published_recipes_are_right_to_the_last_path(path, data_root, vigc_folder, tmp_path):
    held_out = ["--validation_rows", "2"] if "llava" in path.stem else []
    overrides = ["--data_root", str(data_root), "--model", str(vigc_folder), "--output_dir", str(tmp_path), *held_out]
    if path.stem == "llava_qlora" and find_spec("bitsandbytes") is None:
        assert dry_run(path, overrides).problems == ["library bitsandbytes"]
        pytest.skip("the rest of this recipe is the same as llava_qformer's")
    report = dry_run(path, overrides)
    assert not report.problems, report
    text = str(report)
    assert text.endswith("ready to train") and "samples per epoch" in text and "pixel_values (2, 3, 56, 56)" in text
    # Each path counts: without it, the dry run names it.
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    entries = values["data"] + values.get("validation_data", [])
    for name in [name for entry in entries for name in (*entry["files"], entry["images"])]:
        hidden = data_root / f"{name}.hidden"
        (data_root / name).rename(hidden)
        try:
            missing = dry_run(path, overrides)
        finally:
            hidden.rename(data_root / name)
        assert f"{data_root / name}" in str(missing) and str(missing).endswith("not ready")


@pytest.mark.parametrize("path", TRAINING, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_published_recipes_hold_the_paper_s_values(path):
    args = read_recipe(path, ["--use_cpu", "true"]).arguments
    assert (args.num_train_epochs, args.weight_decay, args.warmup_steps) == (10, 0.05, 1000)
    assert (args.learning_rate, args.min_learning_rate, args.warmup_learning_rate) == (3e-5, 1e-5, 1e-6)
    processes = 1 if args.load_in_4bit else 8
    assert args.per_device_train_batch_size * args.gradient_accumulation_steps * processes == 64
    if path.parent.name == "paper":
        assert args.freeze_policy == "paper" and args.lora_rank == 0
    else:
        assert (args.lora_rank, args.lora_alpha, args.lora_dropout) == (8, 16, 0.1)
        assert args.freeze_policy == ("paper" if path.stem.startswith("llava") else "all")
    written = path.read_text(encoding="utf-8")
    assert str(path.relative_to(ROOT)) in written, "its commands name another recipe"


def test_fsdp_and_deepspeed_settings_are_known_ones(tmp_path, vigc_folder):
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.utils import FullyShardedDataParallelPlugin

    config = load_config_from_file(str(ROOT / "recipes" / "accelerate" / "fsdp.yaml"))
    assert str(config.distributed_type).endswith("FSDP")
    given = {name.removeprefix("fsdp_"): value for name, value in config.fsdp_config.items()}
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=given["version"],
        auto_wrap_policy=given["auto_wrap_policy"].lower(),
        transformer_cls_names_to_wrap=given["transformer_layer_cls_to_wrap"].split(","),
        reshard_after_forward=given["reshard_after_forward"],
        state_dict_type=given["state_dict_type"],
        cpu_ram_efficient_loading=given["cpu_ram_efficient_loading"],
    )
    model = VigcForConditionalGeneration.from_pretrained(vigc_folder)
    classes = {type(part).__name__ for part in model.modules()}
    assert set(plugin.transformer_cls_names_to_wrap) <= classes, "no layer of the model has such a class"
    plugin.set_auto_wrap_policy(model)  # raises where a class is not found
    for path in sorted((ROOT / "recipes" / "deepspeed").glob("*.json")):
        settings = json.loads(path.read_text(encoding="utf-8"))
        assert settings["zero_optimization"]["stage"] == int(path.stem[-1])
        # Whatever the Trainer knows too is left to it, so that the two cannot contradict each other.
        automatic = (
            "gradient_clipping",
            "gradient_accumulation_steps",
            "train_batch_size",
            "train_micro_batch_size_per_gpu",
        )
        assert all(settings[name] == "auto" for name in automatic)


# Reading a recipe


def test_values_and_overrides(recipe):
    path = recipe(learning_rate="2e-4", lora_targets=["q_proj"], validation_rows=3)
    plan = read_recipe(path)
    assert plan.arguments.learning_rate == 2e-4 and plan.arguments.lora_targets == ["q_proj"]
    assert [entry.layout for entry in plan.data] == ["okvqa", "llava"]
    plan = read_recipe(
        path, ["--learning_rate=5e-5", "--augment", "false", "--seed", "9", "--model", "other", "--validation-rows=7"]
    )
    assert plan.arguments.learning_rate == 5e-5 and plan.arguments.augment is False
    assert (plan.arguments.seed, plan.model, plan.validation_rows) == (9, "other", 7)


@pytest.mark.parametrize(
    ("changes", "overrides", "message"),
    [
        ({"learning_rat": 1}, [], r"recipe.yaml: 'learning_rat' is not known: did you mean 'learning_rate'"),
        ({"model": "drop"}, [], r"'model' is missing"),
        ({"data": "drop"}, [], r"'data' is missing"),
        ({"data": {"layout": "llava"}}, [], r"'data' is \{'layout': 'llava'\}, but a list"),
        ({"data": [{"layout": "coco", "files": "a", "images": "b"}]}, [], r"data\[0\]: layout 'coco' is not known"),
        ({"data": [{"layout": "llava", "files": "a"}]}, [], r"data\[0\]: a layout needs 'files' and 'images'"),
        ({"data": [{"layout": "llava", "dataset": "a"}]}, [], r"data\[0\]: give either 'dataset'"),
        ({"data": [{"dataset": "a", "wieght": 1}]}, [], r"data\[0\]: 'wieght' is not known: a dataset has layout"),
        ({"data": [{"dataset": "a", "weight": 1}, {"dataset": "b"}]}, [], r"'weight' is given for 1 of 2"),
        ({"validation_data": "drop"}, [], r"eval_strategy='epoch' without rows to evaluate on"),
        ({"validation_rows": "many"}, [], r"validation_rows='many' is not a whole number"),
        ({"freeze_policy": "most"}, [], r"recipe.yaml: argument --freeze_policy: invalid choice|freeze_policy='most'"),
        (
            {},
            ["--learning_rate", "fast"],
            r"recipe.yaml: argument --learning_rate/--learning-rate: invalid float value: 'fast'",
        ),
        ({}, ["--learning_rats", "1"], r"--learning_rats is not known: did you mean 'learning_rate'\?"),
        ({}, ["--wobble=1"], r"--wobble is not known: it is neither part of a recipe nor a training argument"),
        ({}, ["learning_rate=1e-4"], r"'learning_rate=1e-4' belongs to no argument: .* --learning_rate VALUE"),
        ({"output_dir": "drop"}, [], r"'output_dir' is missing"),
        ({"data_root": None}, [], r"data_root=None is not a text"),
        ({"model": 7}, [], r"model=7 is not a text"),
        ({"validation_rows": True}, [], r"validation_rows=True is not a whole number"),
        ({"validation_rows": 2.5}, [], r"validation_rows=2.5 is not a whole number"),
        ({"num_train_epochs": [1]}, [], r"num_train_epochs=\[1\] should be a number"),
        ({"num_train_epochs": 0}, [], r"num_train_epochs=0 should be above 0"),
        ({"per_device_train_batch_size": 2.5}, [], r"per_device_train_batch_size=2.5 should be a whole number"),
        ({"per_device_train_batch_size": 0}, [], r"per_device_train_batch_size=0 should be at least 1"),
        ({"augment": 1}, [], r"augment=1 should be true or false"),
        ({"lora_targets": [1]}, [], r"lora_targets=\[1\] should be a list of texts"),
        ({"learning_rate": 0}, [], r"learning_rate=0 should be above 0"),
        ({"learning_rate": -1}, [], r"learning_rate=-1 should be above 0"),
        ({"data": [{"layout": "llava", "files": 5, "images": "b"}]}, [], r"data\[0\]: files=5 should be a text or"),
        ({"data": [{"layout": "llava", "files": "a", "images": 5}]}, [], r"data\[0\]: images=5 is not a text"),
        ({"data": [{"dataset": "a", "weight": "abc"}]}, [], r"data\[0\]: weight='abc' should be a number"),
        ({"data": [{"dataset": "a", "weight": -1}]}, [], r"data\[0\]: weight=-1 should be a number, 0 or more"),
        ({"data": [{"layout": "llava", "files": "a", "images": "b", "type": "poem"}]}, [], r"\]: type='poem' is not"),
        ({}, ["--model"], r"--model needs a value"),
        ({}, ["--data", "x"], r"--data cannot be given on the command line"),
    ],
)
def test_mistakes_are_named(changes, overrides, message, recipe):
    with pytest.raises(ValueError, match=message):
        read_recipe(recipe(**changes), overrides)


def test_values_as_yaml_reads_them(recipe):
    path = recipe(eval_strategy=False, save_strategy=False, load_best_model_at_end=False, tasks="vic", learning_rate=1,
                  lora_rank=2, lora_targets="q_proj", data=[{"dataset": "a", "weight": "1e-1"}])  # fmt: skip
    plan = read_recipe(path)
    args = plan.arguments
    assert (args.eval_strategy, args.save_strategy) == ("no", "no") and args.lora_targets == ["q_proj"]
    assert args.tasks == ["vic"] and plan.data[0].weight == 0.1


def test_files_that_are_no_recipe(tmp_path):
    path = tmp_path / "list.yaml"
    path.write_text("- a\n", encoding="utf-8")
    with pytest.raises(ValueError, match="contains list, but a recipe is"):
        read_recipe(path)
    path.write_text("a: [", encoding="utf-8")
    with pytest.raises(ValueError, match="is not a readable YAML file"):
        read_recipe(path)


# Dry run and run


def test_a_dry_run_lists_all_that_is_missing(recipe):
    data = [
        {"layout": "llava", "files": "llava/gone.json", "images": "coco/nowhere", "type": "detail"},
        {"dataset": "./not-here"},
    ]
    result = run(recipe(data=data, model="/no/such/model"), "--dry-run")
    assert result.exit_code == 2
    for part in ("gone.json", "coco/nowhere", "dataset ./not-here", "model '/no/such/model'", "not ready"):
        assert part in result.output
    assert run(recipe(), "--dry-run").exit_code == 0
    wrong = run(recipe(), "--dry-run", "--prefix_probability", "2")
    assert wrong.exit_code == 2 and "prefix_probability=2.0 should be between 0 and 1" in wrong.output


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"metric_for_best_model": "losss"},
            r"metric_for_best_model='losss' .* did you mean 'loss'\? The metrics are loss, ",
        ),
        ({"metric_for_best_model": "eval_well_formed"}, r"'eval_well_formed' is not a metric of the evaluation"),
        ({"train_sampling_strategy": "sequential"}, r"train_sampling_strategy='sequential' is not supported"),
        ({"lr_scheduler_type": "polynomial", "lr_scheduler_kwargs": {"powr": 2}}, r"lr_scheduler_type=.*powr"),
    ],
)
def test_a_dry_run_finds_what_would_stop_the_run(changes, message, recipe):
    with pytest.raises(ValueError, match=message):
        dry_run(recipe(**changes))


def test_figures_of_one_s_own_may_choose_the_best_epoch(recipe):
    path = recipe(metric_for_best_model="answered", generation_samples=2)
    figures = {"compute_metrics": lambda written: {"answered": sum(bool(row.given_answer) for row in written)}}
    assert str(dry_run(path, **figures)).endswith("ready to train")
    with pytest.raises(ValueError, match=r"'answered' is not a metric .* The metrics are loss, .*, well_formed\."):
        train(path)


def test_training_does_not_start_from_a_checkpoint(recipe, tmp_path, vigc_folder):
    folder = tmp_path / "checkpoint-1"
    folder.mkdir()
    for name in ("config.json", "generation_config.json"):
        shutil.copy(vigc_folder / name, folder / name)
    VigcProcessor.from_pretrained(vigc_folder).save_pretrained(folder)
    (folder / "trained_weights.safetensors").write_bytes(b"")
    path = recipe(model=str(folder))
    assert "merge_trained" in str(dry_run(path)) and str(dry_run(path)).endswith("not ready")
    with pytest.raises(ValueError, match=r"has only trained weights: vigc.trainer.merge_trained"):
        train(path)


def test_train_writes_a_model_and_goes_on(recipe, tmp_path, vigc_folder, data_root):
    settings = {"save_strategy": "steps", "eval_strategy": "steps", "eval_steps": 1, "save_steps": 1}
    path = recipe(**settings)
    result = run(path, "--learning_rate", "1e-3", "--min_learning_rate", "1e-4")
    assert result.exit_code == 0, result.output
    folder = tmp_path / "run"
    assert f"Model: {folder}" in result.output
    model = VigcForConditionalGeneration.from_pretrained(folder)
    start = VigcForConditionalGeneration.from_pretrained(vigc_folder)
    assert digest(model.qformer.named_parameters()) != digest(start.qformer.named_parameters())
    assert digest(model.vision_model.named_parameters()) == digest(start.vision_model.named_parameters())
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "conversation\\_58k" in card and "loss" in card and str(data_root) not in card
    rates = ["--learning_rate", "1e-3", "--min_learning_rate", "1e-4"]
    written = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").unlink()  # as where the end of a run found no room
    assert run(path, *rates).exit_code == 0 and (folder / "model.safetensors").read_bytes() == written
    refused = run(path, *rates, "--resume_from_checkpoint", "none")
    assert refused.exit_code == 2 and "already has checkpoint-2: give another --output_dir" in refused.output
    for asked in ([], ["--resume_from_checkpoint", "last"]):
        other = run(path, *asked, "--max_steps", "3")
        assert other.exit_code == 2 and "learning_rate was 0.001 and is 3e-05" in other.output
    trainer = train(path, ["--resume_from_checkpoint", "last", "--max_steps", "3", *rates])
    assert trainer.state.global_step == 3
    with pytest.raises(ValueError, match="resume_from_checkpoint='nowhere' is not a folder"):
        train(path, ["--resume_from_checkpoint", "nowhere"])


def test_a_loss_that_leaves_the_numbers_is_an_error(recipe, tmp_path):
    """With a learning rate that no weight survives: no model is written, and the exit code says so."""
    rates = {
        "learning_rate": 1e38,
        "min_learning_rate": 1e38,
        "max_steps": 3,
        "save_steps": 1,
        "save_strategy": "steps",
    }
    result = run(recipe(**rates, eval_strategy="no", load_best_model_at_end=False))
    assert result.exit_code == 2, result.output
    assert "Step " in result.output and "NaN or infinite" in result.output and "lower learning_rate" in result.output
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_an_evaluation_says_how_well_the_model_writes(tmp_path):
    folder = tmp_path / "scenes"
    write_scenes(folder, rows=24, seed=7, layout="dataset")
    # Short answers, in words that the model does not have.
    short = load_rows(str(folder), "conversation").map(lambda row: {"type": "okvqa", "answers": ["xylophone"] * 10})
    short.select(range(4)).to_parquet(tmp_path / "short" / "train.parquet")
    values = {
        "model": str(VIGC_TINY), "output_dir": str(tmp_path / "run"), "data": [{"dataset": str(folder)}],
        "validation_data": [{"dataset": str(folder), "config": "detail"}, {"dataset": str(tmp_path / "short")}],
        **QUICK, "max_steps": 1, "generation_samples": 12, "eval_max_new_tokens": 60,
    }  # fmt: skip
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    result = run(tmp_path / "recipe.yaml")
    assert result.exit_code == 0, result.output
    state = json.loads((tmp_path / "run" / "trainer_state.json").read_text(encoding="utf-8"))
    (figures,) = [entry for entry in state["log_history"] if "eval_loss" in entry]
    assert figures["eval_well_formed"] > 0.5 and figures["eval_vqa_accuracy"] == 0
    assert 0 <= figures["eval_edit_rate"] <= 1
    assert "edit_rate" in (tmp_path / "run" / "README.md").read_text(encoding="utf-8")
    # What the embedded model says of its data holds no longer.
    assert "trained_on" in (VIGC_TINY / "config.json").read_text(encoding="utf-8")
    assert "trained_on" not in (tmp_path / "run" / "config.json").read_text(encoding="utf-8")


def test_published_and_generated_rows_train_and_evaluate_together(recipe, tmp_path, data_root):
    """The paper's self-training mix: OK-VQA as published, the release's generated answers, and rows of our own."""
    picture = data_root / "coco" / "train2014" / "COCO_train2014_000000000009.jpg"
    row = dict.fromkeys(GENERATED_FEATURES) | {
        "image": {"bytes": picture.read_bytes(), "path": None}, "image_id": "9", "question": "What is it?",
        "answer": "a square", "extra": None,
    }  # fmt: skip
    kinds = {"detail": {"id": "d"}, "okvqa": {"id": "o", "answers": ["a square", "a tile"], "weights": [2.0, 70.0]}}
    for kind, values in kinds.items():
        rows = Dataset.from_list([row | values | {"type": kind}], features=GENERATED_FEATURES)
        rows.to_parquet(tmp_path / "generated" / kind / "train.parquet")
    released = [{"image": picture.name, "question": "What?", "ori_answer": "x", "answer": ["a", "b"], "weight": [0, 9]}]
    (tmp_path / "released.json").write_text(json.dumps(released), encoding="utf-8")
    data = [
        *yaml.safe_load(recipe().read_text(encoding="utf-8"))["data"][:1],
        {"layout": "vigc", "files": str(tmp_path / "released.json"), "images": "coco/train2014", "type": "okvqa"},
        {"dataset": str(tmp_path / "generated" / "detail")},
        {"dataset": str(tmp_path / "generated" / "okvqa")},
    ]
    path = recipe(data=data, validation_data=data, generation_samples=5, eval_max_new_tokens=4)
    assert str(dry_run(path)).endswith("ready to train")
    trainer = train(path)
    assert len(trainer.eval_dataset.rows) == 5
    (figures,) = [entry for entry in trainer.state.log_history if "eval_loss" in entry]
    assert figures["eval_loss_vic_okvqa"] > 0 and figures["eval_loss_vig_detail"] > 0
    drawn = {sample.target for sample in map(trainer.train_dataset.__getitem__, [(0, index) for index in range(5)])}
    assert not drawn & {"a", " Question: What? Answer: a"}, "of weight 0"
    # What stops the run stops the dry run: a row that no answer can be drawn of.
    zero = row | {"type": "okvqa", "answers": ["a"], "weights": [0.0], "id": "zero"}
    rows = Dataset.from_list([zero], features=GENERATED_FEATURES)
    rows.to_parquet(tmp_path / "generated" / "okvqa" / "train.parquet")
    path = recipe(data=data, output_dir=str(tmp_path / "other"), eval_strategy="no", load_best_model_at_end=False)
    for action in (dry_run, train):
        with pytest.raises(ValueError, match=r"Dataset 3, row 0: the weights \[0.0\] of zero do not fit its 1 ans"):
            action(path)


def test_rows_are_held_out_with_their_pictures(recipe):
    plan = read_recipe(recipe(validation_data="drop", validation_rows=3))
    training, validation = load_data(plan)
    assert sum(map(len, training)) + sum(map(len, validation)) == 6
    kept = {image_id for rows in training for image_id in rows["image_id"]}
    assert not kept & {image_id for rows in validation for image_id in rows["image_id"]}
    again = load_data(plan)[1]
    assert [list(rows["question"]) for rows in validation] == [list(rows["question"]) for rows in again]
    assert sum(map(len, validation)) == 3
    with pytest.raises(ValueError, match=r"validation_rows=100 leaves .*questions.json none of its 2 rows to train on"):
        load_data(read_recipe(recipe(validation_data="drop", validation_rows=100)))


def test_damaged_pictures_of_evaluation_are_left_out(recipe, tmp_path, data_root, caplog):
    for name in ("llava", "coco"):
        shutil.copytree(data_root / name, tmp_path / "data" / name)
    pictures = sorted((tmp_path / "data" / "coco" / "train2017").iterdir())
    pictures[0].write_bytes(pictures[0].read_bytes()[:100])
    entry = {"layout": "llava", "files": "llava/detail_23k.json", "images": "coco/train2017"}
    path = recipe(data=[entry], validation_data=[entry], data_root=str(tmp_path / "data"))
    assert "validation: 1 rows" in str(dry_run(path))
    assert f"Skipped in evaluation: image '{pictures[0]}'" in caplog.text
    trainer = train(path)
    assert len(trainer.eval_dataset.rows) == 1 and trainer.record.unreadable == [[0, 0]]
    pictures[1].write_bytes(b"")
    with pytest.raises(ValueError, match="None of the 2 images of evaluation rows can be opened"):
        load_data(read_recipe(path))


def test_dataset_folders_are_read(recipe, tmp_path, data_root):
    training, _ = load_data(read_recipe(recipe()))
    training[1].to_parquet(tmp_path / "folder" / "train-00000.parquet")
    own = {"dataset": str(tmp_path / "folder"), "images": "coco"}  # its rows name their pictures
    data = [{**own, "weight": 2}, {**own, "weight": 1}]
    report = dry_run(recipe(data=data, samples_per_epoch=9))
    assert "4 rows, 6 samples per epoch" in str(report) and "4 rows, 3 samples per epoch" in str(report)


def test_folders_of_one_name_keep_their_rows_apart(recipe, tmp_path):
    training, _ = load_data(read_recipe(recipe()))
    folders = [tmp_path / "first" / "rows", tmp_path / "second" / "rows"]
    for folder, rows in zip(folders, training, strict=True):
        rows.to_parquet(folder / "train.parquet")
        readme = "---\nconfigs:\n- config_name: default\n  data_files: train.parquet\n---\n"
        (folder / "README.md").write_text(readme, encoding="utf-8")
    found, _ = load_data(read_recipe(recipe(data=[{"dataset": str(folder), "images": "coco"} for folder in folders])))
    assert [rows["question"][:] for rows in found] == [rows["question"][:] for rows in training]


def test_what_is_trained_is_not_rounded_on_loading(vigc_folder, tmp_path):
    args = VigcTrainingArguments(
        output_dir=str(tmp_path), bf16=True, use_cpu=True, frozen_dtype="bfloat16", eval_strategy="no",
        load_best_model_at_end=False,
    )  # fmt: skip
    model = VigcTrainer(
        load_model(str(vigc_folder), args), args, processor=VigcProcessor.from_pretrained(vigc_folder)
    ).model
    exact = VigcForConditionalGeneration.from_pretrained(vigc_folder, dtype=torch.float32)
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            assert torch.equal(weight, exact.get_parameter(name)), name
        else:
            assert weight.dtype == torch.bfloat16, name
