"""What strangers wrote stays text: in rows, file names and licences, from every command to card and terminal."""

import io
import json
import random
import re
import subprocess

import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import ROOT
from datasets import load_dataset_builder
from hostile import PAYLOADS
from huggingface_hub import DatasetCard, ModelCard
from markdown_it import MarkdownIt
from PIL import Image
from scripted import ScriptedModel, ScriptedProcessor
from typer.testing import CliRunner

from vigc.cli.root import app
from vigc.hub_cards import write_model_card, write_trained_model_card
from vigc.inference import FoundModel, ModelFacts, VigcGenerator
from vigc.jobs import ledger

# What cards say of their own accord; other links and other HTML would be somebody else's.
TEMPLATES = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "hub_cards").glob("*.md"))
LINKS = {"https://arxiv.org/abs/2308.12714", "report/index.html"}
BREAK = "<!-- -->"
# What the Hub's Markdown, GitHub's flavour, makes links of without being asked.
ADDRESS = re.compile(r"https?://[-.\w]|www\.\w|[-.\w+]@[-\w]+\.\w", re.IGNORECASE)

LICENSE, MODEL, SOURCE, FOLDER = (PAYLOADS[index] for index in (73, 52, 0, 3))


# Small copies that a card shows of some rows, named by their ids.
OUR_PICTURE = re.compile(r"samples/[a-z0-9-]+\.(png|jpg)")


class HostileModel(ScriptedModel):
    """Writes a payload, another one for each picture, as question and answer; every eighth text is no pair."""

    def generate(self, image_embeds, *given, **settings):
        output = super().generate(image_embeds, *given, **settings)
        for row, picture in enumerate(image_embeds):
            index = int(picture.flatten()[0])
            output["vig_texts"][row], output["answers"][row] = f"Question: {index} Answer: a payload.", "It is one."
        return output

    def finish(self, sample):
        index = int(sample.question)
        text = PAYLOADS[index % len(PAYLOADS)]
        sample.draft, sample.answer, sample.question, sample.vig_text = (
            f"drafts {text}",
            f"answers {text}",
            f"{text}?",
            text,
        )
        sample.trace = [{"sentence": text, "changed": True, "logprob": -0.5, "stop": "unit"}]
        sample.reason = f"is wrong: {text}" if index % 8 == 0 else None


def a_picture(index):
    buffer = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), index, dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def file_name(text):
    return text.replace("/", "∕").replace("\0", "")


@pytest.fixture(scope="module")
def coco(tmp_path_factory):
    """Annotations of pictures whose names and licences are payloads; every fifth file is broken."""
    root = tmp_path_factory.mktemp("hostile") / file_name(SOURCE)
    root.mkdir()
    images, licenses = [], []
    for index, text in enumerate(PAYLOADS):
        name = f"{file_name(text)}.png"
        (root / name).write_bytes(b"broken" if index % 5 == 0 else a_picture(index))
        images.append({"id": index, "file_name": name, "license": index, "width": 8, "height": 8})
        licenses.append({"id": index, "name": text})
    found = {"images": images, "licenses": licenses, "annotations": [], "categories": []}
    (root / "instances.json").write_text(json.dumps(found))
    return root


@pytest.fixture(scope="module")
def made(coco, tmp_path_factory):
    """The dataset that `vigc generate` makes of it, its exports, and all that the commands print."""
    folder = tmp_path_factory.mktemp("made") / file_name(FOLDER)
    hostile = HostileModel()
    facts = ModelFacts(MODEL, "0" * 40, "float32", "cpu", hostile.generation_config)
    loaded = VigcGenerator(hostile, ScriptedProcessor(), facts)
    said = []

    def run(code, *arguments):
        done = CliRunner().invoke(app, list(map(str, arguments)))
        assert done.exit_code == code, (arguments, done.output, done.exception)
        said.append(done.output)

    generate = ["generate", coco / "instances.json", "--output", folder, "--format", "coco", "--image-root", coco]
    generate += ["--license", LICENSE, "--types", "detail,okvqa"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vigc.inference.loading.find_model", lambda *_, **__: FoundModel(facts, lambda _: loaded))
        run(3, *generate)
        run(3, *generate)
        run(4, *generate, "--license", "other")
        run(3, "generate", coco, "--output", folder.parent / "by-name", "--types", "detail")
    run(0, "report", folder)
    for layout in ("trl-sft", "trl-dpo", "llava", "finevision"):
        run(0, "export", folder, "--format", layout, "--output", folder.parent / layout / file_name(FOLDER))
    for text in map(file_name, PAYLOADS):
        run(2, "report", folder / text)
    run(2, "export", folder / file_name(MODEL), "--format", "llava", "--output", coco / "x")
    run(2, "convert", "--checkpoint", file_name(MODEL), "--language-model", coco, "--output", coco / "x")
    run(2, "train", coco / file_name(MODEL))
    return folder, said


def tokens_of(text):
    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(text)
    return [child for token in tokens for child in (token, *(token.children or ()))]


def check_markdown(text):
    """Nothing is alive in a card but what our templates say; returns its tokens."""
    assert all(char.isprintable() or char == "\n" for char in text)
    tokens = tokens_of(text)
    kinds = {token.type for token in tokens}
    assert not kinds & {"html_block", "s_open", "hr", "code_block", "lheading_open"}
    assert all(OUR_PICTURE.fullmatch(token.attrs["src"]) for token in tokens if token.type == "image")
    assert {token.content for token in tokens if token.type == "html_inline"} <= {BREAK}
    assert {token.attrs["href"] for token in tokens if token.type == "link_open"} <= LINKS
    assert not [token.content for token in tokens if token.type == "text" and ADDRESS.search(token.content)]
    headings = [tokens[index + 1].content for index, token in enumerate(tokens) if token.type == "heading_open"]
    assert all(f"# {title}\n" in TEMPLATES for title in headings[1:]), headings
    fences = [token for token in tokens if token.type == "fence"]
    assert len(fences) == len(re.findall(r"^```", text, flags=re.MULTILINE)) / 2
    return tokens


def table_rows(tokens, title):
    """Cells of the table under a heading."""
    start = next(index for index, token in enumerate(tokens) if token.type == "inline" and token.content == title)
    rows = []
    for before, token in zip(tokens[start:], tokens[start + 1 :], strict=False):
        if token.type == "table_close":
            return rows
        if before.type == "tr_open":
            rows.append([])
        if before.type == "td_open":
            rows[-1].append("".join(child.content for child in token.children if child.type == "text"))
    raise AssertionError(f"no table under {title}")


def visible(text):
    """A payload as a card shows it."""
    joined = " ".join(text.split())
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in joined)


