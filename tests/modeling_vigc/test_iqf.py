"""`generate`: VIG, then VIC step by step, as users call it."""

import random

import pytest
import torch
from PIL import Image
from transformers import GenerationConfig

from vigc.modeling_vigc import IqfSettings, VigcForConditionalGeneration

TYPES = ("conversation", "detail", "complex")


@pytest.fixture(scope="module")
def images(parity_dir):
    return [Image.open(path) for path in sorted((parity_dir / "images").glob("*.png"))]


def run(model, processor, images, task="detail", **kwargs):
    inputs = processor(images=images, task=task, return_tensors="pt")
    return model.generate(**inputs, processor=processor, return_dict_in_generate=True, **kwargs)


class Counter:
    """Counts pictures through the ViT and tokens that the language model writes."""

    def __init__(self, model):
        self.pictures = self.decoded = 0
        self.hooks = [
            model.vision_model.register_forward_hook(self.vit),
            model.language_model.register_forward_pre_hook(self.language, with_kwargs=True),
        ]

    def vit(self, module, args, output):
        self.pictures += output[0].shape[0]

    def language(self, module, args, kwargs):
        # A prefill yields a row's first token, a decoding pass one more.
        self.decoded += (kwargs["input_ids"] if kwargs.get("inputs_embeds") is None else kwargs["inputs_embeds"]).shape[
            0
        ]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for hook in self.hooks:
            hook.remove()


def test_what_comes_out(model, processor, images):
    out = run(model, processor, images)
    assert out.valid == [True] * 6 and out.reasons == [None] * 6
    for row in range(6):
        step = out.trace[row][0]
        assert set(step) == {"sentence", "changed", "logprob", "stop"}
        assert step["stop"] == "unit" and step["changed"] is False and step["logprob"] < 0
        assert out.answers[row].startswith(out.trace[row][0]["sentence"])
        assert out.drafts[row].startswith("The image shows two shapes")
        assert out.answer_logprobs[row] < 0 and out.draft_logprobs[row] < 0
    texts = processor.decode_texts(out.sequences)
    assert all(f"Question: {out.questions[row]} Answer: {out.answers[row]}" in texts[row] for row in range(6))
    pairs = processor.post_process(out.sequences)
    assert [pair.answer for pair in pairs] == out.answers
    assert torch.equal(run(model, processor, images).sequences, out.sequences)


def test_given_questions_are_answered_alone(model, processor, images):
    written = run(model, processor, images)
    inputs = processor(images=images, text=written.questions, return_tensors="pt")
    given = model.generate(**inputs, processor=processor, return_dict_in_generate=True)
    assert given.answers == written.answers and given.drafts == [None] * 6
    assert all(step["changed"] is None for row in given.trace for step in row)
    tokens = model.generate(**inputs, processor=processor)
    prompt = inputs["input_ids"].shape[1]
    assert torch.equal(tokens[:, :prompt], inputs["input_ids"])
    assert processor.decode_texts(tokens[:, prompt:]) == given.answers


def test_plain_decoding_is_one_pass(model, processor, images):
    inputs = processor(images=images[:2], task="detail", return_tensors="pt")
    plain = model.generate(**inputs, correct=False)
    assert torch.equal(plain, model.generate(**inputs)), "no processor, no correction"
    drafts = [pair.answer for pair in processor.post_process(plain)]
    assert drafts == run(model, processor, images[:2]).drafts


def test_steps(model, processor, images):
    once = run(model, processor, images, iqf_steps=0)
    assert [len(trace) for trace in once.trace] == [1] * 6
    two = run(model, processor, images, iqf_steps=2)
    assert [len(trace) for trace in two.trace] == [2] * 6
    assert all(trace[-1]["stop"] == "eos" for trace in two.trace), "the last call keeps its tail"
    dropped = run(model, processor, images, iqf_steps=2, iqf_keep_tail=False)
    assert all(
        short != long and long.startswith(short) for short, long in zip(dropped.answers, two.answers, strict=True)
    )
    endless = run(model, processor, images, iqf_steps=-1)
    assert all(len(trace) > 4 and trace[-1]["sentence"] == "" for trace in endless.trace)
    assert all(trace[-1]["stop"] == "eos" for trace in endless.trace)


