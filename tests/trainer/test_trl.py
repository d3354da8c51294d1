"""Our own class in TRL: one step of SFT and of DPO, with the pictures really used."""

import copy

import pytest
import torch
from datasets import Dataset, Features, Image, List, Value
from PIL import Image as Pictures

from vigc.modeling_vigc import VigcForConditionalGeneration

peft = pytest.importorskip("peft", reason="needs vigc[train]")
trl = pytest.importorskip("trl", reason="needs vigc[train]")

ASKED = [{"role": "user", "content": "What can you see?"}]
TURN = [{"role": Value("string"), "content": Value("string")}]


def said(text):
    return [{"role": "assistant", "content": text}]


@pytest.fixture
def model(vigc_folder):
    return VigcForConditionalGeneration.from_pretrained(vigc_folder)


@pytest.fixture
def images(parity_dir):
    return [[Pictures.open(path)] for path in sorted((parity_dir / "images").glob("*.png"))[:4]]


def settings(tmp_path):
    return {
        "output_dir": str(tmp_path),
        "max_steps": 1,
        "per_device_train_batch_size": 2,
        "report_to": "none",
        "use_cpu": True,
        "learning_rate": 1e-3,
        "max_length": None,
        "disable_tqdm": True,
    }


def dataset(images, **columns):
    features = Features({"images": List(Image()), **{name: TURN for name in columns}})
    return Dataset.from_dict({"images": images, **{name: [value] * 4 for name, value in columns.items()}}, features)


def moved_by(trainer, model):
    before = copy.deepcopy(model.state_dict())
    trainer.train()
    assert torch.isfinite(torch.tensor(trainer.state.log_history[-1]["train_loss"]))
    return {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}


def check_one_step(trainer, model):
    moved = {name.split(".")[0] for name in moved_by(trainer, model)}
    assert moved >= {"qformer", "language_projection", "query_tokens", "language_model"}


@pytest.mark.parametrize(
    "columns", [{"messages": ASKED + said("A cat.")}, {"prompt": ASKED, "completion": said("A cat.")}]
)
def test_sft(model, processor, images, tmp_path, columns):
    args = trl.SFTConfig(**settings(tmp_path))
    trainer = trl.SFTTrainer(model, args, train_dataset=dataset(images, **columns), processing_class=processor)
    batch = next(iter(trainer.get_train_dataloader()))
    pair = processor(images=images[0], text="What can you see?", target="A cat.", return_tensors="pt")
    assert torch.equal(batch["input_ids"][0], pair["input_ids"][0]), "the ids of VIGC's own training"
    assert torch.equal(batch["qformer_input_ids"][0], pair["qformer_input_ids"][0]), "the answer stays hidden"
    check_one_step(trainer, model)


def test_dpo(model, processor, images, tmp_path, vigc_folder):
    rows = dataset(images, prompt=ASKED, chosen=said("A green circle."), rejected=said("A red dog."))
    trainer = trl.DPOTrainer(
        model,
        VigcForConditionalGeneration.from_pretrained(vigc_folder),
        args=trl.DPOConfig(**settings(tmp_path)),
        train_dataset=rows,
        processing_class=processor,
    )
    check_one_step(trainer, model)


def test_pictures_reach_the_loss(model, processor, images):
    """TRL takes hidden states from `base_model`; they follow the picture, and agree with the model's own forward."""
    flat = [row[0] for row in images]
    batch = processor(images=flat, text=["What can you see?"] * 4, return_tensors="pt")
    with torch.no_grad():
        hidden = model.base_model(**batch).last_hidden_state
        other = model.base_model(**{**batch, "pixel_values": batch["pixel_values"].flip(0)}).last_hidden_state
        logits = model(**batch).logits[..., : model.config.image_token_index]
    assert not torch.allclose(hidden, other)
    head = model.get_output_embeddings()(hidden)[..., : model.config.image_token_index]
    torch.testing.assert_close(head, logits)


# PEFT, whose wrappers pass what they were not given as None

TASK_TYPES = ["CAUSAL_LM", "SEQ_2_SEQ_LM", "FEATURE_EXTRACTION"]


def lora(task_type):
    return peft.LoraConfig(task_type=task_type, r=2, target_modules=["q_proj"], init_lora_weights=False)


@pytest.mark.parametrize("task_type", TASK_TYPES)
def test_a_peft_model_is_called_as_ours_is(task_type, model, processor, images):
    pair = processor(images=images[0], text="What can you see?", target="A cat.", return_tensors="pt")
    wrapped = peft.get_peft_model(model, lora(task_type)).eval()
    outputs, core = wrapped(**pair), wrapped.get_base_model()
    torch.testing.assert_close(outputs.loss, core(**pair).loss)
    outputs.loss.backward()
    assert all(weight.grad is not None for name, weight in wrapped.named_parameters() if ".lora_" in name)
    del pair["labels"]
    hidden = core.base_model(**pair, inputs_embeds=None, return_dict=None, output_attentions=None)
    torch.testing.assert_close(
        core.get_output_embeddings()(hidden.last_hidden_state)[..., :-1], outputs.logits[..., :-1]
    )
    # A default of the model, and what a caller says.
    assert isinstance(wrapped(**pair, return_dict=False), tuple) and isinstance(core(**pair, return_dict=False), tuple)
    core.config.return_dict = False
    assert isinstance(wrapped(**pair), tuple) and isinstance(core.base_model(**pair), tuple)
    assert wrapped(**pair, return_dict=True).logits is not None


