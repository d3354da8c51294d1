"""Several generators as one: each request goes to the one that it names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from vigc.errors import GenerationError, RequestRefusedError
from vigc.modeling_vigc.requests_vigc import Request, Rollout

from .generator import ModelIdentity, TextGenerator
from .scheduling import Outcome, run_in_batches


@dataclass(frozen=True)
class RoutedGenerator:
    """A [`TextGenerator`] of several: `Request.to` names the one that is asked.

    Args:
        generators: By name: "writer", and "checker" or others.
        batch_size: How many rollouts run at a time; None: all that are given to `run`.
    """

    generators: Mapping[str, TextGenerator]
    batch_size: int | None = 8

    @property
    def identity(self) -> ModelIdentity:
        """The writer's."""
        return self.generators["writer"].identity

    def encode(self, image: Any) -> dict[str, Any]:
        """What each generator's `encode` returned, by its name."""
        return {name: generator.encode(image) for name, generator in self.generators.items()}

    def run(self, rollouts: Iterable[Rollout | None]) -> Iterator[Any]:
        """See [`TextGenerator.run`].

        Raises:
            GenerationError: A request is for a generator that is not there.
        """
        return run_in_batches(rollouts, self._complete, self.batch_size)

    def _complete(self, requests: Sequence[Request]) -> list[Outcome]:
        """The requests of a round, those of each generator together."""
        outcomes: dict[int, Outcome] = {}
        for name in sorted({request.to for request in requests}):
            if name not in self.generators:
                known = ", ".join(sorted(self.generators))
                raise GenerationError(f"A request is for the generator {name!r}, but there are only {known}.")
            mine = [_one(place, request) for place, request in enumerate(requests) if request.to == name]
            outcomes |= dict(self.generators[name].run(mine))
        return [outcomes[place] for place in range(len(requests))]


def _one(place: int, request: Request) -> Rollout[tuple[int, Outcome]]:
    """A rollout of one request, whose images are those of its own generator."""
    images = tuple(image[request.to] if isinstance(image, dict) else image for image in request.images)
    try:
        completion = yield replace(request, images=images)
    except RequestRefusedError as error:
        return place, error
    return place, completion
