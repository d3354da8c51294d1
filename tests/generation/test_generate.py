"""`generate_dataset`: a folder of good and broken pictures becomes a dataset that others can load and train on."""

import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys

import forks
import pyarrow.parquet as pq
import pytest
import torch
from datasets import Features, load_dataset
from job_codes import exit_code_of
from PIL import ExifTags, Image
from transformers import T5Config

from vigc.errors import ConflictError, ExportError, GenerationError, MixError
from vigc.exports.export import export_dataset
from vigc.exports.mixing import training_rows
from vigc.generation import GenerateJob, correct_dataset, generate_dataset
from vigc.generation.sources.base import list_images
from vigc.inference.loading import load_model
from vigc.jobs import ledger
from vigc.modeling_vigc import VigcConfig, VigcForConditionalGeneration
from vigc.processing import GENERATED_FEATURES
from vigc.processing.model_folder import folder_fingerprint

TYPES = ("conversation", "detail", "complex")


@pytest.fixture(scope="module")
def pictures(parity_dir, tmp_path_factory):
    """Six good pictures, one of them turned and telling; three broken ones; one that leads out of the folder."""
    folder = tmp_path_factory.mktemp("pictures")
    for path in sorted((parity_dir / "images").glob("*.png")):
        shutil.copy(path, folder)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    exif[ExifTags.Base.Artist] = "SECRET"
    exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitudeRef] = "N"
    (folder / "phone").mkdir()
    with Image.open(folder / "img_5.png") as image:
        image.transpose(Image.Transpose.ROTATE_90).save(folder / "phone" / "IMG 1.JPG", "JPEG", exif=exif, quality=95)
    (folder / "img_5.png").unlink()
    whole = (folder / "img_0.png").read_bytes()
    (folder / "phone" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "zero.jpg").touch()
    (folder / "words.gif").write_text("no picture")
    (folder / "notes.txt").write_text("not asked for")
    outside = tmp_path_factory.mktemp("outside") / "private.png"
    shutil.copy(folder / "img_0.png", outside)
    (folder / "escape.png").symlink_to(outside)
    return folder


@pytest.fixture(scope="module")
def made(pictures, model, processor, tmp_path_factory):
    """The dataset of all tests that only look, and its summary."""
    output = tmp_path_factory.mktemp("made") / "shapes"
    calls = []
    hook = model.vision_model.register_forward_hook(lambda module, given, result: calls.append(len(result[0])))
    try:
        summary = generate_dataset(
            pictures, output, model=model, processor=processor, batch_size=3, shard_size=5, license="cc-by-4.0"
        )
    finally:
        hook.remove()
    return output, summary, calls


def rows_of(folder, kind=None):
    files = sorted(folder.glob(f"{kind or '*'}/train-*.parquet"))
    return [row for file in files for row in pq.read_table(file).to_pylist()]


def texts_of(folder):
    return {(row["image_id"], row["type"]): (row["question"], row["draft"], row["answer"]) for row in rows_of(folder)}


# What comes out


def test_every_input_ends_as_rows_or_set_aside(made):
    output, summary, _ = made
    aside = ledger.read_quarantine(output)
    files = {record["path"]: record["reason"] for record in aside if record["kind"] == "image"}
    assert set(files) == {"escape.png", "phone/cut.png", "zero.jpg", "words.gif"}
    assert "out of the folder" in files["escape.png"] and "truncated" in files["phone/cut.png"]
    texts = [record for record in aside if record["kind"] == "text"]
    rows = rows_of(output)
    assert len(rows) + len(texts) == 6 * len(TYPES)
    assert all(record["reason"] and isinstance(record["text"], str) for record in texts)
    assert (summary.images, summary.rows, summary.set_aside) == (6, len(rows), len(aside))
    assert dict(summary.skipped) == files
    assert {kind: figures.rows for kind, figures in summary.types.items()} == {
        kind: len(rows_of(output, kind)) for kind in TYPES
    }


