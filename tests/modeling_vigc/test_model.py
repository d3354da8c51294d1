"""The forward pass and the checkpoint: what InstructBLIP does, and where VIGC differs."""

import pytest
import torch
from PIL import Image
from torch.testing import assert_close
from transformers import AutoModel, AutoModelForImageTextToText, InstructBlipConfig, Trainer, TrainingArguments
from transformers import InstructBlipForConditionalGeneration as StockModel

from vigc.modeling_vigc import VigcConfig, VigcForConditionalGeneration


@pytest.fixture(scope="module")
def batch(processor, parity_dir):
    images = [Image.open(path) for path in sorted((parity_dir / "images").glob("*.png"))][:2]
    return processor(
        images=images,
        text=["What can you see?", "What is on the left?"],
        target=["A cat.", "a dog"],
        return_tensors="pt",
    )


@pytest.fixture
def stock_folder(model, tmp_path):
    """A stock InstructBLIP-Vicuna checkpoint, as on the Hub: no word of VIGC in it."""
    config = InstructBlipConfig(
        vision_config=model.config.vision_config.to_dict(),
        qformer_config=model.config.qformer_config.to_dict(),
        text_config=model.config.text_config.to_dict(),
        num_query_tokens=model.config.num_query_tokens,
        image_token_index=model.config.image_token_index,
    )
    stock = StockModel(config)
    stock.load_state_dict(model.state_dict())
    stock.save_pretrained(tmp_path)
    return tmp_path


@torch.no_grad()
def test_precomputed_embeds_equal_pixels(model, batch):
    embeds = model.get_image_embeds(batch["pixel_values"])
    text = {name: value for name, value in batch.items() if name != "pixel_values"}
    assert_close(model(image_embeds=embeds, **text).loss, model(**batch).loss)


def test_pictures_come_once(model, batch):
    text = {name: value for name, value in batch.items() if name != "pixel_values"}
    with pytest.raises(ValueError, match=r"pixel_values or as image_embeds"):
        model(**text)
    with pytest.raises(ValueError, match="not both"):
        model(image_embeds=torch.zeros(2, 17, 64), **batch)


def test_a_bare_processor_output_can_be_passed_on(model, processor, parity_dir):
    image = Image.open(parity_dir / "images" / "img_0.png")
    with torch.no_grad():
        outputs = model(**processor(images=image, text="What?", return_tensors="pt"))
    assert outputs.logits.shape[-1] == model.config.text_config.vocab_size and outputs.loss is None


def test_the_image_row_has_no_mass_and_no_gradient(vigc_folder, batch):
    model = VigcForConditionalGeneration.from_pretrained(vigc_folder)
    with torch.no_grad():
        model.language_model.lm_head.weight[model.config.image_token_index] = 1.0
    outputs = model(**batch)
    outputs.loss.backward()
    assert outputs.logits.softmax(-1)[..., model.config.image_token_index].max() == 0
    assert model.language_model.lm_head.weight.grad[model.config.image_token_index].abs().max() == 0


def test_a_text_without_places_for_the_picture_is_refused(model, batch, processor):
    text = processor(text=["What can you see?"] * 2, return_tensors="pt")
    for call in (model, model.base_model):
        with pytest.raises(ValueError, match=r"2 images, but 0 of 2 rows of input_ids have '<image>' ids"):
            call(pixel_values=batch["pixel_values"], **text)


def test_the_trainer_can_predict(vigc_folder, batch, tmp_path):
    rows = [{name: value[row] for name, value in batch.items()} for row in range(2)]
    args = TrainingArguments(str(tmp_path), report_to="none", use_cpu=True, disable_tqdm=True)
    model = VigcForConditionalGeneration.from_pretrained(vigc_folder)
    predicted = Trainer(model, args).predict(rows)
    assert predicted.predictions.shape[0] == 2 and predicted.metrics["test_loss"] > 0


def test_loss_is_the_mean_over_all_labels_of_the_batch(model, batch):
    with torch.no_grad():
        whole = model(**batch)
        rows = [
            model(
                **{name: value[row : row + 1] for name, value in batch.items()}, num_items_in_batch=torch.tensor(1.0)
            ).loss
            for row in range(2)
        ]
    assert_close(whole.loss * (batch["labels"] != -100).sum(), sum(rows))


def test_freeze(vigc_folder):
    model = VigcForConditionalGeneration.from_pretrained(vigc_folder)
    model.freeze("paper")
    trained = {name.split(".")[0] for name, weight in model.named_parameters() if weight.requires_grad}
    assert trained == {"qformer", "query_tokens", "language_projection"}
    model.freeze("paper", train_ln_vision=True)
    assert model.vision_model.post_layernorm.weight.requires_grad
    model.freeze("none")
    assert all(weight.requires_grad for weight in model.parameters())
    with pytest.raises(ValueError, match="'all' is not known"):
        model.freeze("all")


def test_auto_classes_know_us_without_remote_code(vigc_folder):
    for auto in (AutoModel, AutoModelForImageTextToText):
        assert type(auto.from_pretrained(vigc_folder)) is VigcForConditionalGeneration


def test_a_stock_checkpoint_loads_and_decodes_as_stock(stock_folder, processor, batch, parity_dir):
    stock = StockModel.from_pretrained(stock_folder).eval()
    ours = VigcForConditionalGeneration.from_pretrained(stock_folder).eval()
    assert ours.vision_model.post_layernorm.eps == 1e-6
    image = Image.open(parity_dir / "images" / "img_1.png")
    inputs = processor(images=image, text="What can you see?", return_tensors="pt")
    tensors = {name: value for name, value in inputs.items() if torch.is_tensor(value)}
    for decoding in (
        {},
        {"num_beams": 3, "repetition_penalty": 1.2},
        {"do_sample": True, "temperature": 2.0, "top_p": 0.9},
    ):
        torch.manual_seed(0)
        theirs = stock.generate(**tensors, max_new_tokens=12, **decoding)
        torch.manual_seed(0)
        assert torch.equal(ours.generate(**inputs, correct=False, max_new_tokens=12, **decoding), theirs)
    corrected = ours.generate(**inputs, processor=processor, max_new_tokens=60, return_dict_in_generate=True)
    assert corrected.answers[0]
    ours.config.image_token_index = None  # as older checkpoints leave it
    again = ours.generate(**inputs, processor=processor, max_new_tokens=60, return_dict_in_generate=True)
    assert again.answers == corrected.answers
    with pytest.raises(ValueError, match=r"config.image_token_index is not set"):
        ours(**inputs)


def test_the_eps_of_the_vit_output_is_configuration(model):
    assert model.vision_model.post_layernorm.eps == 1e-5
    assert VigcConfig.from_dict(model.config.to_dict()).vision_output_layer_norm_eps == 1e-5
    assert VigcConfig().vision_output_layer_norm_eps == 1e-6
