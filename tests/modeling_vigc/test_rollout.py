"""A row's calls, one by one: what is asked, with which seed, and when it is over."""

from itertools import cycle, islice

import pytest
import torch

from vigc.modeling_vigc import IqfSettings, VigcRequest
from vigc.modeling_vigc.decoding_vigc import Written
from vigc.modeling_vigc.rollout_vigc import Dialogue

PAIR = "Question: What is there? Answer: There is a red circle."
MOST_CALLS = 40


def dialogue(model, processor, request=None, max_new_tokens=24, **settings):
    request = request or VigcRequest(torch.zeros(1, 1), mode="vic", question="What is there?")
    decoding, _ = model._correction(processor, {"max_new_tokens": max_new_tokens}, None)
    return Dialogue(request, processor, decoding, IqfSettings(**settings))


def played(row, texts, tokenizer):
    """The row's calls if they write these texts, and its result; None if it asks for more than `MOST_CALLS`."""
    calls, running = [], row.run()
    try:
        call = next(running)
        for text in islice(cycle(texts), MOST_CALLS):
            calls.append(call)
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
            call = running.send(Written(ids, [-1.0] * len(ids), text, "unit"))
    except StopIteration as end:
        return calls, end.value[1]
    return calls, None


@pytest.mark.parametrize("limit", [1, 10, 24, 25])
def test_without_a_number_of_steps_an_answer_ends_at_the_limit(limit, model, processor):
    sentence = "There is a red circle."  # written again and again, with no end of sequence
    length = len(processor.tokenizer(sentence, add_special_tokens=False)["input_ids"])
    row = dialogue(model, processor, max_new_tokens=limit, iqf_steps=-1)
    calls, pair = played(row, [sentence], processor.tokenizer)
    assert pair is not None, f"more than {MOST_CALLS} calls"
    assert len(calls) == len(pair.trace) == -(-limit // length)
    assert pair.tokens == len(calls) * length >= limit > pair.tokens - length


def test_with_a_number_of_steps_the_limit_is_each_call_s(model, processor):
    row = dialogue(model, processor, max_new_tokens=2, iqf_steps=4)
    calls, pair = played(row, ["There is a red circle."], processor.tokenizer)
    assert pair is not None and len(calls) == 4


def test_each_step_of_each_row_draws_with_its_own_seed(model, processor):
    seeds = {}
    for seed in (0, 1, 2**31):
        request = VigcRequest(torch.zeros(1, 1), task="detail", seed=seed)
        texts = [PAIR, *["There is a red circle."] * 5]
        calls, _ = played(dialogue(model, processor, request, iqf_steps=5), texts, processor.tokenizer)
        seeds[seed] = [call.seed for call in calls]
        again, _ = played(dialogue(model, processor, request, iqf_steps=5), texts, processor.tokenizer)
        assert [call.seed for call in again] == seeds[seed]
    assert [len(row) for row in seeds.values()] == [6, 6, 6]
    assert len({seed for row in seeds.values() for seed in row}) == 18


def test_a_call_that_is_begun_ahead_has_the_seed_of_the_one_it_becomes(model, processor):
    request = VigcRequest(torch.zeros(1, 1), task="detail", seed=3)
    ids = processor.tokenizer(PAIR, add_special_tokens=False)["input_ids"]
    running = dialogue(model, processor, request).run()
    ahead = next(running).follow(Written(ids, [-1.0] * len(ids), PAIR, ""))
    assert ahead.writes_as(running.send(Written(ids, [-1.0] * len(ids), PAIR, "eos")))
