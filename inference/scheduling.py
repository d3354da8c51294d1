"""Runs rollouts: in batches, for a model on this machine, or many at a time, for a server."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from threading import Event
from typing import Any

from vigc.errors import RequestRefusedError
from vigc.modeling_vigc.requests_vigc import Completion, Request, Rollout

# A refused request: the error is raised where its rollout has yielded it, and ends that rollout unless it is caught.
Outcome = Completion | RequestRefusedError


@dataclass(slots=True)
class ActiveRollout:
    """A rollout that has begun.

    Args:
        rollout: The generator.
        request: What it asks; None once it has returned.
        result: What it returned.
    """

    rollout: Rollout
    request: Request | None = None
    result: Any = None

    def resume(self, outcome: Outcome | None = None) -> None:
        """Hands over the outcome of its request (None to begin) and runs it to the next request, or to its end."""
        try:
            if isinstance(outcome, RequestRefusedError):
                self.request = self.rollout.throw(outcome)
            else:
                # What `send` takes first is None, as every generator wants it.
                self.request = self.rollout.send(outcome)  # type: ignore[arg-type]
        except StopIteration as end:
            self.request, self.result = None, end.value


def begin(rollout: Rollout) -> ActiveRollout:
    """Runs a rollout to its first request."""
    begun = ActiveRollout(rollout)
    begun.resume()
    return begun


def run_in_batches(
    rollouts: Iterable[Rollout | None],
    complete: Callable[[Sequence[Request]], Sequence[Outcome]],
    batch_size: int | None,
) -> Iterator[Any]:
    """Runs rollouts in rounds: one request of each is completed together with those of the others.

    Args:
        rollouts: Taken as there is room. None: no rollout is ready, those that run come first.
        complete: Completes a batch of requests; an outcome for each, in their order.
        batch_size: How many rollouts run at a time; None: all that are given.

    Yields:
        What rollouts return, in the order in which they end.
    """
    waiting, running = _Waiting(rollouts), list[ActiveRollout]()
    while True:
        # 1. Begin rollouts while there is room.
        while (batch_size is None or len(running) < batch_size) and (ready := waiting.next(bool(running))):
            running.append(begin(ready))
        if not running:
            return
        # 2. Complete one request of each.
        asking = [(one, one.request) for one in running if one.request is not None]
        outcomes = complete([request for _, request in asking]) if asking else ()
        # 3. Run each to its next request, or to its end.
        for (one, _), outcome in zip(asking, outcomes, strict=True):
            one.resume(outcome)
        yield from (one.result for one in running if one.request is None)
        running = [one for one in running if one.request is not None]


def run_concurrently(
    rollouts: Iterable[Rollout | None], complete: Callable[[Request, Event], Completion], workers: int
) -> Iterator[Any]:
    """Runs rollouts with one request of each in flight.

    No more requests are handed out than are at work, so that nothing waits in line when the work has to stop.

    Args:
        rollouts: Taken as there is room, and run in the caller's thread. None: as for `run_in_batches`.
        complete: Completes a request, in a thread of its own; the event tells it to stop waiting.
        workers: How many requests are in flight.

    Yields:
        What rollouts return, in the order in which they end.

    Raises:
        Exception: What `complete` raises, except for a `RequestRefusedError`, which its rollout gets. Before that the
            requests in flight come to their end, and rollouts get the completions: no reply is lost that was paid for.
    """
    stop, waiting = Event(), _Waiting(rollouts)
    running: dict[Future[Completion], ActiveRollout] = {}

    def submit(one: ActiveRollout) -> None:
        if one.request is not None:
            running[pool.submit(complete, one.request, stop)] = one

    def begun() -> Iterator[ActiveRollout]:
        while len(running) < workers and (ready := waiting.next(bool(running))):
            one = begin(ready)
            submit(one)
            yield one

    with ThreadPoolExecutor(workers) as pool:
        try:
            yield from (one.result for one in begun() if one.request is None)
            while running:
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    outcome = _outcome(future)  # its error ends the run, while the rollout is still among the running
                    one = running.pop(future)
                    one.resume(outcome)
                    submit(one)
                    if one.request is None:
                        yield one.result
                    yield from (one.result for one in begun() if one.request is None)
        except BaseException:
            stop.set()
            _hand_over(running)
            raise


def _hand_over(running: dict[Future[Completion], ActiveRollout]) -> None:
    """Waits for the requests in flight and gives rollouts their completions; what they ask next is not asked."""
    for future in wait(running).done:
        if future.exception() is None:
            # The error that ended the run is the one to be told.
            with suppress(Exception):
                running[future].resume(future.result())


class _Waiting:
    """Rollouts that have not begun.

    Args:
        rollouts: As a generator's `run` takes them.
    """

    def __init__(self, rollouts: Iterable[Rollout | None]) -> None:
        self._rollouts = iter(rollouts)

    def next(self, others: bool) -> Rollout | None:
        """The next rollout; None at the end or, while there are `others` that run, where the iterable has None."""
        for rollout in self._rollouts:
            if rollout is not None or others:
                return rollout
        return None


def _outcome(future: Future[Completion]) -> Outcome:
    try:
        return future.result()
    except RequestRefusedError as error:
        return error