def test_rows_are_whole(made, pictures):
    output, summary, _ = made
    for file in output.glob("*/train-*.parquet"):
        assert Features.from_arrow_schema(pq.read_schema(file)) == GENERATED_FEATURES
    rows = rows_of(output)
    assert {row["image_id"] for row in rows} == {*(f"img_{index}" for index in range(5)), "phone/IMG 1"}
    assert len({row["id"] for row in rows}) == len(rows)
    for row in rows:
        assert row["messages"] == [
            {"role": "user", "content": row["question"]},
            {"role": "assistant", "content": row["answer"]},
        ]
        assert row["question"] and row["answer"] and row["draft"]
        assert " ".join(step["sentence"] for step in row["trace"] if step["sentence"]) == row["answer"]
        assert row["scores"]["draft_logprob"] < 0 and row["scores"]["answer_logprob"] < 0
        assert (row["source"], row["license"]) == (pictures.name, "cc-by-4.0")
        assert row["config_hash"] == summary.config_hash and row["question_index"] == 0
    assert any(row["draft"].split() != row["answer"].split() for row in rows)


def test_texts_are_those_that_the_model_writes(made, model, processor, pictures):
    with Image.open(pictures / "img_3.png") as image:
        inputs = processor(images=[image.convert("RGB")], task="detail", return_tensors="pt")
    output = model.generate(**inputs, processor=processor, return_dict_in_generate=True)
    expected = (output.questions[0], output.drafts[0], output.answers[0])
    assert texts_of(made[0])["img_3", "detail"] == expected


def test_pictures_are_embedded_upright_and_without_metadata(made, pictures):
    rows = {row["image_id"]: row["image"]["bytes"] for row in rows_of(made[0])}
    assert rows["img_3"] == (pictures / "img_3.png").read_bytes()
    telling = (pictures / "phone" / "IMG 1.JPG").read_bytes()
    published = Image.open(io.BytesIO(rows["phone/IMG 1"]))
    assert b"SECRET" in telling and b"SECRET" not in rows["phone/IMG 1"]
    assert not published.getexif()
    with Image.open(io.BytesIO(telling)) as stored:
        assert published.size == stored.size[::-1]


def test_the_vit_runs_once_per_batch_for_all_types(made):
    # Six readable pictures of ten, in shards of five and batches of three; the last picture of a shard is alone.
    assert made[2] == [3, 1, 2]


def test_load_dataset_reads_the_folder_in_another_process(made, tmp_path):
    code = """
import json, sys
from datasets import load_dataset
everything = load_dataset(sys.argv[1], split="train", cache_dir=sys.argv[2])
detail = load_dataset(sys.argv[1], "detail", split="train", cache_dir=sys.argv[2])
streamed = next(iter(load_dataset(sys.argv[1], "complex", split="train", streaming=True)))
print(json.dumps({
    "rows": len(everything), "detail": len(detail), "types": sorted(set(everything["type"])),
    "only": sorted(set(detail["type"])), "sizes": [row["image"].size for row in detail], "streamed": streamed["type"],
    "feature": type(detail.features["image"]).__name__, "columns": detail.column_names,
}))
"""
    result = forks.run("-c", code, made[0], tmp_path)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout.splitlines()[-1])
    assert found["rows"] == len(rows_of(made[0])) and found["detail"] == len(rows_of(made[0], "detail"))
    assert found["types"] == sorted(TYPES) and found["only"] == ["detail"] and found["streamed"] == "complex"
    assert found["feature"] == "Image" and found["columns"] == list(GENERATED_FEATURES)
    assert all(width > 20 and height > 20 for width, height in found["sizes"])