def test_endless_steps_end(model, processor, images):
    out = run(model, processor, images[:1], iqf_steps=-1, max_new_tokens=24)
    assert sum(len(processor.tokenizer(step["sentence"])["input_ids"]) for step in out.trace[0]) < 60


def test_paragraphs_and_full_record(model, processor, images):
    out = run(model, processor, images, iqf_unit="paragraph", iqf_full_record=True)
    assert [step["sentence"].count("\n\n") for step in out.trace[0]][:3] == [0, 0, 0]
    for trace, full in zip(out.trace, out.answers_given_question, strict=True):
        assert full.startswith(trace[0]["sentence"]) and len(full) > len(trace[0]["sentence"])


def test_presets(model, processor, images):
    original = run(model, processor, images[:2], iqf_preset="original")
    assert original.whole_texts[0].startswith("Generate a question to describe")
    assert original.answers_given_question[0]
    with_config = run(model, processor, images[:2], generation_config=GenerationConfig(iqf_preset="original"))
    assert with_config.answers == original.answers
    config = GenerationConfig(iqf_preset="original", iqf_steps=2)
    assert IqfSettings.resolve(config, {}).iqf_split == "original" and IqfSettings.resolve(config, {}).iqf_steps == 2
    assert IqfSettings.resolve(config, {"iqf_preset": "vigc"}) == IqfSettings()
    assert IqfSettings.resolve(config, {"iqf_split": "safe"}).iqf_split == "safe"


def test_settings_are_saved_with_the_model(vigc_folder, processor, images, tmp_path):
    model = VigcForConditionalGeneration.from_pretrained(vigc_folder)
    assert model.generation_config.iqf_preset == "vigc"
    model.generation_config.iqf_steps = 1
    model.save_pretrained(tmp_path)
    out = run(VigcForConditionalGeneration.from_pretrained(tmp_path), processor, images[:2])
    assert [len(trace) for trace in out.trace] == [1, 1]
    loaded = VigcForConditionalGeneration.from_pretrained(tmp_path)
    beams = run(loaded, processor, images[:2], generation_config=GenerationConfig(num_beams=2))
    assert [len(trace) for trace in beams.trace] == [1, 1], "what a call's own config leaves open stays as saved"
    short = run(loaded, processor, images[:2], generation_config=GenerationConfig(iqf_preset="original", num_beams=1))
    assert short.answers_given_question[0] and all(not trace or trace[0]["logprob"] <= 0 for trace in short.trace)


def test_what_is_no_pair_says_why(model, processor, images):
    out = run(model, processor, images, task="conversation")
    bad = [row for row in range(6) if not out.valid[row]]
    assert bad == [2], "this model writes 'Answer:' twice for the third picture"
    assert "2 times" in out.reasons[2] and out.answers[2] is None and out.trace[2] == []
    assert "Answer: A white cross. Answer:" in out.vig_texts[2]
    assert "Answer: A white cross. Answer:" in processor.decode_texts(out.sequences)[2]


def test_one_vit_call_for_each_picture(model, processor, images):
    for kwargs in ({}, {"iqf_preset": "original"}, {"iqf_steps": -1}):
        with Counter(model) as count:
            run(model, processor, images, **kwargs)
        assert count.pictures == 6
    embeds = model.get_image_embeds(processor(images=images, return_tensors="pt")["pixel_values"])
    with Counter(model) as count:
        for task in TYPES:
            inputs = processor(images=images, task=task, return_tensors="pt")
            del inputs["pixel_values"]
            model.generate(**inputs, image_embeds=embeds, processor=processor)
    assert count.pictures == 0


@pytest.mark.parametrize(("split", "ahead"), [("original", 0), ("safe", 1)])
@pytest.mark.parametrize("task", TYPES)
@pytest.mark.parametrize("pictures", [3, pytest.param(6, marks=pytest.mark.slow)])
def test_nothing_is_decoded_past_the_unit(model, processor, images, split, ahead, task, pictures):
    """Every call but the last ends with its sentence: decoded tokens are those of the sentences, and a look-ahead."""
    checked = 0
    for image in images[:pictures]:
        kwargs = {"iqf_split": split, "iqf_keep_tail": False, "iqf_steps": 3}
        with Counter(model) as vig:
            first = run(model, processor, [image], task, iqf_steps=1, iqf_keep_tail=False, iqf_split=split)
        with Counter(model) as count:
            out = run(model, processor, [image], task, **kwargs)
        later = out.trace[0][1:]
        if not out.valid[0]:
            continue
        tokens = [len(processor.tokenizer(step["sentence"], add_special_tokens=False)["input_ids"]) for step in later]
        assert first.trace[0] == out.trace[0][:1]
        # A call that has nothing more to say still has to write the end of sequence.
        silent = sum(not step["sentence"] for step in later)
        spent = count.decoded - vig.decoded
        assert sum(tokens) <= spent <= sum(tokens) + max(silent, ahead * len(later))
        checked += 1
    assert checked >= pictures - 1, "this model writes no pair about one picture at most"


