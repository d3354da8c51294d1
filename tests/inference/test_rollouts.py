"""A vertical slice: the same rollouts on generators of every kind, images, texts, weights and a second voice."""

import json
import math

import pytest
import torch
from stock_vlm import save_stock_vlm

from vigc.errors import GenerationError
from vigc.inference import (
    Request,
    RoutedGenerator,
    SamplingParams,
    ScriptedGenerator,
    load_chat_model,
    load_model,
)
from vigc.modeling_vigc.rollout_vigc import RolloutSettings, iqf, vig_then_iqf
from vigc.modeling_vigc.sentences_vigc import UnitRule
from vigc.processing import VigcProcessor
from vigc.scenes import VIGC_TINY, render, sample_scenes

GREEDY = {"do_sample": False, "num_beams": 1, "max_new_tokens": 60}
BEAMS = {"do_sample": False, "num_beams": 4, "max_new_tokens": 12}


@pytest.fixture(scope="module")
def vigc_tiny():
    return load_model(VIGC_TINY, device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def llava(tmp_path_factory):
    folder = save_stock_vlm(tmp_path_factory.mktemp("slice") / "llava")
    return load_chat_model(folder, dtype=torch.float32, device="cpu")


@pytest.fixture(scope="module")
def scenes():
    return sample_scenes(seed=5, count=3)


def pictures(scenes):
    return [render(scene).image for scene in scenes]


# VIG and IQF


def test_vig_and_iqf_on_the_engine_are_what_generate_does(vigc_tiny, scenes):
    images = [vigc_tiny.encode(image) for image in pictures(scenes)]
    settings = RolloutSettings(vigc_tiny.processor, decoding=GREEDY, max_new_tokens=GREEDY["max_new_tokens"])
    found = list(vigc_tiny.run(vig_then_iqf(image, "detail", settings) for image in images))
    inputs = vigc_tiny.processor(images=pictures(scenes), task=["detail"] * len(scenes), return_tensors="pt")
    expected = vigc_tiny.model.generate(**inputs, processor=vigc_tiny.processor, return_dict_in_generate=True, **GREEDY)
    assert {sample.question for sample in found} == set(expected.questions)
    assert sorted(sample.answer for sample in found) == sorted(expected.answers)
    assert all(step["sentence"] for sample in found for step in sample.trace[:-1])


def test_iqf_on_a_script_keeps_one_sentence_of_each_completion():
    asked = []

    def reply(request):
        asked.append(request)
        return ["A cat sits. Nothing more.", "It is grey. Or not.", ""][len(request.prefix.split(".")) - 1]

    settings = RolloutSettings(VigcProcessor.from_pretrained(VIGC_TINY), decoding=GREEDY)
    (sample,) = ScriptedGenerator(reply).run([iqf("an image", "What is there?", "A dog sits.", settings)])
    assert sample.answer == "A cat sits. It is grey."
    assert [request.prefix for request in asked] == ["", "A cat sits.", "A cat sits. It is grey."]
    assert [step["changed"] for step in sample.trace] == [True, True, False]


# Short answers with weights


def short_answers(image, question, count):
    """The answers of one beam search with their weights, 100 p^3, as `--answers` has them."""
    best = yield Request(question, (image,), sampling=SamplingParams(BEAMS, n=count))
    return [(one.text, 100 * math.exp(one.score) ** 3) for one in (best, *best.alternatives)]


def test_short_answers_come_with_weights(vigc_tiny, scenes):
    (scene, *_), (picture, *_) = scenes, pictures(scenes)
    item = scene.objects[0]
    question = vigc_tiny.processor.vic_prompt(f"What color is the {item.kind}?", "okvqa")
    (answers,) = vigc_tiny.run([short_answers(vigc_tiny.encode(picture), question, 4)])
    assert len(answers) == len({text for text, _ in answers}) == 4
    assert [weight for _, weight in answers] == sorted((weight for _, weight in answers), reverse=True)
    inputs = vigc_tiny.processor(images=[picture], text=[question], return_tensors="pt")
    with torch.no_grad():
        plain = vigc_tiny.model.generate(
            **inputs, correct=False, **BEAMS, num_return_sequences=4, output_scores=True, return_dict_in_generate=True
        )
    texts = vigc_tiny.processor.decode_texts(plain.sequences[:, inputs["input_ids"].shape[1] :])
    assert [text for text, _ in answers] == texts
    scores = [math.log(weight / 100) / 3 for _, weight in answers]
    assert scores == pytest.approx(plain.sequences_scores.tolist(), rel=1e-4)


def test_more_completions_than_beams_are_refused(vigc_tiny, scenes):
    image = vigc_tiny.encode(pictures(scenes)[0])
    with pytest.raises(ValueError, match="n=5 completions need as many beams, but num_beams is 4"):
        list(vigc_tiny.run([short_answers(image, "What is there?", 5)]))


# Log-probabilities of given texts


def scored(image, question, answer):
    """Generates an answer; returns it, its log-probability as a target, and that of another answer."""
    sampling = SamplingParams(GREEDY)
    own = yield Request(question, (image,), sampling=sampling)
    given = yield Request(question, (image,), target=own.text, sampling=sampling)
    other = yield Request(question, (image,), target=answer, sampling=sampling)
    return own, given, other


def test_a_target_is_scored_beside_what_is_decoded(vigc_tiny, scenes):
    """Token by token as the engine itself has them, and bit for bit what `--score` measures."""
    images = [vigc_tiny.encode(image) for image in pictures(scenes)]
    questions = ["What can you see in the picture?", "Is there a dog?", "How many things are there?"]
    answers = ["A dog sits on the grass, and a cat.", "No.", "Two"]
    found = list(vigc_tiny.run(scored(*row) for row in zip(images, questions, answers, strict=True)))
    for own, given, other in found:
        assert (given.text, given.finish_reason, given.ids) == (own.text, "scored", own.ids)
        assert given.token_logprobs == pytest.approx(own.token_logprobs, abs=1e-4)
        place = answers.index(other.text)
        with torch.no_grad():
            part = ([images[place]], [questions[place]], [answers[place]], None)
            (mean,) = vigc_tiny.scorer.mean_logprobs(*part)
        alone = Request(questions[place], (images[place],), target=answers[place])
        (exact,) = vigc_tiny.run([one(alone)])
        assert torch.tensor(exact.token_logprobs).mean().item() == mean
        assert exact.token_logprobs == pytest.approx(other.token_logprobs, abs=1e-4)


def test_a_target_continues_a_prefix_and_needs_an_image(vigc_tiny, scenes):
    image = vigc_tiny.encode(pictures(scenes)[0])
    joined, split = (
        next(vigc_tiny.run([one(Request(prompt, (image,), prefix, target="a dog."))])).token_logprobs
        for prompt, prefix in (("What is it? It is", ""), ("What is it?", "It is"))
    )
    assert joined == split and len(joined) > 1
    with pytest.raises(ValueError, match="scores a target about one image: give the request one"):
        list(vigc_tiny.run([one(Request("What is it?", target="a dog."))]))


def one(request):
    return (yield request)


# A text request whose answer is JSON

SCHEMA = {"type": "object", "properties": {"question": {"type": "string"}, "answer": {"type": "string"}}}


def json_pair(caption, attempts=3):
    """A pair from a caption, without an image; what is no JSON is asked for again."""
    for attempt in range(attempts):
        prompt = f"Write a question and an answer about: {caption}. Reply with JSON."
        completion = yield Request(prompt, sampling=SamplingParams(GREEDY, seed=attempt), schema=SCHEMA)
        try:
            return json.loads(completion.text)
        except ValueError:
            continue
    return None


def test_a_json_form_is_parsed_and_asked_for_again():
    def reply(request):
        return '{"question": "Where?", "answer": "Here."}' if request.sampling.seed else "Sure! Here it is:"

    writer = ScriptedGenerator(reply)
    assert list(writer.run([json_pair("a cat")])) == [{"question": "Where?", "answer": "Here."}]
    assert list(ScriptedGenerator(lambda request: "no").run([json_pair("a cat")])) == [None]


def test_a_model_without_schemas_says_so(llava):
    with pytest.raises(GenerationError, match="cannot follow a schema: use another model"):
        list(llava.run([json_pair("a cat")]))


# Two voices about a colour: the writer claims, another model is asked


def checked(claim, kind, color, image):
    """A claim about a colour, kept where an open and a polar question to the checker agree with it."""
    sampling = SamplingParams({"do_sample": False, "num_beams": 1, "max_new_tokens": 20})
    written = yield Request(claim, (image,), stop=UnitRule(), sampling=sampling)
    opened = yield Request(f"What color is the {kind}?", (image,), sampling=sampling, to="checker")
    polar = yield Request(f"Is there a {color} {kind}?", (image,), sampling=sampling, to="checker")
    voices = (color in opened.text.lower(), polar.text.lower().startswith("yes"))
    return written.text, all(voices), any(voices)


@pytest.mark.parametrize("writer", ["scripted", "llava"])
def test_a_second_model_checks_the_writer_s_claims(vigc_tiny, llava, scenes, writer):
    says = ScriptedGenerator(lambda request: f"{request.prompt} And more.")
    both = RoutedGenerator({"writer": says if writer == "scripted" else llava, "checker": vigc_tiny})
    rollouts, truths = [], []
    for scene, picture in zip(scenes, pictures(scenes), strict=True):
        item, image = scene.objects[0], both.encode(picture)
        kinds = [other.kind for other in scene.objects]
        wrong = "blue" if item.color != "blue" else "red"
        for color in (item.color, wrong) if kinds.count(item.kind) == 1 else (item.color,):
            rollouts.append(checked(f"The {item.kind} is {color}.", item.kind, color, image))
            truths.append((f"The {item.kind} is {color}.", color == item.color))
    # Rollouts of equal length end in their order.
    found = list(both.run(rollouts))
    assert [confirmed for _, confirmed, _ in found] == [true for _, true in truths]
    if writer == "scripted":
        assert [text for text, _, _ in found] == [claim for claim, _ in truths]


def test_a_request_for_an_absent_generator_is_refused():
    alone = RoutedGenerator({"writer": ScriptedGenerator(lambda request: "yes")})
    with pytest.raises(GenerationError, match="for the generator 'checker', but there are only writer"):
        list(alone.run([checked("It is red.", "cat", "red", {"writer": "an image"})]))
