"""VigcTrainer: exact resumption, any number of processes, what is frozen, the paper's numbers, the original's steps."""

import errno
import json
import logging
import os
import resource
import shutil
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path

import forks
import pytest
import torch
from conftest import SUPPORT
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models
from torch.testing import assert_close
from training import digest, file_digest, load_model, make_trainer, rows_of
from transformers import TrainerCallback, TrainingArguments, masking_utils

from vigc.convert.config import PRESETS, vigc_config
from vigc.convert.keys import to_transformers
from vigc.errors import CheckpointError, DivergenceError, is_transient
from vigc.modeling_vigc import VigcForConditionalGeneration, backbone_vigc
from vigc.processing import VigcProcessor
from vigc.trainer import EvaluationPairs, VigcMixture, VigcTrainer, VigcTrainingArguments, load_trained, merge_trained
from vigc.trainer.adapters import choose_trained
from vigc.trainer.disk import disk_errors
from vigc.trainer.mixture import Sample
from vigc.trainer.train import load_model as load_base
from vigc.trainer.vigc_config import learning_rate_factor

SCRIPT = SUPPORT / "training.py"
LAST = "trained_weights.safetensors"
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")


@pytest.fixture(scope="module")
def images(parity_dir):
    return parity_dir / "images"


def in_own_process(*launcher, **options):
    if not launcher:
        return forks.run(SCRIPT, json.dumps(options, default=str))
    command = [sys.executable, *launcher, str(SCRIPT), json.dumps(options, default=str)]
    environment = {**os.environ, "PYTHONPATH": str(SUPPORT)}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def result_of(output):
    return json.loads((Path(output) / "result.json").read_text(encoding="utf-8"))


# Resumption


STEPS = {"save_strategy": "steps", "save_steps": 1, "save_total_limit": None, "load_best_model_at_end": False}
ACCUMULATED = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
GROUPED = {"train_sampling_strategy": "group_by_length"}
LORA = {"lora_rank": 2, "freeze_policy": "all"}


def assert_resumes(vigc_folder, images, folder, steps, **settings):
    """From each of these checkpoints of an uninterrupted run, training ends at the same bits."""
    whole = make_trainer(vigc_folder, images, folder / "whole", **STEPS, **settings)
    whole.train()
    last = f"checkpoint-{whole.state.global_step}"
    expected = file_digest(folder / "whole" / last / LAST)
    for step in steps or range(1, whole.state.global_step):
        resumed = make_trainer(vigc_folder, images, folder / f"from-{step}", **STEPS, **settings)
        resumed.train(resume_from_checkpoint=str(folder / "whole" / f"checkpoint-{step}"))
        assert file_digest(folder / f"from-{step}" / last / LAST) == expected, step
        assert digest(resumed.model.named_parameters()) == digest(whole.model.named_parameters()), step


@pytest.mark.parametrize("workers", [0, 2])
def test_resuming_gives_the_same_bits(workers, vigc_folder, images, tmp_path):
    # Step 2 lies within the first epoch, 3 at its end, 4 within the second.
    steps = [2, 3] if workers == 0 else [4]
    order = {} if workers == 0 else GROUPED
    assert_resumes(vigc_folder, images, tmp_path, steps, dataloader_num_workers=workers, **ACCUMULATED, **order)


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [{}, ACCUMULATED, {**ACCUMULATED, "mixture": {"samples_per_epoch": 13}}, LORA, {"seed": 7}, GROUPED],
    ids=["plain", "accumulated", "uneven", "lora", "seed 7", "grouped"],
)
@pytest.mark.parametrize("workers", [0, 2])
def test_resuming_from_every_checkpoint(workers, settings, vigc_folder, images, tmp_path):
    assert_resumes(vigc_folder, images, tmp_path, None, dataloader_num_workers=workers, **settings)


def test_a_killed_process_is_continued(vigc_folder, images, tmp_path):
    options = {"folder": vigc_folder, "images": images, "evaluated": False, **STEPS, **ACCUMULATED}
    killed = in_own_process(**options, output=tmp_path / "killed", kill=2)
    assert killed.returncode == -9, killed.stderr
    assert not (tmp_path / "killed" / "result.json").exists()
    # Going on where the killed one's folder is, from what it left.
    resumed = make_trainer(vigc_folder, images, tmp_path / "killed", evaluated=False, **STEPS, **ACCUMULATED)
    resumed.train(resume_from_checkpoint=True)
    whole = make_trainer(vigc_folder, images, tmp_path / "whole", evaluated=False, **STEPS, **ACCUMULATED)
    whole.train()
    assert digest(resumed.model.named_parameters()) == digest(whole.model.named_parameters())


@pytest.mark.parametrize("damage", ["no state", "cut state"])
def test_a_checkpoint_cut_short_is_not_taken(damage, vigc_folder, images, tmp_path, caplog):
    whole = make_trainer(vigc_folder, images, tmp_path / "run", evaluated=False, **STEPS)
    whole.train()
    expected = file_digest(tmp_path / "run" / "checkpoint-6" / LAST)
    shutil.rmtree(tmp_path / "run" / "checkpoint-6")
    state = tmp_path / "run" / "checkpoint-5" / "trainer_state.json"
    if damage == "no state":
        state.unlink()
    else:
        state.write_text(state.read_text(encoding="utf-8")[:100], encoding="utf-8")
    resumed = make_trainer(vigc_folder, images, tmp_path / "run", evaluated=False, **STEPS)
    with caplog.at_level(logging.WARNING, "vigc"):
        resumed.train(resume_from_checkpoint=True)
    assert "checkpoint-5 is incomplete" in caplog.text
    assert file_digest(tmp_path / "run" / "checkpoint-6" / LAST) == expected
    fresh = make_trainer(vigc_folder, images, tmp_path / "empty", evaluated=False, **STEPS)
    with pytest.raises(ValueError, match="has no complete checkpoint to resume from"):
        fresh.train(resume_from_checkpoint=True)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_a_process_may_be_killed_at_any_step(workers, vigc_folder, images, tmp_path):
    settings = {**STEPS, "dataloader_num_workers": workers}
    whole = make_trainer(vigc_folder, images, tmp_path / "whole", **settings)
    whole.train()
    expected = digest(whole.model.named_parameters())
    for step in range(1, whole.state.global_step):
        output = tmp_path / f"killed-{step}"
        killed = in_own_process(folder=vigc_folder, images=images, output=output, kill=step, **settings)
        assert killed.returncode == -9, killed.stderr
        continued = in_own_process(folder=vigc_folder, images=images, output=output, resume=True, **settings)
        assert continued.returncode == 0, continued.stderr
        assert result_of(output)["weights"] == expected, step


def as_before_hashes(checkpoint):
    """Makes a checkpoint one that was written before checkpoints held hashes."""
    path = checkpoint / "trainer_state.json"
    state = json.loads(path.read_text(encoding="utf-8"))
    for name in ("files", "state_sha256"):
        del state["stateful_callbacks"]["RunRecord"]["attributes"][name]
    path.write_text(json.dumps(state), encoding="utf-8")


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def flip(path):
    content = bytearray(path.read_bytes())
    content[-50] ^= 4
    path.write_bytes(content)