@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"iqf_preset": "original"},
        {"iqf_preset": "original", "num_beams": 1},
        {"iqf_unit": "paragraph", "iqf_full_record": True, "iqf_steps": -1},
        {"do_sample": True, "temperature": 0.7, "row_seeds": [1, 2, 3, 4, 5, 6]},
    ],
    ids=lambda kwargs: "-".join(map(str, kwargs.values())) or "default",
)
def test_drafts_that_are_verified_change_no_word(model, processor, images, kwargs):
    found, spent = [], []
    for verify, ahead in ((False, False), (True, False), (True, True)):
        with Counter(model) as count:
            out = run(model, processor, images, iqf_verify_drafts=verify, iqf_ahead=ahead, **kwargs)
        stops = [[(step["sentence"], step["stop"]) for step in trace] for trace in out.trace]
        found.append((out.vig_texts, out.answers, out.whole_texts, out.answers_given_question, stops))
        spent.append(count.decoded)
    assert found[0] == found[1] == found[2]
    beams = kwargs == {"iqf_preset": "original"}
    assert spent[1] == spent[0] if beams else spent[1] < spent[0], "the model repeats its drafts; beams are written"


def test_an_answer_that_is_given_is_compared_and_verified(model, processor, images):
    inputs = processor(images=images, text=["What can you see?"] * 6, return_tensors="pt")
    answers = model.generate(**inputs, processor=processor, return_dict_in_generate=True).answers
    embeds = model.get_image_embeds(inputs["pixel_values"]).detach()
    decoded = {}
    for given, verify in ((answers, True), (answers, False), (["No. Not so."] * 6, True)):
        requests = [
            {"image_embeds": row, "mode": "vic", "question": "What can you see?", "draft": draft, "key": place}
            for place, (row, draft) in enumerate(zip(embeds, given, strict=True))
        ]
        with Counter(model) as count:
            stream = model.generate_stream(requests, processor, 2, iqf_verify_drafts=verify)
            rows = {request.key: row for request, row in stream}
        assert [rows[place].answer for place in range(6)] == answers
        assert [rows[place].draft for place in range(6)] == given
        changed = {step["changed"] for row in rows.values() for step in row.trace[:1]}
        assert changed == {given is not answers}
        decoded[given is answers, verify] = count.decoded
    assert decoded[True, True] < 0.8 * decoded[True, False] == 0.8 * decoded[False, True]


@pytest.mark.parametrize("batches", [8, pytest.param(50, marks=pytest.mark.slow)])
def test_rows_do_not_influence_each_other(model, processor, images, batches):
    """A row alone and in random batches gives the same text."""
    alone = {
        (index, task): run(model, processor, [image], task) for index, image in enumerate(images) for task in TYPES
    }
    rng = random.Random(0)
    for _ in range(batches):
        rows = [(rng.randrange(6), rng.choice(TYPES)) for _ in range(rng.randint(2, 7))]
        out = run(model, processor, [images[index] for index, _ in rows], [task for _, task in rows])
        for place, key in enumerate(rows):
            assert out.vig_texts[place] == alone[key].vig_texts[0]
            assert out.answers[place] == alone[key].answers[0]
            sentences = [step["sentence"] for step in out.trace[place]]
            assert sentences == [step["sentence"] for step in alone[key].trace[0]]


