"""The benchmarks by name."""

from __future__ import annotations

from vigc.errors import EvaluationError

from .base import Benchmark, DataSettings
from .choice import MMBench
from .llava import LlavaBench
from .objects import Chair, Pope
from .vqa import AOkVqa, OkVqa

BENCHMARKS: dict[str, type[Benchmark]] = {
    benchmark.name: benchmark for benchmark in (LlavaBench, MMBench, OkVqa, AOkVqa, Chair, Pope)
}


def open_benchmark(name: str, settings: DataSettings) -> Benchmark:
    """Creates a benchmark.

    Raises:
        EvaluationError: The name is unknown, or a setting is invalid or has no effect.
    """
    if name not in BENCHMARKS:
        raise EvaluationError(f"benchmark {name!r} is not known: use one of {', '.join(BENCHMARKS)}.")
    benchmark = BENCHMARKS[name]
    if foreign := [given for given in settings.own if given not in [option.name for option in benchmark.options]]:
        raise EvaluationError(f"The option {foreign[0]!r} has no effect on {name}: remove it.")
    if settings.limit is not None and settings.limit < 1:
        raise EvaluationError(f"limit={settings.limit}: give the number of images, at least 1.")
    prompt, asks = settings.prompt, benchmark.asks
    if prompt is not None and asks and not any(part in prompt for part in asks):
        raise EvaluationError(f"The prompt {prompt!r} has no question: it needs {' or '.join(asks)}.")
    return benchmark(settings)
