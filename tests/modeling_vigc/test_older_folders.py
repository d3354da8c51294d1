"""InstructBLIP as it was saved before November 2024: no count of queries, and nothing that knows `<image>`."""

import json

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file
from training import QUICK
from transformers import InstructBlipConfig, InstructBlipForConditionalGeneration, InstructBlipProcessor
from typer.testing import CliRunner

from vigc.cli.root import app
from vigc.evaluation import Question, load_answerer
from vigc.modeling_vigc import VigcForConditionalGeneration
from vigc.processing import VigcProcessor
from vigc.trainer.train import dry_run, train

WORDS = ("embed_tokens.weight", "lm_head.weight")


def saved(folder, kind, model, processor):
    """The model as a stock InstructBLIP, and its processor without the number, of our class or of the stock one."""
    fields = {name: value for name, value in model.config.to_dict().items() if name not in ("model_type", "auto_map")}
    stock = InstructBlipForConditionalGeneration(InstructBlipConfig(**fields))
    stock.load_state_dict(model.state_dict())
    stock.save_pretrained(folder)
    kind(processor.image_processor, processor.tokenizer, processor.qformer_tokenizer).save_pretrained(folder)
    return folder


def changed(path, change):
    values = json.loads(path.read_text(encoding="utf-8"))
    change(values)
    path.write_text(json.dumps(values), encoding="utf-8")


def before_2024(folder):
    """Takes `<image>` out of configuration, tokenizer and embeddings, where it is the last."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert config["image_token_index"] == config["text_config"]["vocab_size"] - 1

    def older_config(values):
        del values["image_token_index"]
        values["text_config"]["vocab_size"] -= 1

    changed(folder / "config.json", older_config)
    changed(folder / "tokenizer.json", lambda values: values["added_tokens"].pop())
    changed(folder / "tokenizer_config.json", lambda values: values.pop("additional_special_tokens", None))
    changed(folder / "tokenizer_config.json", lambda values: values.pop("extra_special_tokens", None))
    changed(folder / "processor_config.json", lambda values: values.pop("num_query_tokens", None))
    weights = load_file(folder / "model.safetensors")
    shorter = {name: weight[:-1].contiguous() if name.endswith(WORDS) else weight for name, weight in weights.items()}
    save_file(shorter, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.fixture(scope="module")
def older(model, processor, tmp_path_factory):
    folder = saved(tmp_path_factory.mktemp("older") / "instructblip", InstructBlipProcessor, model, processor)
    before_2024(folder)
    return folder


@pytest.fixture(scope="module")
def image(parity_dir):
    return Image.open(parity_dir / "images" / "img_0.png")


@pytest.mark.parametrize("kind", [InstructBlipProcessor, VigcProcessor])
def test_the_number_of_queries_is_the_models(kind, model, processor, tmp_path):
    folder = saved(tmp_path, kind, model, processor)
    assert json.loads((folder / "processor_config.json").read_text(encoding="utf-8"))["num_query_tokens"] is None
    loaded = VigcProcessor.from_pretrained(folder)
    assert loaded.num_query_tokens == model.config.num_query_tokens
    (folder / "config.json").unlink()
    assert VigcProcessor.from_pretrained(folder).num_query_tokens is None


def test_an_older_folder_writes_the_same(older, model, processor, image):
    ours, its = VigcForConditionalGeneration.from_pretrained(older).eval(), VigcProcessor.from_pretrained(older)
    assert ours.config.image_token_index == its.tokenizer.convert_tokens_to_ids("<image>")
    for given in ({"task": "detail"}, {"text": "What can you see?"}):
        inputs = its(images=image, **given, return_tensors="pt")
        expected = processor(images=image, **given, return_tensors="pt")
        assert torch.equal(inputs["input_ids"], expected["input_ids"])
        written = ours.generate(**inputs, processor=its, max_new_tokens=24)
        assert torch.equal(written, model.generate(**expected, processor=processor, max_new_tokens=24))
        plain = ours.generate(**inputs, correct=False, max_new_tokens=24, repetition_penalty=1.5)
        assert torch.equal(plain, model.generate(**expected, correct=False, max_new_tokens=24, repetition_penalty=1.5))
    pair = its(images=image, text="What can you see?", target="Two shapes.", return_tensors="pt")
    assert torch.allclose(ours(**pair).loss, model(**pair).loss, rtol=1e-5)


def test_an_older_folder_is_saved_as_todays(older, tmp_path):
    VigcForConditionalGeneration.from_pretrained(older).save_pretrained(tmp_path)
    VigcProcessor.from_pretrained(older).save_pretrained(tmp_path)
    again = VigcForConditionalGeneration.from_pretrained(tmp_path)
    assert again.config.image_token_index == again.get_input_embeddings().num_embeddings - 1
    assert json.loads((tmp_path / "processor_config.json").read_text(encoding="utf-8"))["num_query_tokens"]


def test_commands_take_an_older_folder(older, image, tmp_path):
    (tmp_path / "images").mkdir()
    image.save(tmp_path / "images" / "0.png")
    options = ["--model", older, "--output", tmp_path / "out", "--types", "detail", "--max-new-tokens", 16]
    done = CliRunner().invoke(app, [str(word) for word in ["generate", tmp_path / "images", *options]])
    assert done.exit_code in (0, 3), done.output
    answerer = load_answerer(older, settings={"max_new_tokens": 8})
    question = Question("0", "0", None, "q", "What can you see?", "What can you see?", None, {})
    assert answerer.answer([image], [question])[0]


def test_a_run_starts_from_an_older_folder(older, image, tmp_path):
    chat = [{"from": "human", "value": "<image>\nWhat can you see?"}, {"from": "gpt", "value": "Two shapes."}]
    image.save(tmp_path / "0.png")
    entries = [{"id": "0", "image": "0.png", "conversations": chat}]
    (tmp_path / "data.json").write_text(json.dumps(entries), encoding="utf-8")
    data = {"layout": "llava", "files": [str(tmp_path / "data.json")], "images": str(tmp_path), "type": "detail"}
    values = {"model": str(older), "output_dir": str(tmp_path / "run"), "data": [data], **QUICK}
    values |= {"max_steps": 1, "eval_strategy": "no", "load_best_model_at_end": False}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    assert dry_run(tmp_path / "recipe.yaml").problems == []
    assert train(tmp_path / "recipe.yaml").state.global_step == 1