def test_sampling_follows_the_row_not_the_batch(model, processor, images):
    decoding = {"do_sample": True, "temperature": 1.5, "top_k": 0, "max_new_tokens": 40}
    seeds = [11, 12, 13, 14, 15, 16]
    together = run(model, processor, images, row_seeds=seeds, **decoding)
    for index, image in enumerate(images):
        alone = run(model, processor, [image], row_seeds=seeds[index : index + 1], **decoding)
        assert alone.vig_texts == together.vig_texts[index : index + 1]
        assert alone.answers == together.answers[index : index + 1]
    other = run(model, processor, images, row_seeds=[seed + 100 for seed in seeds], **decoding)
    assert other.vig_texts != together.vig_texts
    same = run(model, processor, images[:1] * 2, row_seeds=torch.tensor([5, 6]), **decoding)
    assert same.vig_texts[0] != same.vig_texts[1], "neighbouring seeds share no stream"
    torch.manual_seed(3)
    one = run(model, processor, images, **decoding)
    torch.manual_seed(3)
    assert run(model, processor, images, **decoding).vig_texts == one.vig_texts


def test_bf16_and_eager(vigc_folder, model, processor, images):
    half = VigcForConditionalGeneration.from_pretrained(vigc_folder, dtype=torch.bfloat16, attn_implementation="sdpa")
    inputs = processor(images=images, task="detail", return_tensors="pt").to(torch.bfloat16)
    out = half.generate(**inputs, processor=processor, return_dict_in_generate=True)
    assert all(answer.startswith("The image shows two shapes") for answer in out.answers)
    eager = VigcForConditionalGeneration.from_pretrained(vigc_folder, attn_implementation="eager")
    assert run(eager, processor, images).answers == run(model, processor, images).answers


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"correct": True, "processor": None}, "correct=True needs the processor"),
        ({"mode": "poetry"}, "mode='poetry' is not known"),
        ({"mode": None}, "a processor but no mode"),
        ({"mode": "plain", "correct": True}, "contradict"),
        ({"task": None}, "task= is missing"),
        ({"task": ["detail"]}, "2 images but 1 of task="),
        ({"iqf_steps": -2}, "iqf_steps=-2"),
        ({"iqf_unit": "word"}, "use 'sentence' or 'paragraph'"),
        ({"iqf_keep_tail": "False"}, "iqf_keep_tail='False'"),
        ({"iqf_verify_drafts": "always"}, "iqf_verify_drafts='always'"),
        ({"row_seeds": [1]}, "2 images but 1 of row_seeds="),
        ({"mode": "vic", "questions": ["What?", ""]}, r"Question 1 is empty \(''\)"),
        ({"mode": "vic", "questions": None}, "questions= is missing"),
        ({"stop_strings": ["."], "max_time": 3}, "do not support max_time, stop_strings"),
        ({"max_length": 10}, "do not support max_length"),
        ({"do_sample": True, "num_beams": 2}, "do_sample with num_beams > 1"),
        ({"iqf_preset": "fast"}, "iqf_preset='fast'"),
        ({"colour": "red"}, "do not support colour"),
        ({"num_return_sequences": 2, "num_beams": 2}, "num_return_sequences"),
    ],
)
def test_what_does_not_fit_is_said(model, processor, images, kwargs, message):
    inputs = {**processor(images=images[:2], task="detail", return_tensors="pt"), "processor": processor, **kwargs}
    with pytest.raises(ValueError, match=message):
        model.generate(**inputs)


def test_the_released_prompt_needs_the_type_of_given_questions(model, processor, images):
    inputs = processor(images=images[:1], text="What can you see?", return_tensors="pt")
    with pytest.raises(ValueError, match="pass task= to the processor"):
        model.generate(**inputs, processor=processor, iqf_preset="original")
    inputs = processor(images=images[:1], text="What can you see?", task="conversation", return_tensors="pt")
    assert model.generate(**inputs, processor=processor, iqf_preset="original", return_dict_in_generate=True).answers[0]


def test_without_drafts_answers_stay_the_same_and_less_is_written(model, processor, images):
    """VIG is over with its question: greedy, and with beams, whose best question is known before the best draft."""
    for beams in (1, 3):
        with Counter(model) as whole:
            drafted = run(model, processor, images, num_beams=beams)
        with Counter(model) as short:
            out = run(model, processor, images, num_beams=beams, iqf_draft=False)
        assert out.drafts == [None] * 6 and all(text.endswith("Answer:") for text in out.vig_texts)
        assert out.questions == drafted.questions and out.answers == drafted.answers
        assert all(step["changed"] is None for row in out.trace for step in row)
        assert short.decoded < 0.8 * whole.decoded
    plain = run(model, processor, images, iqf_draft=False, correct=False)
    assert plain.sequences.shape[0] == 6