def altered(path):
    path.write_text(path.read_text(encoding="utf-8").replace('"global_step": 3', '"global_step": 2'), encoding="utf-8")


def test_a_damaged_checkpoint_is_refused_by_name(vigc_folder, images, tmp_path):
    settings = {"evaluated": False, "dropout": False, "save_only_trained": False, "max_steps": 3, **STEPS}
    make_trainer(vigc_folder, images, tmp_path / "run", **settings).train()
    damages = [
        ("model.safetensors", flip, r"model.safetensors has been changed: its SHA-256 is"),
        ("model.safetensors", cut, r"model.safetensors has [\d,]+ bytes, but [\d,]+ were written"),
        ("model.safetensors", Path.unlink, r"model.safetensors is missing"),
        ("optimizer.pt", flip, r"optimizer.pt has been changed"),
        ("rng_state.pth", cut, r"rng_state.pth has"),
        ("trainer_state.json", altered, r"trainer_state.json has been changed: its hash differs"),
        ("trainer_state.json", cut, r"trainer_state.json cannot be read"),
        ("trainer_state.json", Path.unlink, r"trainer_state.json is missing: saving was interrupted"),
    ]
    whole = shutil.copytree(tmp_path / "run" / "checkpoint-3", tmp_path / "kept")
    checkpoint = tmp_path / "run" / "checkpoint-3"
    trainer = make_trainer(vigc_folder, images, tmp_path / "run", **settings)
    for name, harm, said in damages:
        harm(checkpoint / name)
        with pytest.raises(CheckpointError, match=said) as caught:
            trainer.train(resume_from_checkpoint=str(checkpoint))
        assert f"The checkpoint {checkpoint} is damaged" in str(caught.value)
        assert f"resume from {tmp_path / 'run' / 'checkpoint-2'}, which is intact" in str(caught.value)
        shutil.copy(whole / name, checkpoint / name)
    trainer.train(resume_from_checkpoint=str(checkpoint))  # all files back
    # Where no earlier one is intact, none is named; one without hashes is named by what reads it.
    flip(checkpoint / "optimizer.pt"), cut(tmp_path / "run" / "checkpoint-2" / "model.safetensors")
    shutil.rmtree(tmp_path / "run" / "checkpoint-1")
    with pytest.raises(CheckpointError, match="start again in another output_dir, because no earlier"):
        trainer.train(resume_from_checkpoint=True)
    for name in ("model.safetensors", "optimizer.pt"):
        shutil.copy(whole / "optimizer.pt", checkpoint)
        cut(checkpoint / name)
        if name == "model.safetensors":
            as_before_hashes(checkpoint)
        with pytest.raises(CheckpointError, match=r"checkpoint-3 cannot be loaded \(.+\): it is damaged"):
            make_trainer(vigc_folder, images, tmp_path / "run", **settings).train(resume_from_checkpoint=True)
        shutil.copy(whole / "model.safetensors", checkpoint)


def test_the_best_checkpoint_is_looked_at_before_it_is_the_end(vigc_folder, images, tmp_path):
    trainer = make_trainer(vigc_folder, images, tmp_path / "run", num_train_epochs=1)
    trainer.train()
    flip(tmp_path / "run" / "checkpoint-3" / LAST)
    for load in (trainer._load_best_model, lambda: load_trained(tmp_path / "run" / "checkpoint-3")):
        with pytest.raises(CheckpointError, match=rf"checkpoint-3 is damaged: {LAST} has been changed"):
            load()
    # The run's own folder holds its state too, and other weights than the last checkpoint: those of the best one.
    trainer.save_state()
    trainer.args.final_weights = "trained"
    load_trained(trainer.save_final())


# NaN and infinity


class Spoil(TrainerCallback):
    """Makes the projection's bias NaN or infinite from a step on, or its gradient, or lets it overflow."""

    def __init__(self, step, what):
        self.step, self.what = step, what

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        if state.global_step == self.step and self.what in ("nan", "inf"):
            model.language_projection.bias.data.fill_(float(self.what))

    def on_optimizer_step(self, args, state, control, model=None, **kwargs):
        if state.global_step == self.step and self.what == "weight":
            model.language_projection.bias.data[0] = torch.inf

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        if self.what == "gradient":
            model.language_projection.bias.register_hook(
                lambda gradient: gradient * (torch.nan if state.global_step == self.step else 1)
            )


@pytest.mark.parametrize(("what", "workers"), [("nan", 0), ("nan", 1), ("inf", 0), ("gradient", 0), ("weight", 0)])
def test_a_loss_that_is_no_number_ends_training(what, workers, vigc_folder, images, tmp_path):
    said = {
        "gradient": "Step 3: a gradient is NaN or infinite",
        "weight": "Step 3: language_projection.bias is NaN or infinite, so nothing is saved",
    }.get(what, r"Step 3: the loss is (nan|inf)")
    settings = {"evaluated": False, **STEPS, **ACCUMULATED, "dataloader_num_workers": workers, "logging_steps": 500}
    trainer = make_trainer(vigc_folder, images, tmp_path, callbacks=[Spoil(2, what)], **settings)
    with pytest.raises(DivergenceError, match=said) as caught:
        trainer.train()
    places = trainer.train_dataset.plan(0)[8 : 10 if what in ("nan", "inf") else 12, :2].tolist()
    for part, row in places:
        name = trainer.train_dataset.rows[part][row]["conversation_id"]
        assert f"row {row} of dataset {part} ({name})" in str(caught.value)
    assert str(caught.value).count(" of dataset ") == len({tuple(place) for place in places})
    last = tmp_path / "checkpoint-2"
    assert f"merge_trained('{last}', FOLDER)" in str(caught.value) and not (tmp_path / "checkpoint-3").exists()
    assert all(torch.isfinite(weight).all() for weight in load_file(last / LAST).values())
    if what in ("nan", "weight"):
        with pytest.raises(DivergenceError, match="so nothing is saved"):
            trainer.save_final(tmp_path / "final")
        assert not (tmp_path / "final").exists()


# A disk that is full


def test_a_full_disk_is_an_error_of_the_disk_and_the_run_resumes(vigc_folder, images, tmp_path):
    """`/dev/full` takes no byte, in the place of the file that torch writes."""
    settings = {"evaluated": False, **STEPS, "max_steps": 3}
    whole = make_trainer(vigc_folder, images, tmp_path / "whole", **settings)
    whole.train()
    (tmp_path / "run" / "checkpoint-2").mkdir(parents=True)
    (tmp_path / "run" / "checkpoint-2" / "optimizer.pt").symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"checkpoint-2") as caught:
        make_trainer(vigc_folder, images, tmp_path / "run", **settings).train()
    assert is_transient(caught.value)
    (tmp_path / "run" / "checkpoint-2" / "optimizer.pt").unlink()
    resumed = make_trainer(vigc_folder, images, tmp_path / "run", **settings)
    resumed.train(resume_from_checkpoint=True)
    assert digest(resumed.model.named_parameters()) == digest(whole.model.named_parameters())