def test_embeddings_of_one_s_own_are_what_is_read(model, processor, images):
    pair = processor(images=images[0], text="What can you see?", target="A cat.", return_tensors="pt")
    embeds = model.get_input_embeddings()(pair["input_ids"])
    expected, given = model(**pair).loss, {**pair, "inputs_embeds": embeds}
    torch.testing.assert_close(model(**given).loss, expected)
    torch.testing.assert_close(model(**given, skip_logits=True, use_cache=None).loss, expected)
    given["inputs_embeds"] = embeds.flip(1)
    assert model(**given).loss != expected
    torch.testing.assert_close(model(**given, skip_logits=True).loss, model(**given).loss)


@pytest.mark.parametrize("task_type", TASK_TYPES[:2])
@pytest.mark.parametrize("method", ["sft", "dpo"])
def test_trl_trains_lora(method, task_type, model, processor, images, tmp_path):
    columns = {"messages": ASKED + said("A cat.")}
    if method == "dpo":
        columns = {"prompt": ASKED, "chosen": said("A cat."), "rejected": said("A dog.")}
    kind, config = {"sft": (trl.SFTTrainer, trl.SFTConfig), "dpo": (trl.DPOTrainer, trl.DPOConfig)}[method]
    trainer = kind(
        model,
        args=config(**settings(tmp_path), save_strategy="no"),
        train_dataset=dataset(images, **columns),
        processing_class=processor,
        peft_config=lora(task_type),
    )
    moved = moved_by(trainer, trainer.model)
    assert moved and all(".lora_" in name for name in moved)


# Rows without a picture


def test_a_row_without_a_picture_is_read_as_the_language_model_reads_it(model, processor, images):
    texts, targets = ["What can you see?", "What is two and two?"], ["A cat.", "Four."]
    both = processor(images=[images[0], []], text=texts, target=targets, return_tensors="pt")
    assert both["pixel_values"].shape[0] == 1 and len(both["qformer_input_ids"]) == 2
    alone = processor(text=texts[1:], target=targets[1:], return_tensors="pt")
    shown = processor(images=images[0], text=texts[0], target=targets[0], return_tensors="pt")
    none = [
        processor(images=empty, text=texts[1:], target=targets[1:], return_tensors="pt") for empty in ([[]], [None])
    ]
    assert all(torch.equal(one["input_ids"], alone["input_ids"]) and "pixel_values" not in one for one in none)
    with torch.no_grad():
        logits = model(**both).logits
        first, second = model(**shown).logits, model(**alone).logits
        plain = model.language_model(alone["input_ids"]).logits
        losses = [one(**both).loss for one in (model, lambda **batch: model(**batch, skip_logits=True))]
    torch.testing.assert_close(logits[0, : first.shape[1]], first[0])
    torch.testing.assert_close(logits[1, : second.shape[1]], second[0])
    torch.testing.assert_close(second[..., :-1], plain[..., :-1])
    torch.testing.assert_close(*losses)
    # A prompt as a chat template writes it, beside pictures and alone: the same ids.
    chat = [f"{processor.tokenizer.bos_token}{text}" for text in texts]
    mixed = processor(images=[images[0], []], text=chat, add_special_tokens=False, return_tensors=None)["input_ids"]
    only = processor(text=chat[1:], add_special_tokens=False, return_tensors=None)["input_ids"]
    assert mixed[1] == only[0] == processor(text=texts[1:], return_tensors=None)["input_ids"][0]


def test_pictures_and_places_agree(model, processor, images):
    both = processor(images=[images[0], None], text=["What?", "Why?"], target=["A.", "B."], return_tensors="pt")
    twice = {**both, "pixel_values": both["pixel_values"].repeat(2, 1, 1, 1)}
    with pytest.raises(ValueError, match=r"2 images, but 1 of 2 rows of input_ids have '<image>' ids"):
        model(**twice)
    del both["pixel_values"]
    with pytest.raises(ValueError, match="Give the images either as pixel_values or as image_embeds"):
        model(**both)


@pytest.mark.parametrize("rows", [[0, None], [None, 1], [None, None]], ids=["first", "second", "none"])
@pytest.mark.parametrize("method", ["messages", "completion", "dpo"])
def test_trl_trains_on_rows_without_pictures(method, rows, model, processor, images, tmp_path):
    columns = {
        "messages": {"messages": ASKED + said("A cat.")},
        "completion": {"prompt": ASKED, "completion": said("A cat.")},
        "dpo": {"prompt": ASKED, "chosen": said("A cat."), "rejected": said("A dog.")},
    }[method]
    model.freeze("paper")  # nothing of a text alone but the Q-Former would be trained
    pictures = [[] if row is None else images[row] for row in rows * 2]
    args = {**settings(tmp_path), "save_strategy": "no"}
    made = {"args": None, "train_dataset": dataset(pictures, **columns), "processing_class": processor}
    if method == "dpo":
        trainer = trl.DPOTrainer(model, copy.deepcopy(model), **made | {"args": trl.DPOConfig(**args)})
    else:
        trainer = trl.SFTTrainer(model, **made | {"args": trl.SFTConfig(**args)})
    batch = next(iter(trainer.get_train_dataloader()))
    count = sum(row is not None for row in rows) * (2 if method == "dpo" else 1)
    assert len(batch.get("pixel_values", ())) == count
    moved = {name.split(".")[0] for name in moved_by(trainer, model)}
    assert moved == ({"qformer", "language_projection", "query_tokens"} if count else moved & {"qformer"})
