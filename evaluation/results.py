"""Results of an evaluation: metrics with intervals, results files, and the comparison of two of them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult

from vigc.errors import EvaluationError, reason_of
from vigc.evaluation.benchmarks.base import Benchmark, DataSettings, Unit
from vigc.evaluation.benchmarks.entries import json_lines
from vigc.evaluation.benchmarks.table import BENCHMARKS
from vigc.processing.atomic import atomic_write
from vigc.processing.bounded_parsing import parse_json, read_json

from .intervals import CONFIDENCE, RESAMPLES, Difference, Figure, differences

_VERSIONS = ("vigc", "transformers", "torch")


@dataclass(frozen=True)
class Results:
    """The result of an evaluation.

    Args:
        benchmark: Name of the benchmark.
        model: Name of the model.
        figures: The metrics by name; empty if reference answers are not published, or no judge has scored the answers.
        questions: Number of questions.
        pictures: Number of images.
        set_aside: Questions whose image could not be opened, with the reason; they count as wrong.
        output: The results file.
        files: Other files that were written.
        skipped_images: Number of images in the annotations without an image file or an answer.
        unasked_answers: Number of answers to other questions.
    """

    benchmark: str
    model: str
    figures: dict[str, Figure]
    questions: int
    pictures: int
    set_aside: list[tuple[str, str]]
    output: Path
    files: list[Path]
    skipped_images: int = 0
    unasked_answers: int = 0


def beside(output: Path, ending: str) -> Path:
    """The path of a file that belongs to an output, such as `results.predictions.jsonl` for `results.json`."""
    return output.with_name(f"{output.stem}.{ending}")


def write_results(results: Results, run: Mapping[str, Any], units: Sequence[Unit], benchmark: Benchmark) -> None:
    """Writes the counts of all questions, which comparisons need, and then the results file."""
    rows = [{"id": unit.id, "image_id": unit.image_id, "counts": _plain(unit.counts)} for unit in units]
    atomic_write(beside(results.output, "scores.jsonl"), json_lines(rows))
    content = {
        "benchmark": results.benchmark,
        "title": benchmark.title,
        "model": results.model,
        "questions": results.questions,
        "pictures": results.pictures,
        "set_aside": results.set_aside,
        "skipped_images": results.skipped_images,
        "unasked_answers": results.unasked_answers,
        "figures": {name: _numbers(figure) for name, figure in results.figures.items()},
        "interval": {"confidence": CONFIDENCE, "resamples": RESAMPLES, "drawn": "pictures", "method": "percentile"},
        "eval_results": [_fields(entry) for entry in eval_results(results, benchmark)],
        "run": run,
        "versions": {name: metadata.version(name) for name in _VERSIONS},
    }
    atomic_write(results.output, f"{json.dumps(content, indent=2)}\n".encode())


def eval_results(results: Results, benchmark: Benchmark) -> list[EvalResult]:
    """The metrics for model cards, without undefined ones."""
    return [
        EvalResult(
            task_type="image-text-to-text",
            dataset_type=benchmark.name,
            dataset_name=benchmark.title,
            dataset_split=benchmark.settings.split,
            metric_type=benchmark.metric,
            metric_name=name,
            metric_value=round(figure.value, 2),
        )
        for name, figure in results.figures.items()
        if not math.isnan(figure.value)
    ]


def read_eval_results(path: str | Path) -> list[EvalResult]:
    """Reads the metrics of a results file, for `ModelCardData(eval_results=...)`.

    Raises:
        EvaluationError: It is not a results file.
    """
    return [EvalResult(**entry) for entry in _read(Path(path))["eval_results"]]


def compare_results(a: str | Path, b: str | Path, seed: int = 0) -> dict[str, Difference]:
    """The differences B - A of all metrics with intervals, over the same questions.

    Args:
        a: A results file; its `.scores.jsonl` must be in the same folder.
        b: Another results file of the same benchmark.
        seed: Seed of the resampling.

    Raises:
        EvaluationError: The files have different benchmarks or questions, or no metrics.
    """
    first, second = _read(Path(a)), _read(Path(b))
    if first["benchmark"] != second["benchmark"]:
        raise EvaluationError(
            f"{a} has results of {first['benchmark']} and {b} of {second['benchmark']}: compare the same benchmark."
        )
    benchmark = BENCHMARKS[first["benchmark"]](DataSettings(Path()))
    return differences(_units(Path(a)), _units(Path(b)), benchmark.figures, seed)


def _read(path: Path) -> Mapping[str, Any]:
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        raise EvaluationError(
            f"{path} cannot be read ({reason_of(error, path=False)}): give a file that `vigc evaluate` wrote."
        ) from error
    if not isinstance(content, dict) or content.get("benchmark") not in BENCHMARKS or "eval_results" not in content:
        raise EvaluationError(f"{path} is not a results file: give a file that `vigc evaluate` wrote.")
    return content


def _units(path: Path) -> list[Unit]:
    scores = beside(path, "scores.jsonl")
    try:
        rows = [parse_json(line) for line in scores.read_bytes().splitlines()]
        units = [Unit(row["id"], row["image_id"], row["counts"]) for row in rows]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EvaluationError(
            f"{scores} cannot be read ({reason_of(error, path=False)}): it must be in the folder of {path.name}."
        ) from error
    if not units:
        raise EvaluationError(f"{path} has no metrics: its answers were not scored.")
    return units


def _plain(counts: Mapping[str, Any]) -> dict[str, float]:
    return {name: int(value) if float(value).is_integer() else float(value) for name, value in counts.items()}


def _numbers(figure: Figure) -> dict[str, float | None]:
    return {name: None if math.isnan(value) else value for name, value in asdict(figure).items()}


def _fields(entry: EvalResult) -> dict[str, Any]:
    return {name: value for name, value in vars(entry).items() if value is not None}