def test_rows_train_as_they_are(made, vigc_folder, processor, tmp_path):
    trl = pytest.importorskip("trl", reason="needs vigc[train]")
    model = VigcForConditionalGeneration.from_pretrained(vigc_folder)
    rows = load_dataset(str(made[0]), "detail", split="train", cache_dir=str(tmp_path / "cache"))
    settings = {"max_steps": 1, "per_device_train_batch_size": 2, "max_length": None, "report_to": "none"}
    args = trl.SFTConfig(str(tmp_path), use_cpu=True, disable_tqdm=True, save_strategy="no", **settings)
    trainer = trl.SFTTrainer(model, args, train_dataset=rows, processing_class=processor)
    assert next(iter(trainer.get_train_dataloader()))["pixel_values"].shape[0] == 2
    assert trainer.train().training_loss > 0


# What must not matter, and what must


def test_batches_and_shards_change_nothing(made, pictures, model, processor, tmp_path):
    output, summary, _ = made
    again = generate_dataset(
        pictures, tmp_path / "again", model=model, processor=processor, batch_size=1, license="cc-by-4.0"
    )
    assert again.config_hash == summary.config_hash
    rows, others = ({row["id"]: row for row in rows_of(folder)} for folder in (output, tmp_path / "again"))
    assert rows.keys() == others.keys()
    for key, row in rows.items():
        other = others[key]
        for name in ("image", "image_id", "question", "draft", "answer", "messages", "extra", "model"):
            assert row[name] == other[name]


@pytest.mark.parametrize("settings", [{}, {"do_sample": True, "temperature": 1.5}], ids=["greedy", "drawn"])
def test_corrections_depend_on_their_rows_alone_and_keep_slots_full(pictures, model, processor, tmp_path, settings):
    ask = ("What can you see?", "What does the image show?", "What colour is it?")
    entries = [
        {
            "id": index,
            "image": path.name,
            "conversations": [
                turn
                for question in ask[: index % 3 + 1]
                for turn in ({"from": "human", "value": question}, {"from": "gpt", "value": "Two shapes. A red one."})
            ],
        }
        for index, path in enumerate(sorted(pictures.glob("img_*.png")))
    ]
    del entries[2]["image"]
    (tmp_path / "llava.json").write_text(json.dumps(entries))
    widths, found = [], {}
    note = model.language_model.register_forward_pre_hook(
        lambda module, given, kwargs: widths.append(len(kwargs["input_ids"])) if "input_ids" in kwargs else None,
        with_kwargs=True,
    )
    for slots, more in ((1, {}), (3, {"iqf_verify_drafts": True}), (8, {}), (3, {})):
        widths.clear()
        job = {"model": model, "processor": processor, "settings": {**settings, **more}, "batch_size": slots}
        out = tmp_path / f"{slots}{len(more)}"
        summary = correct_dataset(tmp_path / "llava.json", out, image_root=pictures, **job)
        found[out.name] = {row["id"]: (row["question"], row["draft"], row["answer"]) for row in rows_of(out)}
        assert summary.bare == 1 and max(widths) <= slots
    note.remove()
    assert all(rows == found["10"] for rows in found.values()) and len(found["10"]) == summary.rows
    full = len(widths) - widths[::-1].index(3)
    assert sum(width == 3 for width in widths[:full]) > 0.8 * full, "slots stay full from entry to entry"


def test_sampling_depends_on_the_seed_and_the_row_alone(pictures, model, processor, tmp_path):
    def run(name, **given):
        settings = {"do_sample": True, "temperature": 1.5}
        job = {"model": model, "processor": processor, "types": ("conversation",), "settings": settings, **given}
        generate_dataset(pictures, tmp_path / name, **job)
        return texts_of(tmp_path / name)

    first = run("first", seed=1, batch_size=4)
    assert run("again", seed=1, batch_size=3) == first
    assert run("other", seed=2, batch_size=4) != first


