"""Our own class in TRL: one step of SFT and of DPO, with the pictures really used."""

import copy

import pytest
import torch
from datasets import Dataset, Features, Image, List, Value
from PIL import Image as Pictures

from vigc.modeling_vigc import VigcForConditionalGeneration

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


def check_one_step(trainer, model):
    before = copy.deepcopy(model.state_dict())
    trainer.train()
    assert torch.isfinite(torch.tensor(trainer.state.log_history[-1]["train_loss"]))
    moved = {name.split(".")[0] for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
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
