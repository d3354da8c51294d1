"""Chat models as generators: a tiny random LLaVA and a tiny random language model, asked by rollouts."""

from dataclasses import replace

import pytest
import torch
from PIL import Image
from stock_vlm import save_stock_encoder_decoder, save_stock_instructblip, save_stock_vlm
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from vigc.errors import EvaluationError, GenerationError, RequestRefusedError
from vigc.inference import Request, SamplingParams, load_chat_model, load_generator
from vigc.modeling_vigc.sentences_vigc import UnitRule
from vigc.scenes import VIGC_TINY

SHORT = SamplingParams({"max_new_tokens": 6, "do_sample": False})
COLOURS = ("red", "green", "blue", "white", "black")


@pytest.fixture(scope="module")
def stock_folder(tmp_path_factory):
    return save_stock_vlm(tmp_path_factory.mktemp("chat") / "stock-vlm")


@pytest.fixture(scope="module")
def stock(stock_folder):
    return load_chat_model(stock_folder, dtype=torch.float32, device="cpu")


@pytest.fixture(scope="module")
def text_folder(tmp_path_factory):
    """A language model of random weights with a chat template."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("text") / "stock-lm"
    tokenizer = AutoTokenizer.from_pretrained(VIGC_TINY)
    tokenizer.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}</s>{% endfor %}assistant:"
    tokenizer.save_pretrained(folder)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=256, **sizes)).save_pretrained(
        folder
    )
    return folder


@pytest.fixture(scope="module")
def text_model(text_folder):
    return load_chat_model(text_folder, images=False, device="cpu")


def image(colour):
    return Image.new("RGB", (48, 36), colour)


def ask(key, *requests):
    """Asks one request after the other; returns the key and the completions."""
    completions = []
    for request in requests:
        completions.append((yield request))
    return key, completions


def texts(generator, *requests):
    """The text of each request, in their order."""
    found = dict(generator.run(ask(place, request) for place, request in enumerate(requests)))
    return [found[place][0].text for place in range(len(requests))]


def test_the_text_is_the_one_that_transformers_generates(stock):
    """Of a batch: the chat template, pad tokens on the left, the new tokens alone."""
    requests = [Request(f"Is this {colour}?", (image(colour),), sampling=SHORT) for colour in COLOURS[:3]]
    chats = [
        [{"role": "user", "content": [{"type": "image", "image": one.images[0]}, {"type": "text", "text": one.prompt}]}]
        for one in requests
    ]
    inputs = stock.processor.apply_chat_template(
        chats, tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True,
        processor_kwargs={"padding": True, "padding_side": "left"},
    )  # fmt: skip
    ids = stock.model.generate(**inputs, max_new_tokens=6, do_sample=False)[:, inputs["input_ids"].shape[1] :]
    assert texts(stock, *requests) == stock.processor.batch_decode(ids, skip_special_tokens=True)
    assert len(set(texts(stock, *requests))) > 1, "it sees"
    ((_, (completion,)),) = stock.run([ask("a", requests[0])])
    alone = stock.processor.apply_chat_template(
        chats[:1], tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True
    )
    assert completion.read == alone["input_ids"].shape[1] and len(completion.ids) <= 6
    assert completion.finish_reason == ("length" if len(completion.ids) == 6 else "eos")


def test_rollouts_of_any_length_share_batches(stock, monkeypatch):
    """Five rollouts of one to three requests, two at a time; what is generated does not depend on it."""
    generator = type(stock)(stock.model, stock.processor, stock.identity, batch_size=2)
    sizes, generate = [], stock.model.generate
    monkeypatch.setattr(
        stock.model, "generate", lambda **inputs: sizes.append(len(inputs["input_ids"])) or generate(**inputs)
    )
    asked = {
        colour: [Request("Is it red?", (image(colour),), sampling=SHORT)] * (1 + number % 3)
        for number, colour in enumerate(COLOURS)
    }
    found = dict(generator.run(ask(colour, *requests) for colour, requests in asked.items()))
    assert {key: len(completions) for key, completions in found.items()} == {k: len(v) for k, v in asked.items()}
    assert max(sizes) == 2 and sum(sizes) == sum(map(len, asked.values()))
    for colour, completions in found.items():
        ((_, (alone,)),) = generator.run([ask(0, asked[colour][0])])
        assert {one.text for one in completions} == {alone.text}


def test_none_lets_the_running_rollouts_come_first(stock):
    request = Request("Is it red?", (image("red"),), sampling=SHORT)
    ended = []

    def rollouts():
        yield ask("first", request)
        yield None
        assert ended == ["first"]
        yield ask("second", request)

    for key, _ in stock.run(rollouts()):
        ended.append(key)
    assert ended == ["first", "second"]


def test_requests_with_other_settings_are_decoded_apart(stock):
    requests = [
        Request("Is it red?", (image("red"),), sampling=SamplingParams({"max_new_tokens": count, "do_sample": False}))
        for count in (2, 5, 2)
    ]
    assert texts(stock, *requests) == [texts(stock, one)[0] for one in requests]


@pytest.mark.parametrize("kind", ["stock", "text_model"])
def test_sampled_text_depends_on_its_seed_alone(kind, request):
    generator = request.getfixturevalue(kind)
    images = (image("red"),) if generator.identity.images else ()
    settings = {"max_new_tokens": 8, "do_sample": True, "temperature": 2.0, "top_k": 0}
    requests = [Request("Is it red?", images, sampling=SamplingParams(settings, seed=seed)) for seed in range(4)]
    state = torch.get_rng_state()
    together = texts(generator, *requests)
    assert torch.equal(state, torch.get_rng_state()), "the caller's random numbers stay its own"
    assert together == texts(generator, *requests[::-1])[::-1] and len(set(together)) > 1


def test_a_text_ends_where_its_rule_says(text_model):
    request = Request("Say something.", sampling=SamplingParams({"max_new_tokens": 30, "do_sample": False}))
    (whole,) = texts(text_model, request)
    middle = whole[len(whole) // 2]

    class AtThatCharacter:
        def end(self, text, complete):
            return text.find(middle) + 1 or None

    ((_, (cut,)),) = text_model.run(
        [ask(0, Request(request.prompt, sampling=request.sampling, stop=AtThatCharacter()))]
    )
    assert cut.text == whole[: whole.find(middle) + 1] and cut.finish_reason == "unit"
    ((_, (same,)),) = text_model.run([ask(0, Request(request.prompt, sampling=request.sampling, stop=UnitRule()))])
    assert whole.startswith(same.text)


def test_a_language_model_gets_a_system_turn_and_no_special_tokens(text_model):
    plain, spelled = (Request(f"word {end} word", system="Be brief.", sampling=SHORT) for end in ("</s>", "< /s>"))
    assert texts(text_model, plain) == texts(text_model, spelled)
    ((_, (told, bare)),) = text_model.run([ask(0, plain, Request(plain.prompt, sampling=SHORT))])
    turn = text_model.processor("system: Be brief.</s>", add_special_tokens=False)
    assert told.read == bare.read + len(turn["input_ids"])


def test_what_does_not_fit_is_refused_and_the_others_continue(text_model):
    long, short = Request("word " * 300, sampling=SHORT), Request("word", sampling=SHORT)

    def careful(request):
        try:
            return (yield request).text
        except RequestRefusedError as error:
            return str(error)

    refused, fine = sorted(text_model.run([careful(long), careful(short)]), key=lambda text: "exceed" not in text)
    assert "exceed the model's 256" in refused and [fine] == texts(text_model, short)
    with pytest.raises(RequestRefusedError, match="exceed the model's 256"):
        texts(text_model, long)


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (Request("?", prefix="It"), "cannot continue a prefix"),
        (Request("?", target="Yes"), "cannot score a text"),
        (Request("?", schema={}), "cannot follow a schema"),
        (Request("?", sampling=SamplingParams(n=2)), "cannot give several completions"),
        (Request("?", (1,)), "cannot take images"),
    ],
)
def test_what_it_cannot_do_is_said(text_model, request_, reason):
    with pytest.raises(GenerationError, match=reason):
        texts(text_model, request_)


def test_a_generator_says_which_model_it_is(stock, text_model, text_folder, tmp_path):
    identity = stock.identity
    assert (identity.name, identity.dtype, identity.kind, identity.images) == ("stock-vlm", "float32", "chat", True)
    assert len(identity.revision) == 16 and identity.revision != text_model.identity.revision
    assert text_model.identity.name == "stock-lm" and not text_model.identity.images
    with pytest.raises(EvaluationError, match="stock-lm' cannot be loaded: Unrecognized configuration class"):
        load_generator(text_folder, error=EvaluationError)
    with pytest.raises(GenerationError, match="cannot be loaded as a causal language model"):
        load_chat_model(tmp_path, images=False)


def test_one_loader_knows_all_kinds(stock_folder, stock, tmp_path):
    """VIGC, InstructBLIP and a chat model answer the same rollout."""
    found = {}
    folders = {"vigc": VIGC_TINY, "instructblip": save_stock_instructblip(tmp_path / "blip"), "chat": stock_folder}
    for name, folder in folders.items():
        generator = load_generator(folder, device="cpu")
        request = Request("Is it red?", (generator.encode(image("red")),), sampling=replace(SHORT, plain=True))
        found[name] = texts(generator, request)[0]
        assert generator.identity.kind == ("chat" if name == "chat" else "vigc")
    assert found["vigc"] == found["instructblip"] and found["chat"] == texts(stock, request)[0]


def test_a_language_model_with_an_encoder_answers_in_batches(tmp_path):
    """Each answer is all that the decoder generates, whichever prompts are encoded beside its own."""
    generator = load_generator(save_stock_encoder_decoder(tmp_path / "flan"), device="cpu")
    prompts = ("Is it red?", "What can you see in the picture?")
    requests = [Request(prompt, (image(colour),), sampling=SHORT) for prompt in prompts for colour in COLOURS[:2]]
    found = texts(generator, *requests)
    for request, text in zip(requests, found, strict=True):
        inputs = generator.processor(images=list(request.images), text=[request.prompt], return_tensors="pt")
        ids = generator.model.generate(**inputs, correct=False, **SHORT.settings)
        assert text == generator.processor.decode_texts(ids)[0] != ""
    together = dict(enumerate(generator.run(ask(place, one) for place, one in enumerate(requests))))
    assert [together[place][1][0].text.strip() for place in range(len(requests))] == found
    with pytest.raises(GenerationError, match="'flan' sees one image: give each request one"):
        texts(generator, Request("Is it red?", sampling=SHORT))