def test_without_correction_the_answer_is_the_draft(made, pictures, model, processor, tmp_path):
    generate_dataset(pictures, tmp_path / "drafts", model=model, processor=processor, correct=False)
    drafts = texts_of(tmp_path / "drafts")
    corrected = texts_of(made[0])
    assert drafts.keys() == corrected.keys()
    for key, (question, draft, answer) in drafts.items():
        assert (question, draft) == corrected[key][:2]
        assert answer == draft
    assert all(row["trace"] == [] for row in rows_of(tmp_path / "drafts"))
    assert "not corrected" in (tmp_path / "drafts" / "README.md").read_text(encoding="utf-8")


def test_questions_alone_have_the_same_answers_and_no_drafts(made, pictures, model, processor, tmp_path, capsys):
    folder = tmp_path / "answers"
    job = GenerateJob(images=pictures, model=model, processor=processor, settings={"iqf_draft": False})
    assert exit_code_of(lambda: job, folder) == 3
    told = capsys.readouterr().out
    assert "  question  " in told and "  answer  " in told and "  draft  " not in told and "edited" not in told
    answers, corrected = texts_of(folder), texts_of(made[0])
    # A pair whose draft is malformed is none; its question alone is a question.
    assert corrected.keys() <= answers.keys() and len(answers) < len(corrected) + 3
    for key, (question, _, answer) in corrected.items():
        assert answers[key] == (question, None, answer)
    for row in rows_of(folder):
        assert row["scores"]["draft_logprob"] is None and row["scores"]["answer_logprob"] < 0
        assert all(step["changed"] is None for step in row["trace"])
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "There are no drafts." in card and "so `draft` is null" in card and "draft_logprob`" not in card
    assert re.search(r"\| `detail` \| \d+ \| - \|", card) and "edited ones" not in card
    page = (folder / "report" / "index.html").read_text(encoding="utf-8")
    assert "without drafts" in page and "Answers edited" not in page and "<del>" not in page
    assert re.search(r"\d steps?<span>", page) and " edited<" not in page
    # Who reads the rows says what is missing, and takes the answers.
    with pytest.raises(ExportError, match=r"has no draft or no answer.*unless they were generated with --no-iqf-draft"):
        export_dataset(folder, tmp_path / "pairs", format="trl-dpo")
    for layout in ("trl-sft", "llava", "finevision"):
        assert export_dataset(folder, tmp_path / layout, format=layout).rows == len(answers)
    rows = load_dataset(str(folder), split="train")
    assert sorted(training_rows(rows)["answers"]) == sorted([row["answer"]] for row in rows_of(folder))
    with pytest.raises(MixError, match="has no draft: remove the row, or use the other text"):
        training_rows(rows, text="draft")


def test_settings_reach_the_model_and_the_hash(pictures, model, processor, tmp_path):
    settings = {"iqf_steps": 1, "iqf_keep_tail": False, "iqf_full_record": True, "num_beams": 2}
    job = {"model": model, "processor": processor, "types": ["complex"], "limit": 2}
    summary = generate_dataset(pictures, tmp_path / "a", settings=settings, **job)
    rows = rows_of(tmp_path / "a")
    assert all(len(row["trace"]) == 1 for row in rows)
    assert len(json.loads(rows[0]["extra"])["answer_given_question"]) > len(rows[0]["answer"])
    plan = ledger.read_plan(tmp_path / "a").configuration
    assert plan["iqf"]["iqf_steps"] == 1 and plan["decoding"]["num_beams"] == 2 and plan["types"] == ["complex"]
    assert generate_dataset(pictures, tmp_path / "b", **job).config_hash != summary.config_hash
    assert (
        generate_dataset(pictures, tmp_path / "c", seed=5, settings=settings, **job).config_hash != summary.config_hash
    )


# The model


def test_a_model_is_loaded_from_its_folder_and_named_after_it(vigc_folder, pictures, tmp_path):
    summary = generate_dataset(pictures, tmp_path / "out", model=vigc_folder, types=["detail"], limit=2)
    (row,) = {(row["model"], row["config_hash"]) for row in rows_of(tmp_path / "out")}
    assert row == (vigc_folder.name, summary.config_hash)
    plan = ledger.read_plan(tmp_path / "out")
    assert plan.configuration["revision"] == folder_fingerprint(vigc_folder)
    assert str(vigc_folder.parent) not in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")


