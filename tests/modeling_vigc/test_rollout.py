"""A row's calls, one by one: what is asked, with which seed, and when it is over."""

from itertools import cycle, islice

import pytest
import torch

from vigc.modeling_vigc import IqfSettings
from vigc.modeling_vigc.requests_vigc import Completion
from vigc.modeling_vigc.rollout_vigc import RolloutSettings, iqf, vig_then_iqf

PAIR = "Question: What is there? Answer: There is a red circle."
MOST_CALLS = 40


def rollout(processor, seed=None, max_new_tokens=24, **settings):
    """IQF on a question or, with a seed, VIG first."""
    asked = RolloutSettings(processor, IqfSettings(**settings), {"max_new_tokens": max_new_tokens}, max_new_tokens)
    if seed is not None:
        return vig_then_iqf(torch.zeros(1, 1), "detail", asked, seed)
    return iqf(torch.zeros(1, 1), "What is there?", None, asked)


def completion(processor, text, reason):
    ids = processor.tokenizer(text, add_special_tokens=False)["input_ids"]
    return Completion(text, reason, ids, [-1.0] * len(ids))


def played(running, texts, processor):
    """The rollout's requests if these are the completions, and its result; None if there are more than `MOST_CALLS`."""
    requests = []
    try:
        request = next(running)
        for text in islice(cycle(texts), MOST_CALLS):
            requests.append(request)
            request = running.send(completion(processor, text, "unit"))
    except StopIteration as end:
        return requests, end.value
    return requests, None


@pytest.mark.parametrize("limit", [1, 10, 24, 25])
def test_without_a_number_of_steps_an_answer_ends_at_the_limit(limit, processor):
    sentence = "There is a red circle."  # written again and again, with no end of sequence
    length = len(processor.tokenizer(sentence, add_special_tokens=False)["input_ids"])
    calls, pair = played(rollout(processor, max_new_tokens=limit, iqf_steps=-1), [sentence], processor)
    assert pair is not None, f"more than {MOST_CALLS} calls"
    assert len(calls) == len(pair.trace) == -(-limit // length)
    assert pair.tokens == len(calls) * length >= limit > pair.tokens - length


def test_with_a_number_of_steps_the_limit_is_each_call_s(processor):
    running = rollout(processor, max_new_tokens=2, iqf_steps=4)
    calls, pair = played(running, ["There is a red circle."], processor)
    assert pair is not None and len(calls) == 4


def test_each_step_of_each_row_draws_with_its_own_seed(processor):
    seeds = {}
    for seed in (0, 1, 2**31):
        texts = [PAIR, *["There is a red circle."] * 5]
        calls, _ = played(rollout(processor, seed, iqf_steps=5), texts, processor)
        seeds[seed] = [call.sampling.seed for call in calls]
        again, _ = played(rollout(processor, seed, iqf_steps=5), texts, processor)
        assert [call.sampling.seed for call in again] == seeds[seed]
    assert [len(row) for row in seeds.values()] == [6, 6, 6]
    assert len({seed for row in seeds.values() for seed in row}) == 18


def test_a_call_that_is_begun_ahead_has_the_seed_of_the_one_it_becomes(processor):
    running = rollout(processor, 3)
    ahead = next(running).lookahead.follow(completion(processor, PAIR, ""))
    assert ahead.same_as(running.send(completion(processor, PAIR, "eos")))
