"""What is generated and exported, in TRL with a stock model: it trains, and the pictures reach the loss."""

import copy

import pytest
import torch
from datasets import load_dataset
from PIL import Image
from scripted import ScriptedModel, ScriptedProcessor
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from vigc.exports.export import export_dataset
from vigc.generation import generate_dataset

trl = pytest.importorskip("trl", reason="needs vigc[train]")
peft = pytest.importorskip("peft", reason="needs vigc[train]")

COLOURS = ["red", "green", "blue", "white"]
TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: "
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>\n{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}</s>"
    "{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)


@pytest.fixture(scope="module")
def processor():
    """Bytes as tokens, and pictures of four patches."""
    specials = ["<pad>", "<s>", "</s>", "<image>"]
    symbols = [*specials, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE(vocab={symbol: index for index, symbol in enumerate(symbols)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        extra_special_tokens={"image_token": "<image>"},
    )
    pictures = CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    return LlavaProcessor(
        pictures,
        fast,
        patch_size=8,
        vision_feature_select_strategy="default",
        image_token="<image>",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    )


@pytest.fixture
def model(processor):
    torch.manual_seed(0)
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=16,
            patch_size=8,
            projection_dim=16,
        ),
        text_config=LlamaConfig(
            vocab_size=len(processor.tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            pad_token_id=0,
            # Large, so that the little that one picture differs from another by is more than rounding.
            initializer_range=0.2,
        ),
        image_token_index=processor.tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,
    )
    return LlavaForConditionalGeneration(config)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The dataset folder that the job writes about four pictures of a colour each, all of them corrected."""
    place = tmp_path_factory.mktemp("generated")
    (place / "pictures").mkdir()
    for colour in COLOURS:
        Image.new("RGB", (24, 20), colour).save(place / "pictures" / f"{colour}.png")
    job = {"model": ScriptedModel(malformed=0), "processor": ScriptedProcessor(), "types": ["detail"]}
    return generate_dataset(place / "pictures", place / "colours", **job).output


def settings(tmp_path):
    return {
        "output_dir": str(tmp_path / "run"),
        "max_steps": 1,
        "per_device_train_batch_size": 4,
        "report_to": "none",
        "use_cpu": True,
        "learning_rate": 0.05,
        "max_length": None,
        "save_strategy": "no",
        "disable_tqdm": True,
    }


def losses(trainer, rows):
    """The loss of the rows, of the same rows with each other's pictures, and again of the rows."""
    column = "images" if "images" in rows.column_names else "image"
    whole = list(rows)
    shuffled = [{**row, column: other[column]} for row, other in zip(whole, whole[1:] + whole[:1], strict=True)]
    trainer.model.eval()
    with torch.no_grad():  # copies, because TRL's collators write into what they are given
        return [
            float(trainer.compute_loss(trainer.model, trainer.data_collator(copy.deepcopy(given))).detach())
            for given in (whole, shuffled, whole)
        ]


def trains(trainer, rows, moved):
    """One step that moves weights of that name; then pictures decide the loss."""
    before = {name: value.detach().clone() for name, value in trainer.model.named_parameters() if value.requires_grad}
    assert trainer.train().training_loss > 0
    after = dict(trainer.model.named_parameters())
    changed = {name for name, value in before.items() if not torch.equal(after[name], value)}
    assert [name for name in changed if moved in name], "nothing of the kind was trained"
    own, others, again = losses(trainer, rows)
    assert own == again
    assert abs(own - others) > 1e-4, f"the loss is {own} with the rows' own pictures, {others} with others'"


@pytest.mark.parametrize("exported", [False, True], ids=["as generated", "trl-sft"])
def test_sft_with_a_stock_model(exported, folder, model, processor, tmp_path):
    source = folder
    if exported:
        source = export_dataset(folder, tmp_path / "out", format="trl-sft").output
    rows = load_dataset(str(source), split="train", cache_dir=str(tmp_path / "cache"))
    args = trl.SFTConfig(**settings(tmp_path))
    trainer = trl.SFTTrainer(model, args, train_dataset=rows, processing_class=processor)
    batch = next(iter(trainer.get_train_dataloader()))
    assert batch["pixel_values"].shape == (4, 3, 16, 16)
    text = processor.tokenizer.decode(batch["input_ids"][0])
    assert text.count("<image>") == 4 and "What is " in text and "It is " in text
    trains(trainer, rows, "vision_tower")


def test_dpo_with_a_stock_model_and_lora(folder, model, processor, tmp_path):
    done = export_dataset(folder, tmp_path / "out", format="trl-dpo")
    assert done.records == 4
    rows = load_dataset(str(done.output), split="train", cache_dir=str(tmp_path / "cache"))
    lora = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=True)
    trainer = trl.DPOTrainer(
        model,
        args=trl.DPOConfig(**settings(tmp_path)),
        train_dataset=rows,
        processing_class=processor,
        peft_config=lora,
    )
    batch = next(iter(trainer.get_train_dataloader()))
    texts = [processor.tokenizer.decode(ids) for ids in batch["input_ids"]]
    for column in ("answer", "draft"):
        told = load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache"))[column]
        assert sum(any(one in text for one in told) for text in texts) == 4, f"the {column} of each"
    trains(trainer, rows, "lora_B")