def test_another_model_has_another_fingerprint(vigc_folder, tmp_path):
    copy = shutil.copytree(vigc_folder, tmp_path / vigc_folder.name)
    assert folder_fingerprint(copy) == folder_fingerprint(vigc_folder)
    (copy / "README.md").write_text("says nothing about the weights")
    assert folder_fingerprint(copy) == folder_fingerprint(vigc_folder)
    config = json.loads((copy / "generation_config.json").read_text())
    (copy / "generation_config.json").write_text(json.dumps({**config, "max_new_tokens": 9}))
    assert folder_fingerprint(copy) != folder_fingerprint(vigc_folder)


def test_a_hub_that_is_away_is_told_from_a_mistake(pictures, tmp_path):
    code = """
import os, sys, threading, time
from http.server import BaseHTTPRequestHandler, HTTPServer
class Hub(BaseHTTPRequestHandler):
    status = 503
    def do_GET(self):
        self.send_response(Hub.status)
        self.send_header("Content-Length", "0")
        self.end_headers()
    do_HEAD = do_GET
    def log_message(self, *words): pass
server = HTTPServer(("127.0.0.1", 0), Hub)
threading.Thread(target=server.serve_forever, daemon=True).start()
os.environ.update(HF_ENDPOINT=f"http://127.0.0.1:{server.server_port}", HF_HUB_OFFLINE="0", NO_PROXY="127.0.0.1")
time.sleep = lambda seconds: None  # between the tries that huggingface_hub makes
from typer.testing import CliRunner
from vigc.cli.root import app
for Hub.status in (503, 429, 401):
    result = CliRunner().invoke(app, ["generate", sys.argv[1], "-o", sys.argv[2], "-m", "user/model"])
    print(Hub.status, result.exit_code, result.stderr.splitlines()[-1])
"""
    command = [sys.executable, "-c", code, str(pictures), str(tmp_path / "out")]
    result = subprocess.run(command, capture_output=True, text=True)
    busy, limited, private = result.stdout.splitlines()
    assert busy.startswith("503 75 ") and "run the same command again later" in busy
    assert limited.startswith("429 75 ")
    assert private.startswith("401 2 ") and "The model 'user/model' cannot be loaded" in private
    assert not (tmp_path / "out").exists()


def test_a_stock_instructblip_serves_too(model, processor, pictures, tmp_path):
    from transformers import InstructBlipConfig, InstructBlipForConditionalGeneration, InstructBlipProcessor

    fields = {name: value for name, value in model.config.to_dict().items() if name not in ("model_type", "auto_map")}
    stock = InstructBlipForConditionalGeneration(InstructBlipConfig(**fields))
    stock.load_state_dict(model.state_dict())
    stock.save_pretrained(tmp_path / "stock")
    parts = (processor.image_processor, processor.tokenizer, processor.qformer_tokenizer)
    InstructBlipProcessor(*parts, num_query_tokens=processor.num_query_tokens).save_pretrained(tmp_path / "stock")
    loaded = load_model(tmp_path / "stock")
    job = {"types": ["complex"], "limit": 3, "settings": {"max_new_tokens": 60}}
    generate_dataset(pictures, tmp_path / "out", model=loaded.model, processor=loaded.processor, **job)
    assert rows_of(tmp_path / "out")