@contextmanager
def no_file_longer_than(size):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_the_disk_s_errors_are_known_in_what_libraries_write(tmp_path):
    tensors = {"x": torch.zeros(100_000)}
    words = Tokenizer(models.WordLevel({f"word{index}": index for index in range(5_000)}, "word0"))
    for write in (
        lambda: save_file(tensors, tmp_path / "a.safetensors"),
        lambda: torch.save(tensors, tmp_path / "a.pt"),
        lambda: words.save(str(tmp_path / "a.json")),
    ):
        said = os.strerror(errno.EFBIG)
        with no_file_longer_than(10_000), pytest.raises(OSError, match=said) as caught, disk_errors(tmp_path):
            write()
        assert caught.value.errno == errno.EFBIG
    with pytest.raises(RuntimeError, match="size mismatch"), disk_errors(tmp_path):
        raise RuntimeError("size mismatch")


def test_every_epoch_has_its_own_samples_after_resuming_too(vigc_folder, images, tmp_path, monkeypatch):
    drawn = []
    get = VigcMixture.__getitem__
    monkeypatch.setattr(VigcMixture, "__getitem__", lambda self, place: drawn.append(place) or get(self, place))
    whole = make_trainer(vigc_folder, images, tmp_path / "whole", evaluated=False, **STEPS)
    whole.train()
    assert drawn == [(epoch, index) for epoch in range(2) for index in range(12)]
    drawn.clear()
    resumed = make_trainer(vigc_folder, images, tmp_path / "resumed", evaluated=False, **STEPS)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-4"))
    assert drawn == [(1, index) for index in range(4, 12)]  # what was seen before is not even opened


