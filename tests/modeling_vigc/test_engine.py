"""The engine writes what the released loop writes, token for token, whatever is written beside it."""

import inspect
import random
import sys
from functools import cache
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from vigc.modeling_vigc import VigcRequest
from vigc.modeling_vigc.decoding_vigc import Decoding, Text
from vigc.modeling_vigc.sentences_vigc import UnitRule
from vigc.processing import INSTRUCTION_TYPES

sys.path.insert(0, str(ROOT / "benchmarks"))

from authors_loop import AuthorsLoop
from models import build, pictures

TYPES = tuple(INSTRUCTION_TYPES)
# The released loop, less the first VIC call in full.
RELEASED = {"iqf_preset": "original", "iqf_full_record": False}


@pytest.fixture(scope="module")
def written():
    """A small model with random weights that writes sentences of many lengths, its processor, and pictures."""
    model, processor = build("tiny", seed=3)
    pixels = processor(images=pictures(84, "tiny", seed=4), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        return model, processor, pixels, model.get_image_embeds(pixels)


def rows_of(embeds, count, seed=0):
    """Requests for pairs about pictures, types in turn, in a random order."""
    kinds = [(index // len(TYPES), TYPES[index % len(TYPES)]) for index in range(count)]
    rows = [VigcRequest(embeds[at], "vig", kind, seed=index, key=index) for index, (at, kind) in enumerate(kinds)]
    random.Random(seed).shuffle(rows)
    return rows


def stream(written, requests, slots, **settings):
    model, processor, _, _ = written
    return {request.key: row for request, row in model.generate_stream(requests, processor, slots, **settings)}


@pytest.fixture(scope="module")
def loop_of(written):
    """What the loop writes about as many rows; it is slow, and asked once for each of its settings."""
    model, processor, pixels, _ = written

    @cache
    def records(count, batch=64, **settings):
        loop, found = AuthorsLoop(model, processor, **settings), []
        for start in range(0, count, batch):
            keys = range(start, min(start + batch, count))
            kinds = [TYPES[key % len(TYPES)] for key in keys]
            found += loop.run(pixels[[key // len(TYPES) for key in keys]], kinds)
        return found

    return records


def differences(written, rows, records):
    """Tokens that differ, over VIG's texts and the kept sentences of every call; and rows in another way."""
    tokenizer = written[1].tokenizer
    tokens = others = 0
    for key, record in enumerate(records):
        row = rows[key]
        ours = [row.vig_text, *[step["sentence"] for step in row.trace if step["sentence"]]]
        theirs = [record.texts[0], *record.kept]
        others += len(ours) != len(theirs) or row.question != record.question or (row.answer or "") != record.answer
        for one, other in zip(ours, theirs, strict=False):
            one, other = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (one, other))
            tokens += sum(a != b for a, b in zip(one, other, strict=False)) + abs(len(one) - len(other))
    return tokens, others


class Widths:
    """How many texts each decoding step of the language model is about."""

    def __init__(self, model):
        self.seen = []
        self.hook = model.language_model.register_forward_pre_hook(self.note, with_kwargs=True)

    def note(self, module, given, kwargs):
        if kwargs.get("input_ids") is not None:
            self.seen.append(len(kwargs["input_ids"]))

    def __enter__(self):
        return self.seen

    def __exit__(self, *_):
        self.hook.remove()


FULL = [
    pytest.param(500, penalty, "instruction", slots, verify, marks=pytest.mark.slow)
    for penalty in (1.0, 1.5)
    for slots, verify in ((8, False), (4, True))
]


@pytest.mark.parametrize(
    ("count", "penalty", "prompt", "slots", "verify"),
    [(12, 1.0, "question", 5, False), (8, 1.5, "instruction", 2, True), *FULL],
)
def test_greedy_search_is_the_loop_s(written, loop_of, count, penalty, prompt, slots, verify):
    settings = {**RELEASED, "num_beams": 1, "repetition_penalty": penalty, "iqf_prompt": prompt}
    with Widths(written[0]) as widths:
        rows = stream(written, rows_of(written[3], count), slots, iqf_verify_drafts=verify, **settings)
    records = loop_of(count, penalty=penalty, prompt=prompt)
    assert differences(written, rows, records) == (0, 0)
    texts = [row.vig_text for row in rows.values()]
    sentences = [step["sentence"] for row in rows.values() for step in row.trace]
    assert len({len(text.split()) for text in sentences}) > 4 and max(widths) == slots
    assert sum(record.question is not None for record in records) > count * 0.6
    # A token costs a step, but for the first of a call, which its prompt gives, and those that were read in a draft.
    tokens = sum(len(written[1].tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts + sentences)
    assert (sum(widths) < 0.95 * tokens) == verify


@pytest.mark.parametrize(("count", "slots"), [(4, 3), pytest.param(200, 8, marks=pytest.mark.slow)])
def test_beam_search_is_the_loop_s(written, loop_of, count, slots):
    with Widths(written[0]) as widths:
        rows = stream(written, rows_of(written[3], count), slots, **RELEASED)
    records = loop_of(count, batch=50, beams=5, penalty=1.5)
    assert differences(written, rows, records) == (0, 0)
    stops = [step["stop"] for row in rows.values() for step in row.trace]
    assert stops.count("unit") > len(rows) / 2, "searches end when their first sentence is decided"
    assert max(widths) == 5 * slots


@pytest.fixture(scope="module")
def healthy(written, count):
    """So many rows, each written alone."""
    return stream(written, rows_of(written[3], count), 1, iqf_steps=1)


@pytest.mark.parametrize("count", [8, pytest.param(12, marks=pytest.mark.slow)], scope="module")
@pytest.mark.parametrize("seed", range(3))
def test_a_text_without_numbers_spoils_no_other(written, healthy, count, seed):
    """Its lane is taken over by another text, shorter or longer than those beside it."""
    requests = rows_of(written[3], count, seed)
    broken = requests[seed]
    broken.image_embeds = torch.full_like(broken.image_embeds, torch.nan)
    rows = stream(written, requests, 4, iqf_steps=1)
    assert rows.pop(broken.key).answer is None
    assert {key: row.answer for key, row in rows.items()} == {key: healthy[key].answer for key in rows}


@pytest.mark.parametrize(("compositions", "count"), [(3, 8), pytest.param(20, 12, marks=pytest.mark.slow)])
def test_drawn_texts_depend_on_their_seeds_alone(written, compositions, count):
    drawn = {"do_sample": True, "temperature": 1.3, "top_p": 0.95, "repetition_penalty": 1.2}
    rows = rows_of(written[3], count)
    alone = {}
    for row in rows:
        alone |= stream(written, [row], 1, **drawn)
    assert len({row.vig_text for row in alone.values()}) > count - 2
    for number in range(compositions):
        draw = random.Random(number)
        some = draw.sample(rows, draw.randint(2, count))
        for key, row in stream(written, some, draw.randint(2, 8), **drawn).items():
            assert (row.vig_text, row.answer) == (alone[key].vig_text, alone[key].answer)


@pytest.mark.parametrize(("unit", "text"), [("paragraph", "One.\n\n"), ("sentence", "One… "), ("sentence", "一。")])
def test_units_end_in_vocabularies_of_bytes(written, unit, text):
    """Their pieces are no text: "Ċ" is a line's end, and other marks come in parts."""
    alphabet = {piece: index for index, piece in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    inner = Tokenizer(BPE(alphabet, []))
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="a")
    decoding = Decoding(written[0], SimpleNamespace(tokenizer=tokenizer), written[0].generation_config)
    begun = Text(UnitRule(unit))
    ends = []
    for token in tokenizer(text)["input_ids"]:
        begun.ids.append(token)
        decoding.note_unit(begun)
        ends.append(begun.unit)
    assert ends == [None] * (len(ends) - 1) + [text.strip()]


def test_slots_are_refilled(written):
    """Rows end in another order than they began in, and no more texts are written at a time than there are slots."""
    with Widths(written[0]) as widths:
        rows = stream(written, rows_of(written[3], 15), 4, iqf_steps=2)
    assert list(rows) != sorted(rows) and len(rows) == 15
    assert max(widths) == 4
    full = len(widths) - widths[::-1].index(4)
    assert sum(width == 4 for width in widths[:full]) > 0.9 * full, "slots stay full as long as there are rows"


@pytest.mark.parametrize("count", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_drafts_save_steps_where_they_are_right(written, count):
    requests = [VigcRequest(written[3][index], "vig", "detail", key=index) for index in range(count)]
    found = {}
    for verify in (False, True):
        with Widths(written[0]) as widths:
            rows = stream(
                written, requests, 1, iqf_prompt="instruction", iqf_full_record=True, iqf_verify_drafts=verify
            )
        found[verify] = {key: (row.answer, [step["stop"] for step in row.trace]) for key, row in rows.items()}, widths
    assert found[True][0] == found[False][0]
    assert len(found[True][1]) < 0.95 * len(found[False][1])


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"iqf_steps": -1, "iqf_full_record": True},
        {**RELEASED, "num_beams": 2},
        {"iqf_preset": "original", "num_beams": 2},
        {"do_sample": True, "temperature": 1.3},
        {"iqf_verify_drafts": True, "iqf_steps": 0},
    ],
    ids=lambda settings: "-".join(map(str, settings.values())) or "default",
)
def test_vic_begins_while_vig_writes_its_draft(written, settings):
    """Where slots are free; what was begun for a text that turns out to be no pair leaves no trace."""
    requests = rows_of(written[3], 4)
    found, steps = {}, {}
    for ahead in (False, True):
        with Widths(written[0]) as widths:
            rows = stream(written, requests, 16, iqf_ahead=ahead, **settings)
        found[ahead] = {
            key: (row.question, row.reason, row.answer, row.full_answer, [step["stop"] for step in row.trace])
            for key, row in rows.items()
        }
        steps[ahead] = len(widths)
        assert max(widths) <= 16
    assert found[True] == found[False] and steps[True] < steps[False]


LATE = {"iqf_full_record": True, "max_new_tokens": 80}


@pytest.fixture(scope="module")
def in_time(written):
    """Six rows, each written alone and nothing ahead."""
    return stream(written, rows_of(written[3], 6), 1, iqf_ahead=False, **LATE)


@pytest.mark.parametrize("silence", [4, 44, 160, *(pytest.param(n, marks=pytest.mark.slow) for n in (24, 52, 76))])
def test_rows_come_before_what_is_written_ahead(written, in_time, silence):
    """Slots that hold calls of one row before their time are given to rows that come later."""
    requests = rows_of(written[3], 6)

    def late():
        for place, request in enumerate(requests):
            yield request
            for _ in range(silence if place % 2 == 0 else 0):  # then two at once
                if len(rows) <= place:
                    yield None

    rows = {}
    with Widths(written[0]) as widths:
        for request, row in written[0].generate_stream(late(), written[1], 3, **LATE):
            rows[request.key] = row
    assert max(widths) == 3
    assert {key: (row.question, row.answer, row.full_answer) for key, row in rows.items()} == {
        key: (row.question, row.answer, row.full_answer) for key, row in in_time.items()
    }


@pytest.mark.parametrize(("sentences", "least"), [(270, 240), pytest.param(400, 350, marks=pytest.mark.slow)])
def test_a_long_chain_of_short_sentences_is_no_trouble(written, monkeypatch, sentences, least):
    """VIC may be over with hundreds of calls before VIG's draft ends."""
    model, processor, _, embeds = written
    chosen = Decoding.choose
    dot = next(index for word, index in processor.tokenizer.get_vocab().items() if word.endswith("."))
    stop = processor.tokenizer.eos_token_id
    asked = next(word for word in processor.tokenizer.get_vocab() if word.endswith("?"))
    begin = processor.tokenizer(f"Question: {asked} Answer:", add_special_tokens=False)["input_ids"]

    def scripted(self, texts, logits):
        chosen(self, texts, logits)
        for text in texts:
            place = len(text.ids) - 1
            if text.whole:
                text.ids[-1] = begin[place] if place < len(begin) else dot if place < sentences else stop
            else:
                text.ids[-1] = dot

    monkeypatch.setattr(Decoding, "choose", scripted)
    settings = {"iqf_steps": -1, "iqf_split": "original", "max_new_tokens": sentences + 50}
    request = VigcRequest(embeds[0], "vig", "detail")
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack()) + 200)
    try:
        ((_, row),) = model.generate_stream([request], processor, 16, **settings)
    finally:
        sys.setrecursionlimit(limit)
    assert row.step > least


def test_settings_of_rows_and_rows_that_depend_on_others(written):
    model, processor, _, embeds = written
    answers, open_rows = [], 1

    def requests():
        nonlocal open_rows
        yield VigcRequest(embeds[0], "vig", "detail", key="first")
        while open_rows or len(answers) == 1:
            if len(answers) == 1:
                question = answers[0].question
                yield VigcRequest(embeds[1], "vic", None, question, key="beams", settings={"num_beams": 3})
                yield VigcRequest(embeds[1], "vic", None, question, key="greedy")
                yield VigcRequest(embeds[1], "vig", "detail", correct=False, key="draft")
                answers.append(None)
                open_rows += 3
            else:
                yield None

    rows = {}
    for request, row in model.generate_stream(requests(), processor, 3, iqf_steps=1):
        rows[request.key] = row
        open_rows -= 1
        if request.key == "first":
            answers.append(row)
    assert set(rows) == {"first", "beams", "greedy", "draft"}
    given = {"image_embeds": embeds[1:2], "mode": "vic", "questions": [answers[0].question]}
    for key, beams in (("beams", 3), ("greedy", 1)):
        out = model.generate(**given, processor=processor, iqf_steps=1, num_beams=beams, return_dict_in_generate=True)
        assert out.answers == [rows[key].answer]
    assert rows["draft"].answer == rows["draft"].draft and rows["draft"].trace == []


def test_what_a_stream_cannot_do_is_said(written):
    model, processor, _, embeds = written
    with pytest.raises(ValueError, match="max_slots=0 is too small"):
        list(model.generate_stream([], processor, 0))
    with pytest.raises(ValueError, match="no request is being decoded"):
        list(model.generate_stream([None], processor, 2))
    with pytest.raises(ValueError, match="mode='plain' is not known"):
        list(model.generate_stream([VigcRequest(embeds[0], "plain")], processor, 2))
    with pytest.raises(ValueError, match="do not support colour"):
        list(model.generate_stream([VigcRequest(embeds[0], "vic", question="What?")], processor, 2, colour="red"))
    with pytest.raises(TypeError, match="colour"):
        list(model.generate_stream([{"image_embeds": embeds[0], "colour": "red"}], processor, 2))
    assert list(model.generate_stream([], processor, 2)) == []
