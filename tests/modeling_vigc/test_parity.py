"""Our model is VIGC: the numbers of the authors' own code, on a tiny model, reproduced through convert and load.

`VIGC_PARITY_DIR=folder pytest tests/modeling_vigc/test_parity.py` holds it against another folder of the same form.
"""

import gzip
import json
import random
from itertools import combinations

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import GenerationConfig

from vigc.convert.keys import to_transformers
from vigc.modeling_vigc import VigcForConditionalGeneration
from vigc.modeling_vigc.decoding_vigc import Decoding, image_features
from vigc.modeling_vigc.engine_vigc import Engine
from vigc.modeling_vigc.requests_vigc import Request, SamplingParams

TASKS = {"conv": "conversation", "desc": "detail", "comp": "complex"}
COVERING = 7088  # the seed of a sample of 12 runs in which every two values of two settings come together
DECODINGS = {
    "greedy": {"num_beams": 1, "repetition_penalty": 1.0},
    "official_beam5": {"num_beams": 5, "repetition_penalty": 1.5},
}


@pytest.fixture(scope="module")
def meta(parity_dir):
    return json.loads((parity_dir / "meta.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def inputs(parity_dir):
    return load_file(parity_dir / "inputs.safetensors")


@pytest.fixture(scope="module")
def expected(parity_dir):
    return load_file(parity_dir / "expected.safetensors")


@pytest.fixture(scope="module")
def images(parity_dir):
    return [Image.open(path) for path in sorted((parity_dir / "images").glob("*.png"))]


@pytest.fixture(scope="module")
def runs(parity_dir):
    return json.loads(gzip.decompress((parity_dir / "iqf_runs.json.gz").read_bytes()))


@pytest.fixture
def image_embeds(model, inputs):
    with torch.no_grad():
        return model.get_image_embeds(inputs["pixel_values"])


# How far float32 may be from float32: 16 units in the last place of the largest value, 4 of its 24 bits. Processors and
# numbers of threads add up in different orders, which moves a sum of n terms by about sqrt(n) / 2 such units. The
# longest sums here, of a patch of 14 x 14 pixels in three colours, have 588 terms: 12, and the next power of two is 16.
# Seen so far: 9.
ROUNDING = 16 * 2.0**-23


@pytest.fixture(params=[1, 2])
def threads(request):
    """As many threads while a test runs."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


any_threads = pytest.mark.usefixtures("threads")


def close(name, ours, theirs, size=None):
    """Holds the greatest difference under `ROUNDING` of the largest value, and prints it (`pytest -s` shows it).

    `size` is that of the terms, where they cancel.
    """
    ours, theirs = torch.as_tensor(ours), torch.as_tensor(theirs)
    difference = (ours - theirs).abs().max().item()
    allowed = ROUNDING * (theirs.abs().max().item() if size is None else size)
    print(f"{name:70s} {difference:.1e}  (allowed {allowed:.1e})")
    assert difference <= allowed, name


def test_pixels_are_equal(processor, images, inputs):
    assert torch.equal(processor(images=images, return_tensors="pt")["pixel_values"], inputs["pixel_values"])


def test_every_string_of_the_token_table(processor, meta):
    for row in meta["token_table"]:
        text = row["text"]
        prompt = processor.encode_prompts([text])
        count = processor.num_query_tokens
        assert prompt["input_ids"][0, count:].tolist() == row["llm_generate"], text
        assert prompt["qformer_input_ids"][0].tolist() == row["qformer"], text
        pair = processor(text=text, target=text)
        labels = [label for label in pair["labels"][0] if label != -100]
        assert pair["input_ids"][0][: len(row["llm_train_input"])] == row["llm_train_input"], text
        assert [2, *labels] == row["llm_train_output"], text


@any_threads
@torch.no_grad()
def test_vit_and_its_layer_norm(vigc_folder, image_embeds, inputs, expected):
    """With attention spelled out, as released, and as it runs by default."""
    model = VigcForConditionalGeneration.from_pretrained(
        vigc_folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    hidden = model.vision_model.encoder(model.vision_model.embeddings(inputs["pixel_values"])).last_hidden_state
    close("ViT", hidden, expected["visual_encoder"])
    close("ln_vision", model.get_image_embeds(inputs["pixel_values"]), expected["ln_vision"])
    close("ln_vision, sdpa", image_embeds, expected["ln_vision"])
    probe = model.vision_model.post_layernorm(inputs["probe.ln_vision_input"])
    close("ln_vision probe", probe, expected["probe.ln_vision_output"])


@any_threads
@torch.no_grad()
def test_qformer_projection_and_first_logits(model, processor, image_embeds, meta, inputs, expected):
    encoded = processor.encode_prompts(meta["feature_prompts"])
    assert torch.equal(encoded["qformer_input_ids"], inputs["feat.qformer_input_ids"])
    assert torch.equal(encoded["attention_mask"], expected["feat.gen_attention_mask"])
    features, qformer = image_features(
        model, image_embeds, encoded["qformer_input_ids"], encoded["qformer_attention_mask"]
    )
    close("Q-Former", qformer.last_hidden_state, expected["feat.qformer_last_hidden_state"])
    query_output = qformer.last_hidden_state[:, : processor.num_query_tokens]
    close("query outputs", query_output, expected["feat.query_output"])
    close("projection", features, expected["feat.inputs_llm"])

    embeds = model.get_input_embeddings()(encoded["input_ids"])
    places = (encoded["input_ids"] == model.config.image_token_index)[..., None]
    seen = encoded["attention_mask"].bool()
    close("LLM inputs", embeds.masked_scatter(places, features)[seen], expected["feat.gen_inputs_embeds"][seen])
    mask = encoded["attention_mask"]
    positions = (mask.cumsum(-1) - 1).masked_fill(mask == 0, 1)
    assert torch.equal(positions, expected["feat.gen_position_ids"])
    logits = model(image_embeds=image_embeds, **encoded, position_ids=positions).logits[:, -1]
    logits = logits[:, : model.config.image_token_index]
    close("first-step logits", logits, expected["feat.gen_first_step_logits"])


def batch_of(name, processor, images, meta):
    texts, targets = meta[f"{name}.text_input"], meta[f"{name}.text_output"]
    return processor(images=images[: len(texts)], text=texts, target=targets, return_tensors="pt")


def same_up_to_padding(ours, theirs, padding):
    """The release pads to the longest input plus the longest output, even where no row has both."""
    width = ours.shape[1]
    assert torch.equal(ours, theirs[:, :width])
    assert (theirs[:, width:] == padding).all()


@any_threads
@pytest.mark.parametrize("name", ["train_batch", "edge_batch"])
@torch.no_grad()
def test_training_batch(name, model, processor, images, meta, inputs, expected):
    batch = batch_of(name, processor, images, meta)
    queries = processor.num_query_tokens
    assert torch.equal(batch["qformer_input_ids"], inputs[f"{name}.qformer_input_ids"])
    pad = processor.tokenizer.pad_token_id
    same_up_to_padding(batch["input_ids"][:, queries:], inputs[f"{name}.llm_input_ids"], pad)
    same_up_to_padding(batch["attention_mask"], expected[f"{name}.full_attention_mask"], 0)
    same_up_to_padding(batch["labels"], expected[f"{name}.labels"], -100)

    outputs = model(**batch)
    close(f"{name} loss", outputs.loss, expected[f"{name}.loss"][0])
    query_output = outputs.qformer_outputs.last_hidden_state[:, :queries]
    close(f"{name} query outputs", query_output, expected[f"{name}.query_output"])
    close(f"{name} projection", model.language_projection(query_output), expected[f"{name}.inputs_llm"])
    labels = batch["labels"][:, 1:]
    logprobs = outputs.logits[:, :-1].log_softmax(-1).gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    targets = labels != -100
    close(f"{name} row sums", -(logprobs * targets).sum(-1), expected[f"{name}.row_nll_sum"])
    assert torch.equal(targets.sum(-1), expected[f"{name}.row_num_targets"])
    if name == "train_batch":
        logits = outputs.logits[1, expected["train_batch.row1_target_positions"], : model.config.image_token_index]
        close("train_batch target logits", logits, expected["train_batch.row1_target_logits"])


@any_threads
def test_gradients(vigc_folder, processor, images, meta, expected):
    model = VigcForConditionalGeneration.from_pretrained(vigc_folder, dtype=torch.float32).eval()
    model.freeze("paper", train_ln_vision=True)
    model(**batch_of("train_batch", processor, images, meta)).loss.backward()
    parameters = dict(model.named_parameters())
    prefix = "train_batch.grad."
    listed = [name for name in expected if name.startswith(prefix)]
    assert listed
    for name in listed:
        close(name, parameters[to_transformers(name.removeprefix(prefix))].grad, expected[name])
    norms = meta["train_batch.grad_norms"]
    for key, norm in norms.items():
        # A bias on keys moves all scores of a query alike, which attention does not see: its gradient is a zero, of
        # terms of the size of the weights'.
        size = norms[key.removesuffix("bias") + "weight"] if key.endswith(".key.bias") else None
        close(f"|grad| {key}", parameters[to_transformers(key)].grad.norm().item(), norm, size)
    assert all(weight.grad is None for name, weight in parameters.items() if name.startswith("language_model."))


def write(model, processor, prompts, embeds, **decoding):
    """What the engine writes to each prompt, all of them at once."""

    def prepared(given, plain):
        config, _ = model._prepare_generation_config(GenerationConfig(**given))
        return Decoding(model, processor, config, plain=plain)

    def row(place):
        return place, (yield Request(prompts[place], (embeds[place],), sampling=SamplingParams(decoding)))

    rows = dict(Engine(model, processor, len(prompts), prepared).run(map(row, range(len(prompts)))))
    return [rows[place] for place in range(len(prompts))]


def ids_of(written):
    return written.ids + ([2] if written.finish_reason == "eos" else [])


def recorded(parity_dir, decode):
    rows = json.loads(gzip.decompress((parity_dir / "generations.json.gz").read_bytes()))
    return [row for row in rows if row["decode"] == decode]


def written_as(rows, decode, model, processor, image_embeds, meta):
    """Whether the engine writes what the release wrote, token for token."""
    decoding = {"max_new_tokens": meta["config"]["generate"]["max_length"] - 1, **DECODINGS[decode]}
    for start in range(0, len(rows), 32):
        batch = rows[start : start + 32]
        embeds = image_embeds[[row["image"] for row in batch]]
        prompts = [row["prompt"] for row in batch]
        for row, written in zip(batch, write(model, processor, prompts, embeds, **decoding), strict=True):
            assert (written.text, ids_of(written)) == (row["text"], row["ids"]), row["prompt"]


@pytest.mark.parametrize("decode", DECODINGS)
def test_every_generation(decode, model, processor, parity_dir, image_embeds, meta):
    rows = recorded(parity_dir, decode)
    assert rows
    written_as(rows, decode, model, processor, image_embeds, meta)
    print(f"{decode}: {len(rows)} generations, token for token the same")


@pytest.mark.parametrize("threads", [2], indirect=True)
def test_threads_change_no_token(threads, model, processor, parity_dir, image_embeds, meta):
    for decode in DECODINGS:
        written_as(recorded(parity_dir, decode)[:2], decode, model, processor, image_embeds, meta)


def test_length_semantics(model, processor, image_embeds, meta):
    """Lengths count a dummy BOS in the release: one more than what is generated."""
    for case in meta["length_semantics"]:
        kwargs = dict(case["kwargs"])
        kwargs["max_new_tokens"] = kwargs.pop("max_length") - 1
        kwargs["min_new_tokens"] = kwargs.pop("min_length") - 1
        count = len(case["texts"])
        written = write(model, processor, [case["prompt"]] * count, image_embeds[:count], **kwargs)
        assert [text.text for text in written] == case["texts"]
        assert [ids_of(text) for text in written] == case["ids"]


def record_of(out, index, names):
    """A row of ours as `valid_step` of the release records it."""
    return {
        "image": names[index],
        "image_id": index,
        "instruction": out.instructions[index],
        "whole_text": out.whole_texts[index],
        "answer": out.answers[index],
        "original_answer": out.drafts[index],
        "answer_given_question": out.answers_given_question[index],
        "question": out.questions[index],
        "answer_lst": out.answer_lists[index],
    }


@pytest.mark.parametrize("count", [12, pytest.param(48, marks=pytest.mark.slow)])
def test_every_record_of_every_run(model, processor, images, parity_dir, runs, count):
    names = [path.name for path in sorted((parity_dir / "images").glob("*.png"))]
    assert len(runs) == 48
    sample = random.Random(COVERING).sample(runs, count)
    for pair in combinations(("decode", "task", "gen_style", "last_infer_all", "in_section"), 2):
        found, all_pairs = ({tuple(run[name] for name in pair) for run in some} for some in (sample, runs))
        assert found == all_pairs, pair
    for run in sample:
        inputs = processor(images=images, task=TASKS[run["task"]], return_tensors="pt")
        out = model.generate(
            **inputs,
            processor=processor,
            iqf_preset="original",
            iqf_steps=run["answer_length"],
            iqf_unit="paragraph" if run["in_section"] else "sentence",
            iqf_keep_tail=run["last_infer_all"],
            iqf_prompt="instruction" if run["gen_style"] == "vig" else "question",
            return_dict_in_generate=True,
            **DECODINGS[run["decode"]],
        )
        records = [record_of(out, index, names) for index in range(len(images)) if out.valid[index]]
        assert records == run["records"], {key: run[key] for key in ("decode", "task", "gen_style")}
    print(f"{count} runs of the loop, {sum(len(run['records']) for run in sample)} records, all the same")
