"""The slots in which requests are decoded, and the schedule that assigns free slots."""

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
        rollout: The rollout that waits for the completion; None if the request was begun ahead.
        lanes: Its sequences in the batch: one, or one per beam; empty when it is finished.
        text: Its tokens; for a beam search, they are in `search`.
        search: The beam search, if there is one.
        prompt_length: Number of prompt tokens, including visual tokens.
        completion: The completion, when it is finished.
        draft: Speculation: token ids that are read after the prompt, to be verified.
        ahead: Speculation: slots of requests that may follow.
        begun: Speculation: the first segments for which a following request was already considered.
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
    """The order in which rollouts get free slots.

    Interrupted rollouts come first, then the rest of the batch, then deferred requests, then the next batch. A running
    rollout keeps its slot and is not scheduled again.

    Args:
        rollouts: The rollouts, read one by one when a slot is free, so that only their order decides which requests
            are decoded together. None ends a batch. An empty batch means that no rollout is ready: the engine decodes
            a token and tries again.
    """

    def __init__(self, rollouts: Iterable[Rollout[T] | None]) -> None:
        self._coming = iter(rollouts)
        self._interrupted: deque[tuple[Rollout[T], Request]] = deque()
        self._deferred: deque[tuple[Rollout[T], Request]] = deque()
        self._running: dict[Rollout[T], Request] = {}  # in the order in which they began
        self._ended: deque[T] = deque()
        self._batch_ended = True
        self._exhausted = False
        self.calling = False  # whether the caller's code is running, whose errors are not the engine's

    def take(self) -> tuple[Rollout[T], Request] | None:
        """The rollout that begins or resumes next, and its request; None if no rollout is ready."""
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
                if self._ended:  # yield results before the next batch is loaded
                    return None

    def _begun(self, rollout: Rollout[T], request: Request) -> tuple[Rollout[T], Request]:
        self._running[rollout] = request
        return rollout, request

    def send(self, rollout: Rollout[T], completion: Completion | None) -> Request | None:
        """Sends a rollout its completion; returns its next request, or None if it ended or was deferred.

        Args:
            rollout: The rollout.
            completion: The completion, or None to begin.
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
        """The results of rollouts that ended since the last call."""
        while self._ended:
            yield self._ended.popleft()

    def interrupt(self) -> int:
        """Schedules the requests that are being decoded again, before all others; returns their number."""
        count = len(self._running)
        self._interrupted.extendleft(reversed(self._running.items()))
        self._running.clear()
        return count

    @property
    def finished(self) -> bool:
        """Whether no rollout is left to begin."""
        return self._exhausted and not self._deferred and not self._interrupted