@pytest.mark.parametrize("workers", [0, 2])
def test_damaged_pictures_give_their_place_to_others(workers, vigc_folder, images, tmp_path, caplog):
    shutil.copytree(images, tmp_path / "images")
    damaged = sorted((tmp_path / "images").glob("*.png"))[1]
    damaged.write_bytes(damaged.read_bytes()[:100])
    settings = {"evaluated": False, "dataloader_num_workers": workers, **STEPS}
    whole = make_trainer(vigc_folder, tmp_path / "images", tmp_path / "whole", **settings)
    with caplog.at_level(logging.WARNING, "vigc"):
        whole.train()
    rows = [row for part in whole.train_dataset.rows for row in part if row["image"]["path"] == str(damaged)]
    assert rows and caplog.text.count("Another row replaces it in training") == len(rows)
    assert str(damaged) in caplog.text
    assert f"images could not be opened: {len(rows)}." in (whole.save_final() / "README.md").read_text("utf-8")
    resumed = make_trainer(vigc_folder, tmp_path / "images", tmp_path / "resumed", **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-4"))
    assert digest(resumed.model.named_parameters()) == digest(whole.model.named_parameters())
    assert sorted(resumed.record.unreadable) == sorted(whole.record.unreadable)
    if workers:
        for path in (tmp_path / "images").glob("*.png"):
            path.write_bytes(b"")
        hopeless = make_trainer(vigc_folder, tmp_path / "images", tmp_path / "hopeless", **settings)
        with pytest.raises(ValueError, match=r"^20 rows of dataset \d in succession have no .*: image .* is empty"):
            hopeless.train()


def test_a_checkpoint_of_another_run_is_refused_with_the_difference(vigc_folder, images, tmp_path, caplog):
    run = {"folder": vigc_folder, "images": images, "output": tmp_path, "evaluated": False, **STEPS}
    make_trainer(**run, max_steps=2).train()
    others = {
        r"seed was 42 and is 7": {"seed": 7},
        r"prefix_probability was 0.5 and is 0.25": {"mixture": {"prefix_probability": 0.25}},
        r"batch was 4 and is 8": {"gradient_accumulation_steps": 2},
        r"data\[1\]: rows was 4 and is 3": {"rows": ("okvqa", 3)},
        r"other run: data\[1\]: texts was '\w+' and is '\w+'. Resume with": {"rows": ("okvqa", 4, 5)},
    }
    for said, change in others.items():
        rows = change.pop("rows", None)
        other = make_trainer(**run, max_steps=3, **change)
        if rows:
            samples = {"seed": 42, "samples_per_epoch": 12, "image_size": (56, 56), "prefix_probability": 0.5}
            other.train_dataset = VigcMixture([rows_of(images, "detail", 8), rows_of(images, *rows)], **samples)
        with pytest.raises(ValueError, match=said):
            other.train(resume_from_checkpoint=True)
    longer = make_trainer(**run, max_steps=3)
    with caplog.at_level(logging.WARNING, "vigc"):
        longer.train(resume_from_checkpoint=True)
    assert longer.state.global_step == 3
    assert "follows another schedule than before" in caplog.text and "max_steps was 2 and is 3" in caplog.text
    # A new setting of ours decides steps unless it is named here.
    ours = {item.name for item in fields(VigcTrainingArguments)} - {item.name for item in fields(TrainingArguments)}
    free = {"augment", "image_features", "save_only_trained", "final_weights", "generation_samples",
            "eval_max_new_tokens", "image_use_rows"}  # fmt: skip
    assert ours - free <= longer.record.run.keys()


# Several processes


TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
ACCELERATE = (
    "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1",
    "--mixed_precision", "no", "--dynamo_backend", "no",
)  # fmt: skip


def test_two_processes_train_as_one(vigc_folder, images, tmp_path):
    options = {"folder": vigc_folder, "images": images, "dropout": False, "save_strategy": "no",
               "load_best_model_at_end": False, "generation_samples": 3, "eval_max_new_tokens": 12}  # fmt: skip
    two = in_own_process(*TORCHRUN, **options, output=tmp_path / "two", per_device_train_batch_size=2)
    assert two.returncode == 0, two.stderr
    one = make_trainer(output=tmp_path / "one", **{**options, "per_device_train_batch_size": 4})
    one.train()
    metrics = one.evaluate()
    shared = result_of(tmp_path / "two")
    assert shared["processes"] == 2
    losses = [entry["loss"] for entry in one.state.log_history if "loss" in entry]
    assert len(losses) == 6
    assert_close(torch.tensor(shared["losses"]), torch.tensor(losses), atol=1e-5, rtol=0)
    for name, value in shared["eval"].items():
        assert_close(value, metrics[name], atol=1e-5, rtol=0)


@pytest.mark.slow
def test_two_processes_go_on_as_they_would_have(vigc_folder, images, tmp_path):
    options = {"folder": vigc_folder, "images": images, "evaluated": False, "mixture": {"samples_per_epoch": 13},
               "per_device_train_batch_size": 2, **STEPS, **GROUPED}  # fmt: skip
    whole = in_own_process(*TORCHRUN, **options, output=tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr
    checkpoint = tmp_path / "whole" / "checkpoint-3"
    resumed = in_own_process(*TORCHRUN, **options, output=tmp_path / "resumed", resume=str(checkpoint))
    assert resumed.returncode == 0, resumed.stderr
    first, second = result_of(tmp_path / "whole"), result_of(tmp_path / "resumed")
    assert first["processes"] == second["processes"] == 2 and len(first["losses"]) > 3
    assert second["weights"] == first["weights"] and second["losses"] == first["losses"]


@pytest.mark.slow
def test_accelerate_starts_the_same_run(vigc_folder, images, tmp_path):
    """As documented: `--multi_gpu` with `use_cpu` starts the processes on CPUs, where `--cpu` would start one."""
    options = {"folder": vigc_folder, "images": images, "evaluated": False, "save_strategy": "no", "max_steps": 3,
               "per_device_train_batch_size": 2}  # fmt: skip
    for name, launcher in (("torchrun", TORCHRUN), ("accelerate", ACCELERATE)):
        done = in_own_process(*launcher, **options, output=tmp_path / name)
        assert done.returncode == 0, done.stderr
    torchrun, accelerate = result_of(tmp_path / "torchrun"), result_of(tmp_path / "accelerate")
    assert accelerate["processes"] == 2 and accelerate == torchrun


@pytest.mark.slow
def test_sharded_weights_give_the_same_step(vigc_folder, images, tmp_path):
    """FSDP as in recipes/, as far as processes without accelerators go: its layers sharded over two."""
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
        str(SUPPORT / "sharded_step.py"), str(vigc_folder), str(images), str(tmp_path / "result.json"),
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(SUPPORT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    whole, sharded, half, processes = json.loads((tmp_path / "result.json").read_text(encoding="utf-8")).values()
    assert processes == 2 and sharded["layers"] == 8
    assert set(sharded["norms"]) == set(half["norms"]) == set(whole["norms"])
    assert sharded["loss"] == pytest.approx(whole["loss"], abs=1e-6)
    assert sharded["norms"] == pytest.approx(whole["norms"], abs=1e-6)
    # Frozen parts in bfloat16, as the recipes have them, trained ones in float32.
    assert half["loss"] == pytest.approx(whole["loss"], rel=0.01)


# What is trained


def parts_digest(model, *prefixes):
    return digest((name, weight) for name, weight in model.named_parameters() if name.startswith(prefixes))


@pytest.mark.parametrize(
    "settings",
    [{}, {"train_ln_vision": True}, {"lora_rank": 2, "freeze_policy": "all"}, {"lora_rank": 2}],
    ids=["paper", "ln_vision", "lora", "lora and qformer"],
)
def test_frozen_bits_stay_and_trained_ones_move(settings, vigc_folder, images, tmp_path):
    trainer = make_trainer(vigc_folder, images, tmp_path, evaluated=False, save_strategy="no", **settings)
    before = {name: digest([(name, weight)]) for name, weight in trainer.model.named_parameters()}
    trainer.train()
    after = {name: digest([(name, weight)]) for name, weight in trainer.model.named_parameters()}
    moved = {name for name in before if before[name] != after[name]}
    assert moved <= trainer.trained
    groups = {name.split(".")[0] for name in moved}
    if settings.get("freeze_policy") == "all":
        assert groups == {"language_model"} and all(".lora_" in name for name in moved)
    else:
        assert {"qformer", "query_tokens", "language_projection"} <= groups
        # The Q-Former's last text block is thrown away: it gets no gradient, but weight decay moves its matrices.
        still = trainer.trained - moved
        assert all(name.startswith("qformer.") and "lora" not in name for name in still), still
    assert ("vision_model" in groups) == settings.get("train_ln_vision", False)
    assert ("language_model" in groups) == ("lora_rank" in settings)


@pytest.mark.parametrize("settings", [{}, {"lora_rank": 2, "freeze_policy": "all"}], ids=["paper", "lora"])
def test_gradient_checkpointing_changes_nothing(settings, vigc_folder, images, tmp_path):
    runs = []
    for checkpointing in (False, True):
        trainer = make_trainer(
            vigc_folder, images, tmp_path, evaluated=False, save_strategy="no", max_steps=3,
            gradient_checkpointing=checkpointing, **settings,
        )  # fmt: skip
        trainer.train()
        runs.append(digest(trainer.model.named_parameters()))
    assert runs[0] == runs[1]


@pytest.mark.parametrize("size", [3, 512])
def test_checkpointed_scores_are_made_a_part_at_a_time(size, vigc_folder, processor, images, monkeypatch):
    monkeypatch.setattr(backbone_vigc, "_AT_A_TIME", size)
    model = load_model(vigc_folder, dropout=False)
    model.freeze("paper")
    pictures = [Image.open(path) for path in sorted(Path(images).glob("*.png"))[:2]]
    batch = processor(images=pictures, text=["What?", "Where?"], target=["A cat or a dog.", "."], return_tensors="pt")
    heads, results = [], []
    model.language_model.lm_head.register_forward_hook(lambda module, given, logits: heads.append(len(logits)))
    for checkpointing in (False, True):
        model.zero_grad()
        if checkpointing:
            model.activation_checkpointing_enable()
        heads.clear()
        loss = model.train()(**batch, skip_logits=True).loss
        assert (max(heads) <= size) == (checkpointing or size == 512)
        loss.backward()
        results.append((loss, {name: one.grad for name, one in model.named_parameters() if one.requires_grad}))
    assert_close(results[1][0], results[0][0], rtol=1e-6, atol=0)
    for name, gradient in results[0][1].items():
        assert_close(results[1][1][name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_logits_only_where_labels_are(vigc_folder, processor, images):
    model = load_model(vigc_folder, dropout=False)
    model.freeze("paper")
    pictures = [Image.open(path) for path in sorted(Path(images).glob("*.png"))[:2]]
    batch = processor(images=pictures, text=["What?", "Where is it now?"], target=["A cat.", "."], return_tensors="pt")
    results = []
    for skip in (False, True):
        model.zero_grad()
        outputs = model(**batch, skip_logits=skip, num_items_in_batch=torch.tensor(7))
        outputs.loss.backward()
        results.append((outputs.loss, {name: one.grad for name, one in model.named_parameters() if one.requires_grad}))
        assert (outputs.logits is None) == skip
    assert_close(results[1][0], results[0][0], rtol=1e-6, atol=0)
    for name, gradient in results[0][1].items():
        assert_close(results[1][1][name], gradient, rtol=1e-4, atol=1e-8, msg=name)
    assert_close(model(**batch, skip_logits=True).loss, model(**batch).loss, rtol=1e-6, atol=0)
    del batch["labels"]
    with pytest.raises(ValueError, match="give labels and input_ids"):
        model(**batch, skip_logits=True)


def test_the_vit_looks_at_each_picture_once(vigc_folder, images, tmp_path, monkeypatch):
    seen = []
    embed = VigcForConditionalGeneration.get_image_embeds

    def counted(self, pixel_values, *args):
        seen.append(len(pixel_values))
        return embed(self, pixel_values, *args)

    monkeypatch.setattr(VigcForConditionalGeneration, "get_image_embeds", counted)
    settings = {"augment": False, "evaluated": False, "mixture": {"image_size": None}, **STEPS}
    losses, weights, counts = [], [], []
    for kept in (None, str(tmp_path / "features"), str(tmp_path / "features")):
        seen.clear()
        trainer = make_trainer(
            vigc_folder, images, tmp_path / str(len(losses)), image_features=kept, dataloader_num_workers=len(losses),
            **settings,
        )  # fmt: skip
        trainer.train()
        losses.append([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
        weights.append(digest(trainer.model.named_parameters()))
        counts.append(sum(seen))
    distinct = len({row["image"]["path"] for part in trainer.train_dataset.rows for row in part})
    assert counts == [24, distinct, 0]
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)
    assert weights[1] == weights[2]
    (folder,) = (tmp_path / "features").iterdir()
    done = bytearray((folder / "done.bin").read_bytes())
    done[1] = done[-1] = 0  # as a pass that was cut short leaves it
    (folder / "done.bin").write_bytes(done)
    seen.clear()
    again = make_trainer(vigc_folder, images, tmp_path / "again", image_features=str(tmp_path / "features"), **settings)
    again.train()
    assert sum(seen) == 2 and digest(again.model.named_parameters()) == weights[1]
    # A picture that cannot be opened has no features, and is not looked at again.
    shutil.copytree(images, tmp_path / "images")
    damaged = sorted((tmp_path / "images").glob("*.png"))[1]
    damaged.write_bytes(damaged.read_bytes()[:100])
    settings |= {"image_features": str(tmp_path / "features")}
    for count in (distinct - 1, 0):
        seen.clear()
        less = make_trainer(vigc_folder, tmp_path / "images", tmp_path / f"less-{count}", **settings)
        less.train()
        assert sum(seen) == count and len(less.record.unreadable) == 2
    del settings["image_features"]
    # Another ViT finds nothing of this one's.
    other = make_trainer(vigc_folder, images, tmp_path / "other", image_features=str(tmp_path / "features"), **settings)
    other.model.vision_model.post_layernorm.bias.data += 1
    other.train()
    assert len(list((tmp_path / "features").iterdir())) == 3


@pytest.mark.parametrize(("size", "width"), [("7b", 4096), ("13b", 5120)])
def test_trained_parameters_of_the_released_sizes(size, width, monkeypatch):
    config = vigc_config(PRESETS[size]["text_config"])
    with torch.device("meta"):
        model = VigcForConditionalGeneration(config)
    trained = set(choose_trained(model))
    count = sum(weight.numel() for name, weight in model.named_parameters() if name in trained)
    qformer = sum(weight.numel() for weight in model.qformer.parameters())
    assert count == qformer + 32 * 768 + (768 * width + width)
    assert qformer == _qformer_parameters(config.qformer_config)
    # A step of the paper's recipe, without numbers: these and only these get gradients, and the optimizer takes them.
    for name in ("_ignore_bidirectional_mask_sdpa", "_ignore_causal_mask_sdpa"):  # these look at a mask's numbers
        monkeypatch.setattr(masking_utils, name, lambda *args, **kwargs: False)
    monkeypatch.setattr(model, "_check_places", lambda *args: None)
    with torch.device("meta"):
        tokens, ids = torch.full((2, 40), 5), torch.zeros((2, 9), dtype=torch.long)
        batch = {"pixel_values": torch.zeros(2, 3, 224, 224), "input_ids": tokens, "labels": tokens,
                 "attention_mask": torch.ones_like(tokens), "qformer_input_ids": ids,
                 "qformer_attention_mask": torch.ones_like(ids)}  # fmt: skip
    model(**batch).loss.backward()
    assert {name for name, weight in model.named_parameters() if weight.grad is not None} == trained
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad])
    optimizer.step()
    assert sum(state["exp_avg"].numel() for state in optimizer.state.values()) == count
    print(f"{size}: {count:,} trained")


def _qformer_parameters(config) -> int:
    """BERT with cross-attention in every second layer and a second feed-forward for the queries, counted by hand."""
    width, inner, vision = config.hidden_size, config.intermediate_size, config.encoder_hidden_size
    norm = 2 * width
    attention = 4 * (width * width + width) + norm
    cross = 2 * (width * width + width) + 2 * (vision * width + width) + norm
    feed_forward = (width * inner + inner) + (inner * width + width) + norm
    layers = config.num_hidden_layers
    with_cross = len(range(0, layers, config.cross_attention_frequency))
    embeddings = (config.vocab_size + config.max_position_embeddings) * width
    # Two norms: of text embeddings and of the queries with them.
    return embeddings + norm + layers * (attention + 2 * feed_forward) + with_cross * cross


# The paper's optimizer


def test_the_paper_s_settings_are_the_defaults(tmp_path):
    args = VigcTrainingArguments(output_dir=str(tmp_path))
    assert (args.num_train_epochs, args.per_device_train_batch_size, args.weight_decay) == (10, 64, 0.05)
    assert (args.learning_rate, args.min_learning_rate, args.warmup_learning_rate, args.warmup_steps) == (
        3e-5, 1e-5, 1e-6, 1000,
    )  # fmt: skip
    assert args.optim.value.startswith("adamw") and args.freeze_policy == "paper"
    assert args.load_best_model_at_end and args.metric_for_best_model == "loss"


def test_the_learning_rate_goes_up_a_line_and_down_a_cosine(vigc_folder, images, tmp_path):
    trainer = make_trainer(vigc_folder, images, tmp_path, evaluated=False, learning_rate=3e-5, warmup_steps=1000)
    trainer.create_optimizer()
    scheduler = trainer.create_scheduler(11_000)
    rates = {step: 3e-5 * scheduler.lr_lambdas[0](step) for step in (0, 500, 1000, 6000, 11_000, 12_000)}
    expected = {0: 1e-6, 500: 15.5e-6, 1000: 3e-5, 6000: 2e-5, 11_000: 1e-5, 12_000: 1e-5}
    assert rates == pytest.approx(expected)
    assert learning_rate_factor(0, total=5, warmup=0, start=0.1, end=0.2) == 1
    other = make_trainer(vigc_folder, images, tmp_path, evaluated=False, lr_scheduler_type="constant", warmup_steps=0)
    other.create_optimizer()
    assert other.create_scheduler(10).lr_lambdas[0](7) == 1


def test_norms_and_biases_do_not_decay(vigc_folder, images, tmp_path):
    trainer = make_trainer(vigc_folder, images, tmp_path, evaluated=False, train_ln_vision=True)
    trainer.create_optimizer()
    decayed, spared = trainer.optimizer.param_groups
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.05, 0.0)
    names = {id(weight): name for name, weight in trainer.model.named_parameters()}
    spared = {names[id(weight)] for weight in spared["params"]}
    decayed = {names[id(weight)] for weight in decayed["params"]}
    assert spared | decayed == trainer.trained
    assert all(name.endswith("bias") or "norm" in name.lower() for name in spared)
    assert not any(name.endswith("bias") or "norm" in name.lower() for name in decayed)
    assert "query_tokens" in decayed


# The original's gradients


class Fixed(torch.utils.data.Dataset):
    """The golden batch, always the same."""

    def __init__(self, parity_dir):
        meta = json.loads((parity_dir / "meta.json").read_text(encoding="utf-8"))
        texts = zip(meta["train_batch.text_input"], meta["train_batch.text_output"], strict=True)
        pictures = [Image.open(path).convert("RGB") for path in sorted((parity_dir / "images").glob("*.png"))]
        self.samples = [
            Sample(image, text, target, "vic", "detail") for image, (text, target) in zip(pictures, texts, strict=True)
        ]

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        return self.samples[index]


def sgd_trainer(vigc_folder, processor, parity_dir, folder, steps, **settings):
    args = VigcTrainingArguments(
        output_dir=str(folder), max_steps=steps, optim="sgd", learning_rate=0.1, lr_scheduler_type="constant",
        warmup_steps=0, weight_decay=0.0, train_ln_vision=True, eval_strategy="no", load_best_model_at_end=False,
        save_strategy="no", logging_steps=1, report_to="none", use_cpu=True, disable_tqdm=True,
        train_sampling_strategy="sequential", **{"per_device_train_batch_size": 6, **settings},
    )  # fmt: skip
    model = load_model(vigc_folder, dropout=False)
    return VigcTrainer(model, args, Fixed(parity_dir), processor=processor)


@pytest.mark.parametrize("settings", [{}, {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 3}])
def test_one_step_is_the_original_s(settings, vigc_folder, processor, parity_dir, tmp_path):
    trainer = sgd_trainer(vigc_folder, processor, parity_dir, tmp_path, 1, **settings)
    before = {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}
    trainer.train()
    expected = load_file(parity_dir / "expected.safetensors")
    loss = next(entry["loss"] for entry in trainer.state.log_history if "loss" in entry)
    assert_close(loss, expected["train_batch.loss"].item(), atol=2e-6, rtol=0)
    after = dict(trainer.model.named_parameters())
    prefix = "train_batch.grad."
    names = [name for name in expected if name.startswith(prefix)]
    assert names
    for name in names:
        ours = to_transformers(name.removeprefix(prefix))
        assert_close(after[ours].detach(), before[ours] - 0.1 * expected[name], atol=1e-6, rtol=0)


def test_twenty_steps_follow_plain_gradient_descent(vigc_folder, processor, parity_dir, tmp_path):
    trainer = sgd_trainer(vigc_folder, processor, parity_dir, tmp_path, 20)
    trainer.train()
    model = load_model(vigc_folder, dropout=False).eval()
    model.freeze("paper", train_ln_vision=True)
    batch = trainer.data_collator(Fixed(parity_dir).samples)
    losses = []
    for _ in range(20):
        loss = model(**batch).loss
        loss.backward()
        losses.append(loss.item())
        with torch.no_grad():
            for weight in model.parameters():
                if weight.grad is not None:
                    weight -= 0.1 * weight.grad
        model.zero_grad()
    ours = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < 0.8 * losses[0]
    assert_close(torch.tensor(ours), torch.tensor(losses), atol=1e-5, rtol=0)
    for name, weight in model.named_parameters():
        assert_close(trainer.model.get_parameter(name), weight, atol=1e-5, rtol=0)


# Evaluation


def test_losses_by_task_and_type(vigc_folder, images, processor, tmp_path):
    trainer = make_trainer(vigc_folder, images, tmp_path, per_device_eval_batch_size=3)
    metrics = trainer.evaluate()
    pairs = trainer.eval_dataset
    sums = {}
    model = trainer.model.eval()
    for sample in (pairs[index] for index in range(len(pairs))):
        batch = trainer.data_collator([sample])
        del batch["groups"]
        with torch.no_grad():
            loss = model(**batch).loss.item()
        count = (batch["labels"] != -100).sum().item()
        for name in ("eval_loss", f"eval_loss_{sample.task}", f"eval_loss_{sample.task}_{sample.type}"):
            total, tokens = sums.get(name, (0.0, 0))
            sums[name] = (total + loss * count, tokens + count)
    assert {name for name in metrics if "loss" in name} == set(sums)
    for name, (total, tokens) in sums.items():
        assert_close(metrics[name], total / tokens, atol=1e-5, rtol=0)


def test_written_texts_reach_the_caller(vigc_folder, images, tmp_path):
    seen = []
    trainer = make_trainer(vigc_folder, images, tmp_path, generation_samples=4, eval_max_new_tokens=40)
    trainer.compute_written_metrics = lambda written: seen.append(written) or {"rows": len(written)}
    metrics = trainer.evaluate()
    (written,) = seen
    assert metrics["eval_rows"] == 4
    assert metrics["eval_well_formed"] == sum(row.question is not None for row in written) / 4
    for row in written:
        source = trainer.eval_dataset.rows[row.index]
        assert (row.type, row.reference_question) == (source["type"], source["question"])
        assert row.references == [text for text in source["answers"]]
        assert row.given_answer is not None and (row.question is None) == (row.draft is None)


class Ruin(TrainerCallback):
    """Makes every epoch but the first a bad one."""

    def on_epoch_begin(self, args, state, control, model=None, **kwargs):
        if state.epoch >= 1:
            torch.nn.init.normal_(model.language_projection.weight)


@pytest.mark.parametrize(
    "settings",
    [{"metric_for_best_model": "loss_vic"}, {"load_best_model_at_end": False}],
    ids=["another metric", "the last epoch"],
)
def test_the_card_s_figures_are_of_the_weights_beside_it(settings, vigc_folder, images, tmp_path):
    trainer = make_trainer(vigc_folder, images, tmp_path, callbacks=[Ruin()], **settings)
    trainer.train()
    results = ModelCard.load(trainer.save_final() / "README.md").data.eval_results
    said = {result.metric_name: result.metric_value for result in results or []}
    assert said["loss"] == pytest.approx(trainer.evaluate()["eval_loss"], abs=1e-5)


def test_the_best_epoch_is_kept(vigc_folder, images, tmp_path):
    trainer = make_trainer(vigc_folder, images, tmp_path, num_train_epochs=3, save_total_limit=1, callbacks=[Ruin()])
    trainer.train()
    losses = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    assert len(losses) == 3 and losses.index(min(losses)) == 0
    assert trainer.state.best_model_checkpoint.endswith("checkpoint-3")
    assert trainer.evaluate()["eval_loss"] == pytest.approx(losses[0], abs=1e-6)
    kept = load_file(tmp_path / "checkpoint-3" / LAST)
    assert digest(kept.items()) == digest((name, trainer.model.get_parameter(name)) for name in kept)


def test_pictures_that_do_not_matter_are_noticed(vigc_folder, images, tmp_path, caplog):
    def run(model_change=None):
        trainer = make_trainer(
            vigc_folder, images, tmp_path, image_use_rows=6, num_train_epochs=1, learning_rate=1e-6, save_strategy="no",
            load_best_model_at_end=False, min_learning_rate=0.0, warmup_learning_rate=0.0,
        )  # fmt: skip
        trainer.eval_dataset = EvaluationPairs([rows_of(images, "conversation", 6)])
        if model_change:
            model_change(trainer.model)
        caplog.clear()
        with caplog.at_level(logging.WARNING, "vigc"):
            trainer.train()
        return trainer

    def blind(model):
        torch.nn.init.zeros_(model.vision_model.post_layernorm.weight)

    trainer = run(blind)
    assert trainer.image_use_before.true == pytest.approx(trainer.image_use_before.swapped)
    assert not trainer.image_use_after.used
    assert "The model does not use the images yet" in caplog.text
    trainer = run()
    assert trainer.image_use_before.rows == 6
    assert trainer.image_use_before.true != pytest.approx(trainer.image_use_before.swapped, abs=1e-3)


def test_the_check_of_pictures_survives_an_interruption(vigc_folder, images, tmp_path):
    settings = {**STEPS, "image_use_rows": 6}
    whole = make_trainer(vigc_folder, images, tmp_path / "whole", **settings)
    whole.train()
    before, after = whole.image_use_before, whole.image_use_after
    assert before is not None and after is not None and before != after
    for step in (1, 4):  # before the first evaluation, and behind it
        resumed = make_trainer(vigc_folder, images, tmp_path / f"from-{step}", **settings)
        resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / f"checkpoint-{step}"))
        assert (resumed.image_use_before, resumed.image_use_after) == (before, after)


# Checkpoints and the end


def test_trained_weights_load_over_their_base(vigc_folder, images, tmp_path):
    trainer = make_trainer(vigc_folder, images, tmp_path / "run")
    trainer.train()
    checkpoint = tmp_path / "run" / "checkpoint-6"
    saved = load_file(checkpoint / LAST)
    assert set(saved) == trainer.trained
    trained_size = sum(weight.numel() * weight.element_size() for weight in saved.values())
    assert trained_size < 0.8 * sum(weight.numel() * 4 for weight in trainer.model.parameters())
    model, _ = load_trained(checkpoint)
    assert parts_digest(model, "qformer", "query", "language_projection") == digest(saved.items())
    assert parts_digest(model, "vision", "language_model") == parts_digest(trainer.model, "vision", "language_model")
    with pytest.raises(OSError, match="safetensors"):
        VigcForConditionalGeneration.from_pretrained(checkpoint)
    with pytest.raises(
        ValueError, match=r"trained parameters; the rest \(language_model, vision_model\) comes from '.*gone'"
    ):
        load_trained(checkpoint, base=tmp_path / "gone")
    with pytest.raises(ValueError, match=r"has no trained_weights.safetensors: a whole model"):
        load_trained(vigc_folder)


def test_a_checkpoint_that_lacks_weights_is_refused(vigc_folder, images, tmp_path):
    run = tmp_path / "run"
    make_trainer(vigc_folder, images, run, evaluated=False, **STEPS, max_steps=2).train()
    weights = load_file(run / "checkpoint-2" / LAST)
    del weights["language_projection.weight"]
    save_file(weights, run / "checkpoint-2" / LAST)
    resumed = make_trainer(vigc_folder, images, run, evaluated=False, **STEPS, max_steps=3)
    as_before_hashes(run / "checkpoint-2")
    for load in (lambda: load_trained(run / "checkpoint-2"), lambda: resumed.train(resume_from_checkpoint=True)):
        with pytest.raises(ValueError, match=r"lacks 1 of the \d+ trained weights, such as language_projection.weight"):
            load()
    other = make_trainer(vigc_folder, images, run, evaluated=False, **STEPS, train_ln_vision=True, max_steps=2)
    with pytest.raises(ValueError, match=r"checkpoint-1 is of another run: train_ln_vision was False and is True"):
        other.train(resume_from_checkpoint=str(run / "checkpoint-1"))


def test_trained_weights_know_their_base_again(vigc_folder, images, tmp_path, caplog):
    shutil.copytree(vigc_folder, tmp_path / "base")
    settings = {"save_strategy": "steps", "save_steps": 1, "max_steps": 1}
    make_trainer(tmp_path / "base", images, tmp_path / "run", evaluated=False, **settings).train()
    checkpoint = tmp_path / "run" / "checkpoint-1"
    shutil.copytree(tmp_path / "base", tmp_path / "moved")
    load_trained(checkpoint, base=tmp_path / "moved")
    load_trained(checkpoint)
    assert "was trained on base weights" not in caplog.text
    weights = load_file(tmp_path / "base" / "model.safetensors")
    weights["language_model.lm_head.weight"] += 1
    save_file(weights, tmp_path / "base" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"checkpoint-1 was trained on base weights .*base does not have .*base="):
        load_trained(checkpoint)
    with caplog.at_level(logging.WARNING, "vigc"):
        load_trained(checkpoint, base=tmp_path / "base")
    assert "differs from the one that was trained" in caplog.text


def test_the_final_folder_is_a_model(vigc_folder, images, processor, tmp_path):
    trainer = make_trainer(vigc_folder, images, tmp_path / "run")
    trainer.train()
    folder = trainer.save_final(tmp_path / "final")
    model = VigcForConditionalGeneration.from_pretrained(folder)
    assert digest(model.named_parameters()) == digest(trainer.model.named_parameters())
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "base_model: vigc-parity" in card and "small-detail" in card and "loss\\_vic\\_okvqa" in card
    assert str(vigc_folder.parent) not in card
    assert (folder / "modeling_vigc.py").exists() and (folder / "generation_config.json").exists()


def test_lora_with_the_qformer_is_saved_merged_and_loaded(vigc_folder, images, processor, tmp_path):
    trainer = make_trainer(vigc_folder, images, tmp_path / "run", lora_rank=4, evaluated=False, save_strategy="epoch")
    trainer.train()
    names = trainer.trained
    assert "query_tokens" in names and any(name.startswith("qformer.") for name in names)
    assert sum("lora_A" in name for name in names) == 2 * 4  # layers x projections
    batch = trainer.data_collator([trainer.train_dataset[0, index] for index in range(3)])
    with torch.no_grad():
        expected = trainer.model.eval()(**batch).logits
        model, _ = load_trained(tmp_path / "run" / "checkpoint-6")
        assert_close(model(**batch).logits, expected, atol=1e-4, rtol=0)
        folder = trainer.save_final(tmp_path / "final")
        whole = VigcForConditionalGeneration.from_pretrained(folder).eval()
        assert_close(whole(**batch).logits, expected, atol=1e-4, rtol=0)
        start = load_model(vigc_folder).eval()
        assert not torch.allclose(start(**batch).logits, expected, atol=1e-2)
    assert not any("lora" in name for name, _ in whole.named_parameters())
    merge_trained(tmp_path / "run" / "checkpoint-6", tmp_path / "merged")
    merged = VigcForConditionalGeneration.from_pretrained(tmp_path / "merged")
    assert digest(merged.named_parameters()) == digest(model.named_parameters())


def test_qlora_trains_over_four_bits(vigc_folder, images, tmp_path):
    pytest.importorskip("bitsandbytes", reason="QLoRA's library is not part of the tests' environment")
    args = VigcTrainingArguments(
        output_dir=str(tmp_path / "run"), use_cpu=True, bf16=True, frozen_dtype="bfloat16", load_in_4bit=True,
        lora_rank=4, final_weights="trained", max_steps=4, per_device_train_batch_size=4, warmup_steps=0,
        learning_rate=1e-3, report_to="none", save_strategy="no", eval_strategy="no", load_best_model_at_end=False,
        image_use_rows=0,
    )  # fmt: skip
    model = load_base(str(vigc_folder), args)
    assert any(type(part).__name__ == "Linear4bit" for part in model.language_model.modules())
    assert not any(
        type(part).__name__ == "Linear4bit" for part in [*model.qformer.modules(), model.language_projection]
    )
    processor = VigcProcessor.from_pretrained(vigc_folder)
    trainer = VigcTrainer(model, args, VigcMixture([rows_of(images, "detail", 8)]), processor=processor)
    frozen = {name: digest([(name, one)]) for name, one in model.named_parameters() if not one.requires_grad}
    trainer.train()
    assert frozen == {name: digest([(name, one)]) for name, one in model.named_parameters() if not one.requires_grad}
    assert all(one.dtype == torch.float32 for one in model.parameters() if one.requires_grad)
    whole, _ = load_trained(trainer.save_final(tmp_path / "final"), dtype=torch.float32)
    assert parts_digest(whole, "qformer", "query") == parts_digest(model, "qformer", "query")
    assert parts_digest(whole, "language_model") != parts_digest(load_model(vigc_folder), "language_model")


def test_only_what_was_trained_can_be_the_end(vigc_folder, images, tmp_path):
    trainer = make_trainer(vigc_folder, images, tmp_path / "run", evaluated=False, final_weights="trained")
    trainer.train()
    folder = trainer.save_final(tmp_path / "final")
    assert (folder / LAST).exists() and not (folder / "model.safetensors").exists()
    assert 'load_trained("final", base="vigc-parity")' in (folder / "README.md").read_text(encoding="utf-8")
    settings = {"save_only_trained": False, "final_weights": "trained"}  # whole checkpoints on the way there
    whole = make_trainer(vigc_folder, images, tmp_path / "whole", evaluated=False, **settings)
    whole.train()
    loaded, _ = load_trained(whole.save_final(tmp_path / "end"))
    assert digest(loaded.named_parameters()) == digest(trainer.model.named_parameters())
    model = VigcForConditionalGeneration.from_pretrained(tmp_path / "whole" / "checkpoint-6")
    assert digest(model.named_parameters()) == digest(trainer.model.named_parameters())


def test_frozen_parts_may_be_held_in_half_precision(vigc_folder, images, tmp_path):
    trainer = make_trainer(
        vigc_folder, images, tmp_path, bf16=True, frozen_dtype="bfloat16", generation_samples=2, eval_max_new_tokens=8
    )
    dtypes = {weight.requires_grad: weight.dtype for weight in trainer.model.parameters()}
    assert dtypes == {True: torch.float32, False: torch.bfloat16}
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 6 and all(0 < loss < 12 for loss in losses)


def half_precision(folder, images, output, **settings):
    """A short run as the recipes of large models are: small steps, and what is frozen held in bfloat16."""
    rates = {"learning_rate": 3e-5, "min_learning_rate": 1e-5, "warmup_learning_rate": 1e-6}
    trainer = make_trainer(
        folder, images, output, bf16=True, frozen_dtype="bfloat16", evaluated=False, save_strategy="epoch",
        num_train_epochs=1, **rates, **settings,
    )  # fmt: skip
    trainer.train()
    return trainer


@pytest.mark.parametrize("settings", [{}, {"lora_rank": 4}], ids=["paper", "lora"])
def test_half_precision_leaves_no_trace_in_the_final_model(settings, vigc_folder, images, tmp_path):
    trainer = half_precision(vigc_folder, images, tmp_path / "run", **settings)
    final = load_file(trainer.save_final(tmp_path / "final") / "model.safetensors")
    assert not (tmp_path / "final" / LAST).exists()
    base = load_file(vigc_folder / "model.safetensors")
    changed = {name for name in base if not torch.equal(final[name], base[name])}
    assert final.keys() == base.keys() and {weight.dtype for weight in final.values()} == {torch.float32}
    assert not any(name.startswith("vision_model") for name in changed)
    names = {name.replace("base_layer.", "") for name, _ in trainer.model.named_parameters()} & base.keys()
    layers = {name for name in names if name.startswith("language_model") and name.split(".")[-2] in PROJECTIONS}
    if not settings:
        assert not any(name.startswith("language_model") for name in changed)
        return
    assert changed >= layers and not {name for name in changed if name.startswith("language_model")} - layers
    trained = load_file(tmp_path / "run" / "checkpoint-3" / LAST)
    for name in layers:
        layer = name.removesuffix(".weight")
        small, large = (trained[f"{layer}.lora_{part}.default.weight"] for part in "AB")
        # As loud as in training: in bfloat16, nearly all of these sums would be what they were.
        assert_close(final[name], base[name] + 16 / 4 * large @ small, rtol=1e-6, atol=1e-9)
    # Over a base in half precision, one rounding.
    load_model(vigc_folder).to(torch.bfloat16).save_pretrained(tmp_path / "half")
    merge_trained(tmp_path / "run" / "checkpoint-3", tmp_path / "merged", base=tmp_path / "half")
    merged, half = (load_file(tmp_path / name / "model.safetensors") for name in ("merged", "half"))
    for name in layers:
        layer = name.removesuffix(".weight")
        small, large = (trained[f"{layer}.lora_{part}.default.weight"] for part in "AB")
        assert torch.equal(merged[name], (half[name].float() + 16 / 4 * large @ small).bfloat16())


def test_a_model_changed_since_it_was_loaded_is_written_as_it_is(vigc_folder, images, tmp_path, caplog):
    trainer = make_trainer(
        vigc_folder, images, tmp_path, bf16=True, frozen_dtype="bfloat16", evaluated=False, save_strategy="no"
    )
    torch.nn.init.ones_(trainer.model.language_model.lm_head.weight)
    with caplog.at_level(logging.WARNING, "vigc"):
        folder = trainer.save_final(tmp_path / "final")
    assert "is not based on" in caplog.text
    final = load_file(folder / "model.safetensors")
    assert (final["language_model.lm_head.weight"] == 1).all()
    assert {weight.dtype for weight in final.values()} == {torch.float32}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"freeze_policy": "some"}, r"freeze_policy='some' is not known: use 'paper', 'none', 'all'"),
        ({"freeze_policy": "all"}, r"freeze_policy='all' without LoRA trains nothing"),
        ({"lora_rank": 2, "freeze_policy": "none"}, r"LoRA on top is of no use"),
        ({"lora_rank": 2, "save_only_trained": False}, r"save_only_trained=False with LoRA"),
        ({"load_in_4bit": True}, r"set lora_rank too"),
        ({"load_in_4bit": True, "lora_rank": 2}, r"final_weights='whole' with load_in_4bit"),
        (
            {"push_to_hub": True, "hub_strategy": "every_save"},
            r"hub_strategy='every_save': checkpoints are .* use 'end'",
        ),
        ({"final_weights": "wholly"}, r"final_weights='wholly' is not known: use 'whole', 'trained'"),
        ({"frozen_dtype": "int8"}, r"frozen_dtype='int8' is not known"),
        ({"frozen_dtype": "bfloat16"}, r"without mixed precision: set bf16=True"),
        ({"tasks": ["vqa"]}, r"tasks=\['vqa'\]: give 'vig', 'vic' or both"),
        ({"prefix_probability": 1.5}, r"prefix_probability=1.5 should be between 0 and 1"),
        ({"image_features": "f"}, r"image_features='f' with augment=True"),
        ({"image_features": "f", "augment": False, "train_ln_vision": True}, r"the ViT is trained"),
        ({"samples_per_epoch": 0}, r"samples_per_epoch=0 should be at least 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        VigcTrainingArguments(output_dir=str(tmp_path), **settings)


def test_lora_needs_layers_that_are_there(vigc_folder, images, tmp_path):
    with pytest.raises(ValueError, match=r"no layer wq; its layers are .*q_proj"):
        make_trainer(vigc_folder, images, tmp_path, lora_rank=2, lora_targets=["wq"])
