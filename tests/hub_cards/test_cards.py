"""Cards say what is true: figures, settings, limits, licences; and `load_dataset` can read what they declare."""

import io

import numpy
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset_builder
from huggingface_hub import DatasetCard, ModelCard
from PIL import Image

from vigc.generation import generate_dataset
from vigc.hub_cards import DatasetFacts, TypeFigures, write_dataset_card, write_model_card, write_trained_model_card
from vigc.processing import GENERATED_FEATURES


@pytest.fixture(scope="module")
def made(parity_dir, model, processor, tmp_path_factory):
    output = tmp_path_factory.mktemp("cards") / "shapes"
    job = {"types": ["conversation", "detail"], "settings": {"iqf_steps": 2, "max_new_tokens": 60}, "seed": 3}
    return output, generate_dataset(
        parity_dir / "images", output, model=model, processor=processor, shard_size=4, **job
    )


def write(folder, **given):
    figures = {"detail": TypeFigures(rows=3, changed=1, malformed=1, files=1, num_bytes=300, download_bytes=200)}
    values = {
        "name": "shapes",
        "features": GENERATED_FEATURES,
        "types": figures,
        "images": 4,
        "skipped": 2,
        "reasons": [("a file that cannot be read", "is empty")] * 2 + [("a text that is no pair", "no 'Answer:'")],
        "configuration": {
            "model": "vigc-7b",
            "revision": None,
            "dtype": "bfloat16",
            "correct": True,
            "seed": 0,
            "decoding": {"num_beams": 5},
            "iqf": {"iqf_steps": 4},
        },
        "config_hash": "0123456789abcdef",
        "command": "vigc generate IMAGES --output DIR",
        "source": "photos",
        "license": "unknown",
    }
    return write_dataset_card(folder, DatasetFacts(**{**values, **given})).read_text(encoding="utf-8")


def test_metadata_is_what_the_files_hold(made):
    output, summary = made
    data = DatasetCard.load(output / "README.md").data
    assert data.license == "unknown" and data.size_categories == ["n<1K"]
    assert data.task_categories == ["visual-question-answering", "image-text-to-text"] and "vigc" in data.tags
    configs = {config["config_name"]: config for config in data.configs}
    assert list(configs) == ["default", "conversation", "detail"] and configs["default"]["default"] is True
    infos = {info["config_name"]: info for info in data.dataset_info}
    for kind in ("conversation", "detail"):
        files = sorted((output / kind).glob("*.parquet"))
        assert len(files) == 2
        assert infos[kind]["download_size"] == sum(file.stat().st_size for file in files)
        (split,) = infos[kind]["splits"]
        tables = [pq.read_table(file) for file in files]
        assert split["num_examples"] == sum(table.num_rows for table in tables) == summary.types[kind].rows
        # Offsets and validity bits depend on how a table is cut; a little either way.
        assert abs(split["num_bytes"] - sum(table.nbytes for table in tables)) < 64 * len(files)
    assert infos["default"]["splits"][0]["num_examples"] == summary.rows


def test_declared_columns_are_ours(made):
    for config in ("default", "detail"):
        builder = load_dataset_builder(str(made[0]), config)
        assert builder.info.features == GENERATED_FEATURES


def test_text_says_how_it_was_made(made):
    output, summary = made
    text = (output / "README.md").read_text(encoding="utf-8")
    assert "`iqf_steps`: 2" in text and "`max_new_tokens`: 60" in text and summary.config_hash in text
    assert "--types conversation,detail --seed 3" in text and "--iqf-steps 2 --max-new-tokens 60" in text
    assert f"Yield: {100 * summary.rows / 12:.1f} %" in text
    for kind, figures in summary.types.items():
        assert (
            f"| `{kind}` | {figures.rows} | {100 * figures.changed / figures.rows:.1f} % | {figures.malformed} |"
            in text
        )
    assert 'load_dataset("./shapes", "conversation", split="train")' in text


def test_scores_and_samples_are_read_from_the_rows(made):
    output, _ = made
    text = (output / "README.md").read_text(encoding="utf-8")
    tables = [pq.read_table(file) for file in sorted(output.glob("*/train-*.parquet"))]
    scores = [row["answer_logprob"] for table in tables for row in table["scores"].to_pylist()]
    low, _, middle, _, high = numpy.quantile(scores, [0.05, 0.25, 0.5, 0.75, 0.95])
    (line,) = [line for line in text.splitlines() if line.startswith("| `answer_logprob`")]
    assert line.startswith(f"| `answer_logprob` | {len(scores)} | {numpy.mean(scores):.3f} | {low:.3f} |")
    assert f"| {middle:.3f} |" in line and line.endswith(f"| {high:.3f} |")
    assert "`visual_dependency`" not in text.split("## Limits")[0].split("### Columns")[0]  # was not computed
    shown = [line.split(" | ") for line in text.splitlines() if line.startswith("| ![")]
    assert len(shown) == 4 and [cells[1] for cells in shown] == ["`conversation`"] * 2 + ["`detail`"] * 2
    rows = [row for table in tables for row in table.to_pylist()]
    for cells in shown:
        picture = Image.open(output / cells[0].split("](")[1].rstrip(")")).convert("RGB")
        asked = [row["image"]["bytes"] for row in rows if row["question"] == cells[2]]
        assert picture in [Image.open(io.BytesIO(data)).convert("RGB") for data in asked]


