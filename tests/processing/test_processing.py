"""The processor: what it makes of pictures and texts, and what it says when they do not fit."""

import pytest
import torch
from PIL import Image
from transformers import InstructBlipProcessor

from vigc.processing import INSTRUCTION_TYPES, VigcProcessor, pair_text, parse_pair


@pytest.fixture(scope="module")
def images(parity_dir):
    return [Image.open(path) for path in sorted((parity_dir / "images").glob("*.png"))]


def test_vig_says_what_it_asks(processor, images):
    batch = processor(images=images, task="detail", return_tensors="pt")
    assert batch["mode"] == "vig" and batch["task"] == ["detail"] * 6 and "questions" not in batch
    asked = processor.decode_texts(batch["input_ids"])
    assert asked == ["Generate a question to describe the image content in detail and then answer it."] * 6
    assert (batch["input_ids"] == processor.tokenizer.convert_tokens_to_ids("<image>")).sum(1).tolist() == [8] * 6
    mixed = processor(images=images[:2], task=["detail", "complex"], return_tensors="pt")
    assert mixed["task"] == ["detail", "complex"]
    assert mixed["attention_mask"][:, -1].tolist() == [1, 1], "padded on the left, to be continued"


def test_vic_takes_questions_of_different_length(processor, images):
    questions = ["What can you see?", "What color is the triangle on the left?"]
    batch = processor(images=images[:2], text=questions, return_tensors="pt")
    assert batch["mode"] == "vic" and batch["questions"] == questions and "task" not in batch
    assert processor.decode_texts(batch["input_ids"]) == questions
    short = processor(images=images[:2], text=questions, task="okvqa", return_tensors="pt")
    assert processor.decode_texts(short["input_ids"])[0] == "Question: What can you see? Short answer:"
    assert short["questions"] == questions


def test_one_picture_and_one_text_need_no_lists(processor, images):
    batch = processor(images=images[0], text="What can you see?", return_tensors="pt")
    assert batch["pixel_values"].shape == (1, 3, 56, 56) and batch["input_ids"].shape[0] == 1


def test_training_pairs(processor, images):
    batch = processor(
        images=images[:2],
        text=["What can you see?", "Describe it."],
        target=["A cat.", pair_text("Why?", "Because.")],
        return_tensors="pt",
    )
    assert "mode" not in batch
    for ids, labels, target in zip(
        batch["input_ids"], batch["labels"], ["A cat.", "Question: Why? Answer: Because."], strict=True
    ):
        learnt = labels[labels != -100]
        assert torch.equal(ids[labels != -100], learnt)
        assert learnt[-1] == processor.tokenizer.eos_token_id
        assert processor.decode_texts(learnt[None])[0] == target
    vig = processor(images=images[:1], task="complex", target=pair_text("Why?", "Because."), return_tensors="pt")
    assert INSTRUCTION_TYPES["complex"].prompt in processor.decode_texts(vig["input_ids"])[0]


def test_lengths_are_configuration(processor, vigc_folder, images, tmp_path):
    short = VigcProcessor.from_pretrained(vigc_folder, max_qformer_length=6, max_text_length=5, max_target_length=4)
    text = "What color is the triangle on the left?"
    pair = short(images=images[:1], text=text, target="A very long answer indeed.", return_tensors="pt")
    assert pair["qformer_input_ids"].shape[1] == 6 and (pair["labels"] != -100).sum() == 3
    assert short(images=images[:1], text=text, return_tensors="pt")["input_ids"].shape[1] > 8 + 5, "prompts stay whole"
    short.save_pretrained(tmp_path)
    assert VigcProcessor.from_pretrained(tmp_path).max_text_length == 5


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({}, "Nothing to process"),
        ({"images": 2, "task": "poetry"}, "Unknown task 'poetry': use one of conversation, detail"),
        ({"images": 0, "task": "detail"}, "Nothing to process"),
        ({"task": ["detail", "complex"], "text": ["What?"]}, "1 texts but 2 of task="),
        ({"images": 1, "task": "detail", "text": "What?", "target": "A cat."}, "not both"),
        ({"images": 2, "text": ["What?"]}, "2 images but 1 of text="),
        ({"images": 2, "task": ["detail"]}, "2 images but 1 of task="),
        ({"images": 2, "text": ["What?", " "]}, r"Question 1 is empty \(' '\)"),
        ({"images": 2, "text": ["What?", None]}, "entry 1 is None"),
        ({"images": 1, "target": "A cat."}, "target= needs text="),
        ({"images": 2, "text": ["a", "b"], "target": ["c"]}, "2 images but 1 of target="),
        ({"images": 1, "text": "What?", "return_tensors": "np"}, "'np'"),
    ],
)
def test_what_does_not_fit_is_said(processor, images, kwargs, message):
    if "images" in kwargs:
        kwargs = {**kwargs, "images": images[: kwargs["images"]]}
    with pytest.raises(ValueError, match=message):
        processor(**{"return_tensors": "pt", **kwargs})


