"""A job goes on with the settings it was begun with: another that changes what is written is refused by name."""

import dataclasses
import json
import shutil

import pytest
import torch
from dataset_rows import content
from datasets import Dataset, Features, Value
from datasets import Image as Pictures
from faults import make_inputs
from PIL import Image
from scripted import ScriptedModel, ScriptedProcessor

from vigc.errors import ConflictError
from vigc.generation import CorrectJob, GenerateJob, correct_dataset, generate_dataset
from vigc.jobs import ledger
from vigc.modeling_vigc import VigcForConditionalGeneration

# Parameters that decide who works and where, and not what is written.
HARMLESS = {"processor", "overwrite", "rank", "world_size", "engine", "workers", "trust_remote_code"}

OTHER = [
    ({"types": ["detail"]}, 'types was ["conversation", "detail"], now ["detail"]'),
    ({"seed": 3}, "seed was 0, now 3"),
    ({"settings": {"iqf_preset": "original"}}, 'iqf.iqf_preset was "vigc", now "original"'),
    ({"settings": {"iqf_steps": 2}}, "iqf.iqf_steps was 4, now 2"),
    ({"settings": {"iqf_unit": "paragraph"}}, 'iqf.iqf_unit was "sentence", now "paragraph"'),
    ({"settings": {"iqf_keep_tail": False}}, "iqf.iqf_keep_tail was true, now false"),
    ({"settings": {"iqf_prompt": "instruction"}}, 'iqf.iqf_prompt was "question", now "instruction"'),
    ({"settings": {"iqf_split": "original"}}, 'iqf.iqf_split was "safe", now "original"'),
    ({"settings": {"iqf_full_record": True}}, "iqf.iqf_full_record was false, now true"),
    ({"settings": {"max_new_tokens": 9}}, "decoding.max_new_tokens was null, now 9"),
    ({"settings": {"num_beams": 2}}, "num_beams was"),
    ({"settings": {"do_sample": True}}, "do_sample was"),
    ({"settings": {"do_sample": True, "temperature": 0.5}}, "temperature was null, now 0.5"),
    ({"settings": {"do_sample": True, "top_p": 0.5}}, "top_p was null, now 0.5"),
    ({"settings": {"repetition_penalty": 2.0}}, "repetition_penalty was"),
    ({"settings": {"length_penalty": 2.0}}, "decoding.length_penalty was null, now 2.0"),
    ({"questions": 2}, "questions was 1, now 2"),
    ({"retries": 0}, "retries was 2, now 0"),
    ({"score": True}, "score was false, now true"),
    ({"shard_size": 5}, "shard_size was 4, now 5"),
    ({"batch_size": 3}, "batch_size was 2, now 3"),
    ({"limit": 5}, "limit was null, now 5"),
    ({"license": "cc0-1.0"}, 'license was "unknown", now "cc0-1.0"'),
    ({"dedup": True}, "dedup was false, now true"),
    ({"allow_urls": ["x.org"]}, 'allow_urls was null, now ["x.org"]'),
    ({"store": "path"}, 'images was "embed", now "path"'),
    ({"correct": False}, "correct was true, now false"),
    ({"corrector": "one_shot"}, 'corrector was null, now "one_shot"'),
    ({"model": "other"}, 'model was "scripted", now "other"'),
    ({"exclude_ids": ["ids.txt"]}, "inputs.excluded"),
    ({"exclude_images": ["test"]}, "inputs.excluded"),
    ({"images": "sub"}, "inputs.listed was 11, now 5"),
    ({"format": "llava", "images": "llava.json"}, 'format was "folder", now "llava"'),
]
# Tested below, where they have an effect; for another device, another device is needed.
ELSEWHERE = {
    "answers",
    "answer_threshold",
    "first_words",
    "subset",
    "split",
    "data_revision",
    "dtype",
    "revision",
    "device",
    "image_root",
    "verify",
}