def test_what_was_compared_is_said(tmp_path):
    assert "Not checked: other datasets may train or test on these" in write(tmp_path)
    compared = write(tmp_path, compared=["llava_150k.json"], excluded={"is listed in llava_150k.json": 1200})
    assert "compared with llava\\_150k.json" in compared and "| 1,200 | is listed in llava\\_150k.json |" in compared
    assert "No image was excluded" in write(tmp_path, compared=["coco_test"])


@pytest.mark.parametrize(
    ("stated", "counted", "metadata"),
    [
        ("unknown", {"cc-by-4.0": 3}, {"license": "cc-by-4.0"}),
        ("cc0-1.0", {}, {"license": "cc0-1.0"}),
        ("unknown", {"mit": 3, "unknown": 1}, {"license": "unknown"}),
        ("unknown", {"mit": 3, "cc0-1.0": 1}, {"license": "other"}),
        ("http://creativecommons.org/licenses/by-nc-sa/2.0/", {}, {"license": "cc-by-nc-sa-2.0"}),
        ("https://creativecommons.org/publicdomain/zero/1.0/", {}, {"license": "cc0-1.0"}),
        ("No known copyright!", {}, {"license": "other", "license_name": "no-known-copyright"}),
    ],
)
def test_licences_are_named_as_the_hub_names_them(tmp_path, stated, counted, metadata):
    data = DatasetCard(write(tmp_path, license=stated, licenses=counted)).data.to_dict()
    assert {name: data[name] for name in ("license", "license_name") if name in data} == metadata


def test_set_aside_limits_and_licence_are_said(tmp_path):
    text = write(tmp_path)
    assert "| 2 | a file that cannot be read | is empty |" in text
    assert "| 1 | a text that is no pair | no 'Answer:' |" in text
    assert "mentions objects that are not in the image" in text
    assert "The licence of the images is unknown" in text
    stated = write(tmp_path, license="cc-by-4.0")
    assert "as stated by the creator of the dataset: cc-by-4.0" in stated and "is unknown" not in stated


def test_strange_names_break_neither_metadata_nor_tables(tmp_path):
    strange = 'a |b|\n---\n# x `c` <script> {{ 7 * 7 }} "quoted"'
    text = write(tmp_path, name=strange, source=strange, reasons=[("a file", strange)])
    data = DatasetCard(text).data
    assert data.pretty_name == " ".join(strange.split())
    assert "<script>" not in text.split("\n---\n", 1)[1].replace("\\<script\\>", "")
    assert "49" not in text
    (line,) = [line for line in text.splitlines() if line.startswith("| 1 | a file")]
    assert line.replace("\\|", "").count("|") == 4


def test_a_dataset_without_rows_declares_no_files(tmp_path):
    data = DatasetCard(write(tmp_path, types={"detail": TypeFigures(malformed=4)})).data
    assert data.get("configs") is None and data.get("dataset_info") is None


@pytest.mark.parametrize(
    ("rows", "category"), [(999, "n<1K"), (1000, "1K<n<10K"), (1_800_000, "1M<n<10M"), (2 * 10**9, "n>1B")]
)
def test_size_categories(tmp_path, rows, category):
    figures = {"detail": TypeFigures(rows=rows)}
    assert DatasetCard(write(tmp_path, types=figures)).data.size_categories == [category]


def test_the_model_card_says_what_to_do_and_what_to_check(tmp_path):
    parameters = {"ViT": 986_000_000, "language model": 6_738_000_000}
    path = write_model_card(
        tmp_path,
        name="vigc-7b",
        checkpoints=["blip2_base.pth", "vigc_llava.pth"],
        language_model="vicuna-7b-v1.1",
        parameters=parameters,
    )
    card = ModelCard.load(path)
    assert card.data.library_name == "transformers" and card.data.pipeline_tag == "image-text-to-text"
    assert "vigc" in card.data.tags
    text = card.text
    assert 'AutoModel.from_pretrained("vigc-7b", trust_remote_code=True)' in text
    assert 'processor(images=images, task="detail", return_tensors="pt")' in text
    for mention in ("blip2\\_base.pth", "vigc\\_llava.pth", "vicuna-7b-v1.1", "7,724,000,000", "2308.12714", "Licence"):
        assert mention in text, mention


@pytest.mark.parametrize("figures", [{"eval_loss": 1.25, "eval_runtime": 3.0}, {}])
def test_a_trained_model_s_card_states_the_mixture_and_what_was_measured(tmp_path, figures):
    path = write_trained_model_card(
        tmp_path / ".",
        base="Salesforce/instructblip-vicuna-7b",
        whole=True,
        data=[("okvqa", 9009, 600), ("llava", 150_000, 1400)],
        settings={"learning_rate": 1e-5},
        trained_parameters=188_000_000,
        steps=1000,
        epochs=0.5,
        figures=figures,
        image_use=None,
    )
    card = ModelCard.load(path)
    assert card.data.base_model == "Salesforce/instructblip-vicuna-7b" and "bibtex" in card.text
    assert "| okvqa | 9,009 | 600 | 30.0 % |" in card.text and "| learning_rate | 1e-05 |" in card.text
    results = card.data.eval_results or []
    assert [(result.metric_type, result.metric_value) for result in results] == ([("loss", 1.25)] if figures else [])
    assert ("There are no metrics" in card.text) is not bool(figures)