def test_payloads_came_through_unchanged_as_data(made):
    folder, _ = made
    rows = [row for file in folder.glob("*/train-*.parquet") for row in pq.read_table(file).to_pylist()]
    assert {row["license"] for row in rows} <= set(PAYLOADS) and len({row["question"] for row in rows}) > 50
    named = [row for row in pq.read_table(folder.parent / "by-name" / "detail").to_pylist()]
    assert len({row["image_id"] for row in named} & {file_name(text) for text in PAYLOADS}) > 50
    kinds = {record["kind"] for record in ledger.read_quarantine(folder)}
    assert kinds == {"image", "text"}


def test_the_dataset_card_is_ours_alone(made):
    folder, _ = made
    card = DatasetCard.load(folder / "README.md")
    assert card.data.license == "other" and card.data.pretty_name == " ".join(file_name(FOLDER).split())
    assert [config["config_name"] for config in card.data.configs] == ["default", "detail", "okvqa"]
    known = "license language pretty_name task_categories size_categories tags configs dataset_info"
    assert set(card.data.to_dict()) == set(known.split())
    assert load_dataset_builder(str(folder), "detail").info.splits["train"].num_examples > 50
    check_markdown(DatasetCard.load(folder.parent / "by-name" / "README.md").text)
    tokens = check_markdown(card.text)
    rows = [row for file in folder.glob("*/train-*.parquet") for row in pq.read_table(file).to_pylist()]
    shown = table_rows(tokens, "Licences")[1:]
    assert {cells[1] for cells in shown} == {visible(row["license"]) for row in rows}
    assert all(len(cells) == 2 for cells in shown)


def test_the_command_on_the_card_is_inert_and_whole(made):
    card = DatasetCard.load(made[0] / "README.md")
    (command,) = [token.content for token in tokens_of(card.text) if token.type == "fence" and token.info == "bash"]
    assert command.count("\n") == 1
    echo = subprocess.run(
        ["bash", "-c", f"set -- {command.strip()}; printf '%s\\0' \"$@\""], capture_output=True, check=True
    )
    words = echo.stdout.decode().split("\0")
    assert words[words.index("--license") + 1] == LICENSE and words[words.index("--model") + 1] == MODEL


@pytest.mark.parametrize("layout", ["trl-sft", "trl-dpo", "llava", "finevision"])
def test_cards_of_exports_are_ours_alone(layout, made):
    path = made[0].parent / layout / file_name(FOLDER) / "README.md"
    card = DatasetCard.load(path)
    shown = table_rows(check_markdown(card.text), "Licence of the images")[1:]
    assert len(shown) == 50 and {cells[1] for cells in shown} <= set(map(visible, PAYLOADS))


@pytest.mark.parametrize(
    "texts",
    [random.Random(5).sample(PAYLOADS, 20), pytest.param(PAYLOADS, marks=pytest.mark.slow)],
    ids=["some", "all"],
)
def test_cards_of_models_are_ours_alone(texts, tmp_path):
    for text in texts:
        (tmp_path / (name := file_name(text))).mkdir(exist_ok=True)
        path = write_model_card(
            tmp_path / name, name=text, checkpoints=[text, "b.pth"], language_model=text, parameters={text: 1}
        )
        rows = table_rows(check_markdown(ModelCard.load(path).text), "Where the weights come from")
        assert ["last file", "b.pth"] in rows and ["language model", visible(text)] in rows
        path = write_trained_model_card(
            tmp_path / name,
            base=text,
            whole=bool(len(text) % 2),
            data=[(text, 1, 1)],
            settings={"seed": text},
            trained_parameters=1,
            steps=1,
            epochs=1.0,
            figures={},
            image_use=None,
        )
        card = ModelCard.load(path)
        check_markdown(card.text)
        code = next(token.content for token in tokens_of(card.text) if token.type == "fence")
        compile(code, "card", "exec")
        assert len(code.splitlines()) == len(code.split("\n")) - 1


def test_the_terminal_obeys_nobody(made):
    for output in made[1]:
        assert all(char.isprintable() or char == "\n" for char in output), repr(output)
    assert any("\\x1b" in output for output in made[1]), "escapes are shown, not swallowed"
