"""Runs rollouts in batches, for a local model, or concurrently, for a server."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from threading import Event
from typing import Any

from vigc.errors import RequestRefusedError
from vigc.modeling_vigc.requests_vigc import Completion, Request, Rollout

# The error of a refused request is raised at the `yield` of its rollout, and ends the rollout unless it is caught.
Outcome = Completion | RequestRefusedError


@dataclass(slots=True)
class ActiveRollout:
    """A started rollout.

    Args:
        rollout: The generator.
        request: Its current request; None after it has returned.
        result: Its return value.
    """

    rollout: Rollout
    request: Request | None = None
    result: Any = None

    def resume(self, outcome: Outcome | None = None) -> None:
        """Sends the outcome of its request (None to start) and runs it to the next request or to its end."""
        try:
            if isinstance(outcome, RequestRefusedError):
                self.request = self.rollout.throw(outcome)
            else:
                # The first value sent to a generator must be None.
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
    """Runs rollouts in rounds: each round completes one request of every running rollout as a batch.

    Args:
        rollouts: The rollouts, consumed when there is room. None: no rollout is ready, continue with the running ones.
        complete: Completes a batch of requests; returns their outcomes in order.
        batch_size: Number of rollouts that run together; None for all.

    Yields:
        The return values of rollouts, in the order in which they end.
    """
    waiting, running = _Waiting(rollouts), list[ActiveRollout]()
    while True:
        # 1. Start rollouts while there is room.
        while (batch_size is None or len(running) < batch_size) and (ready := waiting.next(bool(running))):
            running.append(begin(ready))
        if not running:
            return
        # 2. Complete one request of each rollout.
        asking = [(one, one.request) for one in running if one.request is not None]
        outcomes = complete([request for _, request in asking]) if asking else ()
        # 3. Run each rollout to its next request or to its end.
        for (one, _), outcome in zip(asking, outcomes, strict=True):
            one.resume(outcome)
        yield from (one.result for one in running if one.request is None)
        running = [one for one in running if one.request is not None]


def run_concurrently(
    rollouts: Iterable[Rollout | None], complete: Callable[[Request, Event], Completion], workers: int
) -> Iterator[Any]:
    """Runs rollouts concurrently, with one request of each in flight.

    At most `workers` requests are submitted, so that no request is queued when the run has to stop.

    Args:
        rollouts: The rollouts, consumed when there is room and run in the caller's thread. None: as in
            `run_in_batches`.
        complete: Completes a request in a worker thread; the event interrupts its waits.
        workers: Number of requests in flight.

    Yields:
        The return values of rollouts, in the order in which they end.

    Raises:
        Exception: The error of `complete`, except for a `RequestRefusedError`, which is raised inside the rollout.
            Requests in flight are completed first and sent to their rollouts, so that no paid reply is lost.
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
                    outcome = _outcome(future)  # may raise, so the rollout stays in `running` until then
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
    """Waits for the requests in flight and sends completions to rollouts; their next requests are not submitted."""
    for future in wait(running).done:
        if future.exception() is None:
            # The error that ended the run is the one to report.
            with suppress(Exception):
                running[future].resume(future.result())


class _Waiting:
    """Rollouts that have not started.

    Args:
        rollouts: The rollouts, as in [`TextGenerator.run`].
    """

    def __init__(self, rollouts: Iterable[Rollout | None]) -> None:
        self._rollouts = iter(rollouts)

    def next(self, others: bool) -> Rollout | None:
        """The next rollout; None at the end or, while `others` run, if the iterable yields None."""
        for rollout in self._rollouts:
            if rollout is not None or others:
                return rollout
        return None


def _outcome(future: Future[Completion]) -> Outcome:
    try:
        return future.result()
    except RequestRefusedError as error:
        return error
