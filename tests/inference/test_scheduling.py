"""Rollouts in batches and with many requests in flight: none is left behind, and no reply that was paid for is lost."""

from threading import Barrier, Event

import pytest

from vigc.errors import GenerationError, RequestRefusedError
from vigc.inference import Completion, Request, RoutedGenerator, ScriptedGenerator
from vigc.inference.scheduling import run_concurrently, run_in_batches


def ask(name):
    completion = yield Request(name)
    return completion.text


def echo(requests):
    return [Completion(request.prompt, "eos") for request in requests]


COMING = [
    ["a", "b", None, "c", "d"],
    [None, "a", "b", "c", "d"],
    ["a", None, None, "b", None, "c", "d", None],
    ["a", "b", "c", "d"],
]


@pytest.mark.parametrize("coming", COMING)
@pytest.mark.parametrize("size", [1, 2, 3, None])
def test_no_rollout_behind_a_none_is_left_behind(coming, size):
    batches = run_in_batches((name and ask(name) for name in coming), echo, size)
    assert list(batches) == ["a", "b", "c", "d"]
    flying = run_concurrently(
        (name and ask(name) for name in coming), lambda request, stop: echo([request])[0], size or 4
    )
    assert sorted(flying) == ["a", "b", "c", "d"]


def test_what_is_in_flight_when_a_request_fails_is_handed_over():
    begun, stopped, kept = Barrier(4, timeout=30), Event(), []

    def complete(request, stop):
        begun.wait()
        if request.prompt == "1":
            raise GenerationError("status 403")
        stop.wait(30)  # until the failure is known
        stopped.set()
        return Completion(request.prompt, "eos")

    def keep(name):
        kept.append((yield Request(name)).text)
        yield Request("more")  # is not asked any more

    with pytest.raises(GenerationError, match="status 403"):
        list(run_concurrently(map(keep, "0123456"), complete, 4))
    assert stopped.is_set() and sorted(kept) == ["0", "2", "3"]


def test_a_refused_request_ends_its_own_rollout_only_also_behind_a_route():
    class Refusing(ScriptedGenerator):
        def _completion(self, request):
            return RequestRefusedError("no") if request.prompt == "b" else super()._completion(request)

    def brave(name):
        try:
            return (yield from ask(name))
        except RequestRefusedError:
            return "refused"

    routed = RoutedGenerator({"writer": Refusing(lambda request: request.prompt)})
    assert list(routed.run(map(brave, "abc"))) == ["a", "refused", "c"]