def job(**given):
    model = ScriptedModel(malformed=0)
    model.config._name_or_path = given.pop("model", "scripted")
    scripted = {"model": model, "processor": ScriptedProcessor(), "shard_size": 4, "batch_size": 2}
    return {**scripted, **given}


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A folder with pictures, conversations, and half of a job of each kind."""
    place = tmp_path_factory.mktemp("begun")
    root = make_inputs(place)
    (place / "sub").mkdir()
    for index in range(5):
        Image.new("RGB", (6, 5), (index * 25, 40, 255 - index)).save(place / "sub" / f"p{index}.png")
    (place / "ids.txt").write_text("p5\n")
    (place / "test").mkdir()
    shutil.copy(root / "p7.png", place / "test")
    share = {"rank": 1, "world_size": 2}
    generate_dataset(root, place / "out", **job(types=["conversation", "detail"], **share))
    correct_dataset(place / "llava.json", place / "corrected", image_root=root, **job(**share))
    return place


def settings_of(job):
    return {field.name for field in dataclasses.fields(job)}


def committed(out):
    """All but the hash pass, which may be kept of a job that is refused."""
    return {name: digest for name, digest in content(out).items() if not name.startswith(ledger.HASHES)}


def but_options(out):
    """What is committed, without the file of the options that a run was given."""
    return {name: digest for name, digest in committed(out).items() if name != ledger.JOB}


def refusal(out, run, *words, **given):
    before = committed(out)
    with pytest.raises(ConflictError) as caught:
        run(*words, **given)
    assert caught.value.exit_code == 4 and committed(out) == before, "what is there stays as it is"
    return str(caught.value)


@pytest.mark.parametrize(("given", "difference"), OTHER, ids=lambda value: str(value)[:40])
def test_other_settings_are_refused_with_the_difference(begun, given, difference):
    given = dict(given)
    paths = {name: [begun / path for path in given[name]] for name in given if name.startswith("exclude_")}
    images = begun / given.pop("images", "pictures")
    if given.get("format"):
        given["image_root"] = begun / "pictures"
    settings = job(**{"types": ["conversation", "detail"], **given, **paths})
    assert difference in refusal(begun / "out", generate_dataset, images, begun / "out", **settings)


def test_no_setting_is_forgotten():
    known = {name for given, _ in OTHER for name in given} | HARMLESS | ELSEWHERE
    assert settings_of(GenerateJob) == known
    assert settings_of(CorrectJob) <= known | {"dataset", "type"}


def test_a_setting_of_speed_alone_may_change(begun, tmp_path):
    """In float32, where it decides no word; in less, a job goes on as it was begun."""
    hurried = job(settings={"iqf_verify_drafts": True})
    for name, run in (("out", generate_dataset), ("corrected", correct_dataset)):
        shutil.copytree(begun / name, tmp_path / name)
        share = {"image_root": begun / "pictures"} if name == "corrected" else {"types": ["conversation", "detail"]}
        given = begun / ("llava.json" if name == "corrected" else "pictures")
        assert run(given, tmp_path / name, **share, **hurried).resumed
        run(given, tmp_path / "at once" / name, **share, **job())
        assert but_options(tmp_path / name) == but_options(tmp_path / "at once" / name)
    short, hurried["model"] = job(types=["detail"]), ScriptedModel(malformed=0)
    short["model"].dtype = hurried["model"].dtype = torch.float16
    out = tmp_path / "short"
    generate_dataset(begun / "pictures", out, rank=1, world_size=2, **short)
    said = refusal(out, generate_dataset, begun / "pictures", out, types=["detail"], **hurried)
    assert "iqf_verify_drafts was null, now true" in said


def test_a_correction_goes_on_with_the_same_settings_too(begun):
    entries = json.loads((begun / "llava.json").read_text())
    (begun / "other.json").write_text(json.dumps(entries[1:]))
    words = (begun / "llava.json", begun / "corrected")
    for given, difference in OTHER:
        if "type" in given or not set(given) <= settings_of(CorrectJob):
            continue
        said = refusal(begun / "corrected", correct_dataset, *words, image_root=begun / "pictures", **job(**given))
        assert difference in said, given
    root = {"image_root": begun / "pictures"}
    said = refusal(begun / "corrected", correct_dataset, *words, **root, **job(type="detail"))
    assert 'types was ["correct' in said and 'now ["detail"]' in said
    other = (begun / "other.json", begun / "corrected")
    assert "inputs.listed was 9, now 8" in refusal(begun / "corrected", correct_dataset, *other, **root, **job())


def test_parts_of_a_dataset_and_short_answers(parity_dir, model, processor, tmp_path):
    pictures = sorted((parity_dir / "images").glob("*.png"))[:2]
    rows = [{"image": {"bytes": path.read_bytes(), "path": None}, "image_id": path.stem} for path in pictures]
    data = Dataset.from_list(rows, features=Features({"image": Pictures(), "image_id": Value("string")}))
    (tmp_path / "data").mkdir()
    for split in ("train", "test"):
        data.to_parquet(tmp_path / "data" / f"{split}-0.parquet")
    for name, words in (("some", {"What": 1}), ("other", {"Is": 2})):
        (tmp_path / f"{name}.json").write_text(json.dumps(words))
    short = {"answers": 2, "answer_threshold": 1.0, "first_words": tmp_path / "some.json", "types": ["okvqa"]}
    real = {"model": model, "processor": processor, "format": "dataset", "settings": {"max_new_tokens": 4}}
    out = tmp_path / "out"
    generate_dataset(tmp_path / "data", out, **real, **short)
    for given, difference in (
        ({"split": "test"}, 'split was "train", now "test"'),
        ({"subset": "default"}, 'subset was null, now "default"'),
        ({"answers": 3}, "short_answers.count was 2, now 3"),
        ({"answer_threshold": 2.0}, "short_answers.threshold was 1.0, now 2.0"),
        ({"first_words": tmp_path / "other.json"}, "short_answers.first_words.Is was null, now 2"),
    ):
        said = refusal(out, generate_dataset, tmp_path / "data", out, **{**real, **short, **given})
        assert difference in said, said


def test_a_model_read_otherwise_is_another(vigc_folder, parity_dir, tmp_path):
    job = {"types": ["detail"], "limit": 1, "settings": {"max_new_tokens": 4}, "model": vigc_folder, "device": "cpu"}
    generate_dataset(parity_dir / "images", tmp_path / "out", **job)
    words = (parity_dir / "images", tmp_path / "out")
    said = refusal(tmp_path / "out", generate_dataset, *words, **job, dtype="bfloat16")
    assert 'dtype was "float32", now "bfloat16"' in said
    shutil.copytree(vigc_folder, tmp_path / "model" / vigc_folder.name)
    config = tmp_path / "model" / vigc_folder.name / "generation_config.json"
    config.write_text(config.read_text() + "\n")
    job["model"] = tmp_path / "model" / vigc_folder.name
    assert "revision was" in refusal(tmp_path / "out", generate_dataset, *words, **job)


def test_a_model_object_with_other_weights_is_another(parity_dir, vigc_folder, processor, tmp_path):
    model = VigcForConditionalGeneration.from_pretrained(vigc_folder)
    job = {"types": ["detail"], "limit": 2, "settings": {"max_new_tokens": 4}, "model": model, "processor": processor}
    words = (parity_dir / "images", tmp_path / "out")
    generate_dataset(*words, **job)
    again = VigcForConditionalGeneration.from_pretrained(vigc_folder)
    assert generate_dataset(*words, **{**job, "model": again}).idle, "the same weights, loaded again"
    with torch.no_grad():
        model.language_projection.bias += 1e-3
    assert "revision was" in refusal(tmp_path / "out", generate_dataset, *words, **job)


def test_rows_that_hold_paths_are_bound_to_the_root(begun, tmp_path):
    (tmp_path / "elsewhere").symlink_to(begun / "pictures")
    shutil.copytree(begun / "pictures", tmp_path / "moved")
    words = (begun / "llava.json", tmp_path / "out")
    given = job(store="path", format="llava", types=["detail"])
    generate_dataset(*words, image_root=begun / "pictures", **given)
    assert generate_dataset(*words, image_root=tmp_path / "elsewhere", **given).idle, "the same folder by another name"
    said = refusal(tmp_path / "out", generate_dataset, *words, image_root=tmp_path / "moved", **given)
    assert f'root was "{str(begun)[:20]}' in said and "now " in said