def test_pairs_are_read_by_the_released_rule(processor):
    good = parse_pair("Question: a? Question: What is it? Answer: A cat.")
    assert good.valid and (good.question, good.answer) == ("What is it?", "A cat.")
    assert "no 'Question:'" in parse_pair("A cat.").reason
    assert "no 'Answer:'" in parse_pair("Question: What?").reason
    assert "2 times" in parse_pair("Question: What? Answer: a Answer: b").reason
    assert parse_pair("Question: Answer: x").question == ""
    ids = processor.tokenizer([pair_text("What?", "A cat."), "nothing"], padding=True, return_tensors="pt")["input_ids"]
    first, second = processor.post_process(ids)
    assert (first.question, first.answer, second.valid) == ("What?", "A cat.", False)
    assert processor.post_process(["Question: a? Answer: b."])[0].answer == "b."


def test_a_place_mark_in_a_text_is_no_picture(processor, images):
    """LLaVA's questions hold `<image>`; the picture has its place already."""
    plain = processor(images=images[:2], text=["What is it?", "Why?"], return_tensors="pt")
    marked = processor(images=images[:2], text=["<image>\nWhat is it?", "Why?\n<image>"], return_tensors="pt")
    for name in ("input_ids", "qformer_input_ids"):
        assert torch.equal(marked[name], plain[name])
    pair = processor(images=images[:1], text="<image>\nWhy?", target="An <image> of it.", return_tensors="pt")
    assert (pair["input_ids"] == processor.tokenizer.convert_tokens_to_ids("<image>")).sum() == 8


def test_types_are_data():
    for kind in INSTRUCTION_TYPES.values():
        assert len(set(kind.paraphrases)) >= 10 and kind.prompt not in kind.paraphrases
        assert all("{question}" in template for template in kind.answer_templates)
    assert INSTRUCTION_TYPES["okvqa"].prompt == INSTRUCTION_TYPES["aokvqa"].prompt


def test_chat_becomes_the_question(processor, images):
    chat = [{"role": "user", "content": [{"type": "image", "image": images[0]}, {"type": "text", "text": "What?"}]}]
    kwargs = {"tokenize": True, "return_dict": True, "return_tensors": "pt"}
    batch = processor.apply_chat_template(chat, add_generation_prompt=True, **kwargs)
    plain = processor(images=images[0], text="What?", return_tensors="pt")
    assert batch["mode"] == "vic" and batch["questions"] == ["What?"]
    for name in ("input_ids", "qformer_input_ids", "pixel_values"):
        assert torch.equal(batch[name], plain[name])

    taught = processor.apply_chat_template([*chat, {"role": "assistant", "content": "A cat."}], **kwargs)
    assert torch.equal(taught["qformer_input_ids"], plain["qformer_input_ids"]), (
        "the answer is not shown to the Q-Former"
    )
    pair = processor(images=images[0], text="What?", target="A cat.", return_tensors="pt")
    assert torch.equal(taught["input_ids"], pair["input_ids"])


def test_a_stock_processor_becomes_ours(processor, images, tmp_path):
    stock = InstructBlipProcessor(processor.image_processor, processor.tokenizer, processor.qformer_tokenizer, 8)
    stock.save_pretrained(tmp_path)
    ours = VigcProcessor.from_pretrained(tmp_path)(images=images[0], text="What?", return_tensors="pt")
    assert torch.equal(ours["input_ids"], processor(images=images[0], text="What?", return_tensors="pt")["input_ids"])
