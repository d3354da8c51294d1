"""Combines several generators into one and routes each request to the generator that it names."""

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
    """A [`TextGenerator`] over several; `Request.to` names the generator of a request.

    Args:
        generators: The generators by name: "writer", and others such as "checker".
        batch_size: Number of rollouts that run together; None for all rollouts of a call of `run`.
    """

    generators: Mapping[str, TextGenerator]
    batch_size: int | None = 8

    @property
    def identity(self) -> ModelIdentity:
        """The identity of the writer."""
        return self.generators["writer"].identity

    def encode(self, image: Any) -> dict[str, Any]:
        """The encodings of all generators, by name."""
        return {name: generator.encode(image) for name, generator in self.generators.items()}

    def run(self, rollouts: Iterable[Rollout | None]) -> Iterator[Any]:
        """See [`TextGenerator.run`].

        Raises:
            GenerationError: A request names a generator that does not exist.
        """
        return run_in_batches(rollouts, self._complete, self.batch_size)

    def _complete(self, requests: Sequence[Request]) -> list[Outcome]:
        """Completes the requests of a round, one generator after the other."""
        outcomes: dict[int, Outcome] = {}
        for name in sorted({request.to for request in requests}):
            if name not in self.generators:
                known = ", ".join(sorted(self.generators))
                raise GenerationError(f"A request is for the generator {name!r}, but there are only {known}.")
            mine = [_one(place, request) for place, request in enumerate(requests) if request.to == name]
            outcomes |= dict(self.generators[name].run(mine))
        return [outcomes[place] for place in range(len(requests))]


def _one(place: int, request: Request) -> Rollout[tuple[int, Outcome]]:
    """A rollout of one request, with the image encodings of its generator."""
    images = tuple(image[request.to] if isinstance(image, dict) else image for image in request.images)
    try:
        completion = yield replace(request, images=images)
    except RequestRefusedError as error:
        return place, error
    return place, completion