# Refusals, each before anything is written


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"types": ["poem"]}, "'poem' is not known: use one or more of conversation"),
        ({"types": []}, "no type"),
        ({"types": ["detail", "detail"]}, "names one twice"),
        ({"batch_size": 0}, "batch_size=0 is too small"),
        ({"limit": 0}, "limit=0 is too small"),
        ({"settings": {"iqf_unit": "word"}}, "iqf_unit 'word' is not known: use one of sentence, paragraph"),
        ({"settings": {"iqf_steps": -2}}, "iqf_steps=-2"),
        ({"settings": {"beams": 3}}, "beams: unknown generation setting"),
        ({"settings": {"num_beams": 0}}, "num_beams=0 is too small"),
        ({"settings": {"num_beams": True}}, "num_beams=True is not an integer"),
        ({"settings": {"temperature": "hot"}}, "temperature='hot' is not a number"),
        ({"settings": {"top_p": None}}, "top_p=None is not a number"),
        ({"settings": {"temperature": 0.7}}, "temperature has no effect without sampling: give --do-sample"),
        ({"settings": {"iqf_steps": 2}, "correct": False}, "Without correction iqf_steps has no effect"),
        ({"processor": None}, "needs its processor"),
        ({"model": "no/such/model"}, "The model 'no/such/model' cannot be loaded"),
        ({"model": "no/such/model", "dtype": "int4"}, "dtype 'int4' is not known: use one of auto, float32"),
        ({"model": "no/such/model", "device": "toaster"}, "device 'toaster' cannot be used"),
    ],
)
def test_bad_settings_are_refused_in_a_sentence(given, reason, pictures, model, processor, tmp_path):
    with pytest.raises(GenerationError, match=reason):
        generate_dataset(pictures, tmp_path / "out", **{"model": model, "processor": processor, **given})
    assert not (tmp_path / "out").exists()


def test_there_must_be_a_picture(model, processor, tmp_path):
    job = {"model": model, "processor": processor}
    with pytest.raises(GenerationError, match="neither a folder nor a file"):
        generate_dataset(tmp_path / "absent", tmp_path / "out", **job)
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "notes.txt").touch()
    with pytest.raises(GenerationError, match="has no image"):
        generate_dataset(tmp_path / "texts", tmp_path / "out", **job)
    for index in range(5):
        (tmp_path / "texts" / f"{index}.png").write_text("broken")
    with pytest.raises(GenerationError, match=r"None of 5 images can be read: .*0\.png.*and 2 more"):
        generate_dataset(tmp_path / "texts", tmp_path / "out", **job)
    assert not (tmp_path / "out").exists()


def test_a_model_whose_language_model_has_an_encoder_is_refused(model, pictures, processor, tmp_path):
    inner = T5Config(d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2, vocab_size=20).to_dict()
    config = VigcConfig.from_dict({**model.config.to_dict(), "text_config": inner})
    config.save_pretrained(tmp_path / "flan")
    with pytest.raises(GenerationError, match="its language model, 't5', has an encoder"):
        generate_dataset(pictures, tmp_path / "out", model=tmp_path / "flan")
    flan = VigcForConditionalGeneration(config).eval()
    with pytest.raises(ValueError, match="decoder-only language model, but this model has 't5'"):
        flan.generate(pixel_values=torch.zeros(1, 3, 4, 4), processor=processor, mode="vig", task=["detail"])


