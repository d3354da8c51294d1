"""The slots in which requests are decoded, and the schedule that says which request takes the next free one."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from .beams_vigc import BeamSearch
from .decoding_vigc import Decoding, Text
from .requests_vigc import Completion, Request, Rollout

T = TypeVar("T")

_END: Any = object()


@dataclass(eq=False, slots=True)
class Slot:
    """A request that is being decoded.

    Args:
        request: The request.
        decoding: Its decoding settings.
        rollout: Waits for its completion; None while it is decoded ahead, before its rollout has asked for it.
        lanes: Its sequences in the batch: one, or one for each beam; none when it is over.
        text: Its tokens; of a beam search, the search has them.
        search: The beam search, if it is one.
        prompt_length: Tokens of its prompt, visual ones included.
        completion: Its completion, once it is over.
        draft: Speculation: token ids that are read behind the prompt, to be verified.
        ahead: Speculation: requests that may follow it.
        begun: Speculation: the first segments for which such a request was asked for.
    """

    request: Request
    decoding: Decoding
    rollout: Rollout[Any] | None
    lanes: list[int] = field(default_factory=list)
    text: Text = field(init=False)
    search: BeamSearch | None = None
    prompt_length: int = 0
    completion: Completion | None = None
    draft: list[int] = field(default_factory=list)
    ahead: list[Slot] = field(default_factory=list)
    begun: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        stop, lookahead = self.request.stop, self.request.lookahead
        rule = lookahead.until if stop is None and lookahead is not None else stop
        self.text = Text(rule, stop is None, self.request.sampling.seed)


class Schedule(Generic[T]):
    """Which rollout takes the next free slot.

    First those that were interrupted, then the rest of the batch, then deferred requests, then the next batch. A
    rollout that goes on keeps its slot and never comes here.

    Args:
        rollouts: Taken one by one, and never before a slot is free: the order alone decides which requests are
            decoded together. None ends a batch. None without a rollout before it, an empty batch, says that none is
            ready: the engine decodes a token and asks again.
    """

    def __init__(self, rollouts: Iterable[Rollout[T] | None]) -> None:
        self._coming = iter(rollouts)
        self._interrupted: deque[tuple[Rollout[T], Request]] = deque()
        self._deferred: deque[tuple[Rollout[T], Request]] = deque()
        self._running: dict[Rollout[T], Request] = {}  # in the order in which they began
        self._ended: deque[T] = deque()
        self._batch_ended = True
        self._exhausted = False
        self.calling = False  # whether the caller's code runs, whose errors are not the engine's

    def take(self) -> tuple[Rollout[T], Request] | None:
        """The rollout that begins or resumes next, with its request; None if none is ready."""
        while True:
            if self._interrupted:
                return self._begun(*self._interrupted.popleft())
            if self._batch_ended and self._deferred:
                return self._begun(*self._deferred.popleft())
            if self._exhausted:
                return None
            self.calling = True
            rollout = next(self._coming, _END)
            self.calling = False
            if rollout is _END:
                self._exhausted = self._batch_ended = True
            elif rollout is not None:
                self._batch_ended = False
                request = self.send(rollout, None)
                if request is not None:
                    return self._begun(rollout, request)
            elif self._batch_ended:
                return None
            else:
                self._batch_ended = True
                if self._ended:  # results are handed out before another batch is loaded
                    return None

    def _begun(self, rollout: Rollout[T], request: Request) -> tuple[Rollout[T], Request]:
        self._running[rollout] = request
        return rollout, request

    def send(self, rollout: Rollout[T], completion: Completion | None) -> Request | None:
        """Sends a rollout its completion; returns its next request, or None if it ended or waits.

        Args:
            rollout: The rollout.
            completion: None to begin.
        """
        self.calling = True
        try:
            request = next(rollout) if completion is None else rollout.send(completion)
        except StopIteration as end:
            self.calling = False
            self._running.pop(rollout, None)
            self._ended.append(end.value)
            return None
        self.calling = False
        if completion is not None and request.deferred:
            del self._running[rollout]
            self._deferred.append((rollout, request))
            return None
        if completion is not None:
            self._running[rollout] = request
        return request

    def results(self) -> Iterator[T]:
        """What rollouts returned since this was asked last."""
        while self._ended:
            yield self._ended.popleft()

    def interrupt(self) -> int:
        """Has the requests that are being decoded asked again, before all others; returns how many."""
        count = len(self._running)
        self._interrupted.extendleft(reversed(self._running.items()))
        self._running.clear()
        return count

    @property
    def finished(self) -> bool:
        """Whether nothing is left to begin."""
        return self._exhausted and not self._deferred and not self._interrupted
