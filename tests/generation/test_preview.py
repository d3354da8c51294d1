"""`--dry-run`: what a job will be, from real rows, with nothing written to its folder."""

import json
import shutil

import pytest
from dataset_rows import content
from faults import make_inputs
from PIL import Image
from scripted import ScriptedModel, ScriptedProcessor
from typer.testing import CliRunner

from vigc.cli.root import app
from vigc.errors import ConflictError, GenerationError
from vigc.generation import CorrectJob, GenerateJob, preview_job, run_job
from vigc.jobs import ledger


def job(place, **given):
    defaults = {"model": ScriptedModel(), "processor": ScriptedProcessor(), "types": ["conversation", "detail"]}
    return GenerateJob(images=place / "pictures", **{**defaults, "shard_size": 4, "batch_size": 2, **given})


def everything(folder):
    """Every path of a folder with its content and its time, empty folders and locks too."""
    return {path: (path.stat().st_mtime_ns, path.is_file() and path.read_bytes()) for path in folder.rglob("*")}


def test_nothing_is_written_and_the_job_is_foretold(tmp_path):
    make_inputs(tmp_path)
    before = everything(tmp_path)
    preview = preview_job(job(tmp_path), tmp_path / "out")
    assert everything(tmp_path) == before
    summary = run_job(job(tmp_path), tmp_path / "out")
    plan = ledger.read_plan(tmp_path / "out")
    assert preview.plan == plan, "it is the very plan"
    assert (preview.pairs, preview.inputs_left, preview.shards_done) == (11 * 2, 11, 0)
    rows = {row["id"]: row for row in summary.samples["conversation"] + summary.samples["detail"]}
    assert len(preview.rows) == 3 and len({row["image_id"] for row in preview.rows}) == 3
    assert {row["type"] for row in preview.rows} == {"conversation", "detail"}
    for row in preview.rows:
        if row["id"] in rows:
            assert row["answer"] == rows[row["id"]]["answer"]
    assert preview.estimate.workers == 1 and preview.estimate.seconds > 0
    assert 0 < preview.estimate.rows <= preview.pairs


def test_of_a_job_that_is_half_done_it_says_how_much(tmp_path):
    make_inputs(tmp_path)
    run_job(job(tmp_path, rank=1, world_size=2), tmp_path / "out")
    before = everything(tmp_path)
    preview = preview_job(job(tmp_path), tmp_path / "out")
    assert everything(tmp_path) == before
    assert (preview.shards_done, preview.inputs_left, preview.finished) == (1, 7, False)
    assert preview.rows_done > 0 and preview.estimate is not None
    with pytest.raises(ConflictError, match="seed was 0, now 5"):
        preview_job(job(tmp_path, seed=5), tmp_path / "out")
    assert preview_job(job(tmp_path, seed=5, overwrite=True), tmp_path / "out").replaces
    assert everything(tmp_path) == before
    run_job(job(tmp_path), tmp_path / "out")
    log = tmp_path / "calls"
    done = preview_job(job(tmp_path, model=ScriptedModel(log=log)), tmp_path / "out")
    assert done.finished and done.estimate is None and not log.exists()


def test_what_is_left_out_is_counted(tmp_path, monkeypatch):
    from vigc.generation import preview as previews

    root = make_inputs(tmp_path)
    (tmp_path / "ids.txt").write_text("p5\n")
    (tmp_path / "theirs").mkdir()
    for index in range(9):
        half = Image.new("L", (32, 32), 255)
        half.paste(0, (0, 0, 4 + 2 * index, 30 - 3 * index))
        half.save(root / f"q{index}.png")
        if index < 4:
            half.resize((64, 64)).save(tmp_path / "theirs" / f"{index}.png")
    (root / "away.png").symlink_to(tmp_path / "theirs" / "0.png")
    given = {"exclude_ids": [tmp_path / "ids.txt"], "exclude_images": [tmp_path / "theirs"], "dedup": True}
    preview = preview_job(job(tmp_path, **given), tmp_path / "out")
    run_job(job(tmp_path, **given), tmp_path / "out")
    assert preview.plan == ledger.read_plan(tmp_path / "out")
    excluded, looks_like = preview.plan.inputs.excluded, "looks like a picture in theirs"
    assert excluded["listed in ids.txt"] == 1 and excluded[looks_like] >= 2
    assert preview.looks is None and sum(preview.refused.values()) == 1
    # Of many, only some are looked at; of a job that is there, all are: their hashes are kept.
    monkeypatch.setattr(previews, "_LOOKED_AT", 15)
    some = preview_job(job(tmp_path, **given), tmp_path / "new")
    assert some.looked_at == 15 and 0 < some.looks[looks_like] <= 15
    assert looks_like not in some.plan.inputs.excluded
    assert preview_job(job(tmp_path, **given), tmp_path / "out").plan == preview.plan


