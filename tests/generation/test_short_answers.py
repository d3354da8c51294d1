"""Several answers with weights: decoded as the settings say, presets included, as `generate` does, and VIC's alone."""

import math

import pyarrow.parquet as pq
import pytest
import torch

from vigc.errors import GenerationError
from vigc.generation import generate_dataset
from vigc.generation.rollouts.short_answers import ShortAnswerSettings, short_answers
from vigc.inference import load_model
from vigc.inference.scheduling import begin
from vigc.jobs import ledger
from vigc.modeling_vigc.engine_vigc import Engine
from vigc.modeling_vigc.requests_vigc import Completion
from vigc.modeling_vigc.rollout_vigc import RolloutSettings
from vigc.processing import VigcProcessor
from vigc.scenes import VIGC_TINY, render, sample_scenes

PLAIN = {"max_new_tokens": 40, "do_sample": False, "num_beams": 1}


@pytest.fixture(scope="module")
def vigc_tiny():
    return load_model(VIGC_TINY, device="cpu", dtype="float32")


def asked_plainly(generator, images, prompts, **decoding):
    """What the model's own `generate` makes of prompts: the texts of each, and their scores."""
    pixels = generator.processor(images=images, return_tensors="pt")["pixel_values"]
    inputs = generator.processor.encode_prompts(prompts)
    as_dict = {"return_dict_in_generate": True, "output_scores": True}
    with torch.no_grad():
        output = generator.model.generate(pixel_values=pixels, **inputs, correct=False, **decoding, **as_dict)
    texts = generator.processor.decode_texts(output.sequences[:, inputs["input_ids"].shape[1] :])
    return texts, output.get("sequences_scores")


@pytest.mark.parametrize(
    "decoding",
    [{}, {"repetition_penalty": 1.3}, {"num_beams": 3, "repetition_penalty": 1.2}, {"no_repeat_ngram_size": 3}],
    ids=lambda given: "-".join(given) or "greedy",
)
@pytest.mark.parametrize("first_words", [None, {"What": 2, "Is": 1}], ids=["free", "first-words"])
def test_texts_and_weights_are_those_of_plain_decoding(vigc_tiny, decoding, first_words):
    decoding, processor = {**PLAIN, **decoding}, vigc_tiny.processor
    images = [render(scene).image for scene in sample_scenes(seed=5, count=3)]
    wanted = ShortAnswerSettings(decoding, 3, 0.0, first_words)
    settings = RolloutSettings(processor, decoding=decoding)
    embeds = [vigc_tiny.encode(image) for image in images]

    def numbered(place, image):
        return place, (yield from short_answers(image, "okvqa", settings, wanted, seed=place))

    found = dict(vigc_tiny.run(numbered(*one) for one in enumerate(embeds)))
    begun = [f"Question: {word}" if (word := wanted.first_word(seed)) else "" for seed in range(3)]
    prompts = [f"{processor.instruction('okvqa')} {start}".strip() for start in begun]
    for place, (image, prompt, start) in enumerate(zip(images, prompts, begun, strict=True)):
        ((text,), _) = asked_plainly(vigc_tiny, [image], [prompt], **decoding)
        sample, pair = found[place], processor.parse_pair(f"{start} {text}".strip())
        assert (sample.question, sample.draft) == (pair.question, pair.answer)
        if pair.reason is not None:
            assert sample.reason == pair.reason and sample.answers is None
            continue
        beams = {**decoding, "num_beams": 3, "num_return_sequences": 3}
        texts, scores = asked_plainly(vigc_tiny, [image], [processor.vic_prompt(pair.question, "okvqa")], **beams)
        pairs = dict(zip(texts, [100 * math.exp(score) ** 3 for score in scores.tolist()], strict=True))
        assert dict(zip(sample.answers, sample.weights, strict=True)) == pytest.approx(pairs, rel=2e-5)
        assert sample.draft_logprob is None and sample.answer_logprob is None, "weights are their scores"


def test_answers_are_weighted_and_chosen():
    settings = RolloutSettings(VigcProcessor.from_pretrained(VIGC_TINY), decoding=PLAIN)
    rollout = begin(short_answers("an image", "vqav2", settings, ShortAnswerSettings(PLAIN, 2, 10.0), seed=1))
    rollout.resume(Completion("Question: What is it? Answer: a cat", "eos"))
    assert rollout.request.sampling.n == 2 and rollout.request.sampling.plain
    scored = [("", 0.0), ("A cat.", -0.1), ("a cat", -0.2), ("a dog", -0.3), ("a cow", -0.4)]
    best, *others = [Completion(text, "eos", score=score) for text, score in scored]
    best.alternatives = tuple(others)
    rollout.resume(best)
    sample = rollout.result
    assert (sample.answers, sample.answer) == (["A cat.", "a dog"], "A cat.")
    assert sample.weights == pytest.approx([100 * math.exp(-0.3), 100 * math.exp(-0.9)])
    rollout = begin(short_answers("an image", "vqav2", settings, ShortAnswerSettings(PLAIN, 2, 10.0)))
    rollout.resume(Completion("Question: What is it? Answer: a cat", "eos"))
    rollout.resume(Completion("a dog", "eos", score=-1.0))
    assert rollout.result.answers is None and rollout.result.reason == "no answer weighs 10 or more (the heaviest 4.98)"


def test_a_preset_decodes_questions_and_answers(parity_dir, model, processor, tmp_path, monkeypatch):
    calls = set()
    slot_of = Engine.slot_of

    def noted(self, request, rollout):
        sampling = request.sampling
        penalty = sampling.settings["repetition_penalty"]
        calls.add((sampling.settings["num_beams"], penalty, sampling.n, sampling.plain))
        return slot_of(self, request, rollout)

    monkeypatch.setattr(Engine, "slot_of", noted)
    job = {"model": model, "processor": processor, "types": ["okvqa"], "answers": 2, "limit": 2, "retries": 0}
    given = {"iqf_preset": "original", "max_new_tokens": 20, "iqf_draft": False}
    summary = generate_dataset(parity_dir / "images", tmp_path / "out", settings=given, **job)
    decoding = ledger.read_plan(tmp_path / "out").configuration["decoding"]
    assert (decoding["num_beams"], decoding["repetition_penalty"]) == (5, 1.5)
    (file,) = (tmp_path / "out").glob("okvqa/*.parquet")
    rows = pq.read_table(file).to_pylist()
    assert all(row["draft"] is None and row["scores"]["draft_logprob"] is None for row in rows), "as was asked for"
    assert summary.rows and calls == {(5, 1.5, 1, True), (5, 1.5, 5, True)}, "questions, and the answers to them"


def test_answers_without_correction_are_refused(parity_dir, model, processor, tmp_path):
    job = {"model": model, "processor": processor, "types": ["okvqa"], "answers": 2, "correct": False}
    with pytest.raises(GenerationError, match="--answers needs a correction: remove --answers"):
        generate_dataset(parity_dir / "images", tmp_path / "out", **job)
    assert not (tmp_path / "out").exists()
