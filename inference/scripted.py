"""A generator without a model, for tests, dry runs and examples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from vigc.modeling_vigc.requests_vigc import Completion, Request, Rollout

from .generator import ModelIdentity
from .scheduling import run_in_batches


@dataclass(frozen=True)
class ScriptedGenerator:
    """A [`TextGenerator`] whose completions come from a function.

    Args:
        reply: Returns the completion of a request, or its text.
        batch_size: Number of rollouts that run together; None for all rollouts of a call of `run`.
        identity: The reported identity.
    """

    reply: Callable[[Request], Completion | str]
    batch_size: int | None = 8
    identity: ModelIdentity = field(default_factory=lambda: ModelIdentity("scripted", kind="scripted"))

    def encode(self, image: Any) -> Any:
        """The image itself."""
        return image

    def run(self, rollouts: Iterable[Rollout | None]) -> Iterator[Any]:
        """See [`TextGenerator.run`]."""
        return run_in_batches(rollouts, self._complete, self.batch_size)

    def _complete(self, requests: Sequence[Request]) -> list[Completion]:
        return [self._completion(request) for request in requests]

    def _completion(self, request: Request) -> Completion:
        """The reply, cut by the request's stop rule."""
        found = self.reply(request)
        if isinstance(found, Completion):
            return found
        end = None if request.stop is None else request.stop.end(found, complete=True)
        return Completion(found, "eos") if end is None else Completion(found[:end], "unit")