def test_what_would_be_refused_is_refused(tmp_path):
    root = make_inputs(tmp_path)
    with pytest.raises(GenerationError, match="no dataset of vigc"):
        preview_job(job(tmp_path), tmp_path)
    for path in root.rglob("*.png"):
        path.write_bytes(b"broken")
    with pytest.raises(GenerationError, match="None of 11 images can be read"):
        preview_job(job(tmp_path), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_corrections_are_foretold_too(tmp_path):
    make_inputs(tmp_path)
    given = {"model": ScriptedModel(malformed=0), "processor": ScriptedProcessor(), "image_root": tmp_path / "pictures"}
    correct = CorrectJob(dataset=tmp_path / "llava.json", **given)
    preview = preview_job(correct, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert preview.pairs == 18 and len(preview.rows) == 3
    assert all(row["draft"] and row["answer"] for row in preview.rows)
    assert run_job(correct, tmp_path / "out").rows == preview.estimate.rows


def test_it_is_printed_for_a_person(parity_dir, vigc_folder, tmp_path):
    shutil.copytree(parity_dir / "images", tmp_path / "pictures")
    (tmp_path / "pictures" / "zero.png").touch()
    options = ["-m", str(vigc_folder), "--batch-size", "4", "--shard-size", "3"]
    command = ["generate", str(tmp_path / "pictures"), "-o", str(tmp_path / "out"), *options]
    result = CliRunner().invoke(app, [*command, "--dry-run"])
    assert result.exit_code == 0, result.output
    assert not (tmp_path / "out").exists()
    assert "nothing is written to" in result.output and "7 listed in pictures" in result.output
    assert "7 to process, in 3 shards of 3" in result.output and "21 rows at most: conversation" in result.output
    assert [result.output.count(f"    {name:<10}") for name in ("question", "draft", "answer")] == [3, 3, 3]
    assert "{+" in result.output or result.output.count("same as the draft") == 3
    assert "would be skipped or rejected:\n    zero.png: is empty (0 bytes)" in result.output
    assert (
        "Estimate, from" in result.output
        and "in a batch of 4" in result.output
        and "are free on the disk" in result.output
    )
    assert CliRunner().invoke(app, command).exit_code == 3
    again = CliRunner().invoke(app, [*command, "--dry-run"])
    assert again.exit_code == 0 and "This job is finished: " in again.output and "Estimate" not in again.output
    other = CliRunner().invoke(app, [*command, "--dry-run", "--seed", "3"])
    assert other.exit_code == 4 and "seed was 0, now 3" in other.stderr


# The model is known before it is loaded


def test_a_finished_job_is_recognised_without_the_model(parity_dir, vigc_folder, tmp_path, monkeypatch):
    from vigc.modeling_vigc import VigcForConditionalGeneration

    model = shutil.copytree(vigc_folder, tmp_path / "model")
    given = {"images": parity_dir / "images", "model": model, "types": ["detail"], "limit": 2}
    run_job(GenerateJob(**given), tmp_path / "out")
    before = content(tmp_path / "out")
    monkeypatch.setattr(VigcForConditionalGeneration, "from_pretrained", None)
    options = ["-m", model, "--types", "detail", "--limit", 2]
    command = ["generate", parity_dir / "images", "-o", tmp_path / "out", *options]
    result = CliRunner().invoke(app, [str(part) for part in command])
    assert result.exit_code in (0, 3) and "Nothing to do: this job is finished" in result.output, result.output
    assert content(tmp_path / "out") == before
    # Another model under the same name is another job, and so is one that only decodes otherwise.
    config = json.loads((model / "generation_config.json").read_text())
    (model / "generation_config.json").write_text(json.dumps({**config, "max_new_tokens": 9}))
    with pytest.raises(ConflictError, match=r"max_new_tokens was .*revision was"):
        run_job(GenerateJob(**given), tmp_path / "out")


def test_a_model_that_cannot_be_loaded_costs_nothing(parity_dir, vigc_folder, tmp_path):
    broken = shutil.copytree(vigc_folder, tmp_path / "broken")
    (broken / "model.safetensors").write_bytes(b"torn")
    given = {"images": parity_dir / "images", "types": ["detail"], "limit": 2}
    with pytest.raises(GenerationError, match="broken' cannot be loaded"):
        run_job(GenerateJob(model=broken, **given), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    run_job(GenerateJob(model=vigc_folder, **given), tmp_path / "out")
    before = content(tmp_path / "out")
    with pytest.raises(GenerationError, match="broken' cannot be loaded"):
        run_job(GenerateJob(model=broken, overwrite=True, **given), tmp_path / "out")
    assert content(tmp_path / "out") == before
