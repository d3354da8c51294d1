"""The benchmarks, by the names that the command knows them under."""

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
    """The benchmark of that name over these files.

    Raises:
        EvaluationError: An unknown name, or settings that have no effect on it.
    """
    if name not in BENCHMARKS:
        raise EvaluationError(f"benchmark {name!r} is not known: use one of {', '.join(BENCHMARKS)}.")
    if settings.synonyms is not None and name != "chair":
        raise EvaluationError(f"Synonyms have no effect on {name}: they are CHAIR's.")
    if settings.limit is not None and settings.limit < 1:
        raise EvaluationError(f"limit={settings.limit}: give the number of pictures, at least 1.")
    asks = "{question}", *(("{object}", "{an_object}") if name == "pope" else ())
    if settings.prompt is not None and name != "chair" and not any(part in settings.prompt for part in asks):
        raise EvaluationError(f"The prompt {settings.prompt!r} asks no question: it needs {' or '.join(asks)} in it.")
    return BENCHMARKS[name](settings)