def test_a_dataset_is_replaced_only_on_request(pictures, model, processor, tmp_path):
    job = {"model": model, "processor": processor, "limit": 2}
    generate_dataset(pictures, tmp_path / "out", types=["detail", "complex"], **job)
    (tmp_path / "out" / "mine.txt").write_text("kept")
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    with pytest.raises(ConflictError, match=r"types was .*now .*detail.*give --overwrite to replace it"):
        generate_dataset(pictures, tmp_path / "out", types=["detail"], **job)
    with pytest.raises(GenerationError, match="cannot be loaded"):
        generate_dataset(pictures, tmp_path / "out", model="no/such/model", overwrite=True)
    assert before == {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    generate_dataset(pictures, tmp_path / "out", types=["conversation"], overwrite=True, **job)
    left = {path.name for path in (tmp_path / "out").iterdir()}
    assert left - {"quarantine"} == {"README.md", "_vigc", "conversation", "mine.txt", "report", "samples"}
    assert {path.name[:13] for path in (tmp_path / "out" / "samples").iterdir()} == {"conversation-"}


def test_a_folder_of_something_else_is_never_touched(pictures, model, processor, tmp_path):
    (tmp_path / "thesis.tex").write_text("work of years")
    for overwrite in (False, True):
        with pytest.raises(GenerationError, match="no dataset of vigc: give --output a new or empty folder"):
            generate_dataset(pictures, tmp_path, model=model, processor=processor, overwrite=overwrite)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_nothing_half_written_is_left_behind(tmp_path, monkeypatch):
    path = tmp_path / "file"
    ledger.atomic_write(path, b"old")

    def fail(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        ledger.atomic_write(path, b"new")
    assert path.read_bytes() == b"old"
    assert [item.name for item in tmp_path.iterdir()] == ["file"]


# Sources


def test_pictures_are_listed_in_one_order_under_ids_of_their_own(tmp_path):
    names = ["b/1.png", "b/1.jpg", "a.PNG", "a.b.webp", "c.jpg", "c.jpg.png", "z.txt", "ünï\n🙂.gif"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = list_images(tmp_path)
    assert [source.name for source in found] == sorted(name for name in names if name != "z.txt")
    ids = {source.name: source.image_id for source in found}
    assert ids["a.PNG"] == "a" and ids["a.b.webp"] == "a.b" and ids["ünï\n🙂.gif"] == "ünï\n🙂"
    assert ids["b/1.png"] == "b/1.png" and ids["b/1.jpg"] == "b/1.jpg"
    assert len(set(ids.values())) == len(ids)


def test_one_picture_may_be_given_instead_of_a_folder(pictures):
    (source,) = list_images(pictures / "phone" / "IMG 1.JPG")
    assert (source.image_id, source.refused) == ("IMG 1", None)


def test_a_folder_that_cannot_be_listed_is_no_empty_folder(tmp_path, monkeypatch):
    (tmp_path / "locked").mkdir()
    (tmp_path / "a.png").touch()
    scan = os.scandir

    def scandir(path):
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(GenerationError, match=r"locked' cannot be listed .Permission denied.: make it readable"):
        list_images(tmp_path)


def test_links_are_followed_inside_the_folder_only(tmp_path):
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    (root / "sub" / "real.png").touch()
    (tmp_path / "outside.png").touch()
    (root / "inside.png").symlink_to(root / "sub" / "real.png")
    (root / "out.png").symlink_to(tmp_path / "outside.png")
    (root / "gone.png").symlink_to(tmp_path / "absent.png")
    (root / "circle.png").symlink_to(root / "circle.png")
    (root / "loop").symlink_to(root)
    found = {source.name: source.refused for source in list_images(root)}
    assert found.keys() == {"sub/real.png", "inside.png", "out.png", "gone.png", "circle.png"}
    assert found["inside.png"] is None and "out of the folder" in found["out.png"]
    assert "nowhere" in found["gone.png"] and "nowhere" in found["circle.png"]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_names_that_are_no_unicode_go_through(parity_dir, model, processor, tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name, source in ((b"caf\xe9.png", "img_0.png"), (b"br\xfcck.png", None)):
        content = (parity_dir / "images" / source).read_bytes() if source else b"broken"
        with open(os.path.join(os.fsencode(folder), name), "wb") as file:
            file.write(content)
    generate_dataset(folder, tmp_path / "out", model=model, processor=processor, types=["detail"])
    assert [row["image_id"] for row in rows_of(tmp_path / "out")] == [r"caf\xe9"]
    (record,) = ledger.read_quarantine(tmp_path / "out")
    assert os.fsencode(record["path"]) == b"br\xfcck.png"
    assert record["sha256"] == hashlib.sha256(b"broken").hexdigest()
