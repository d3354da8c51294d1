"""Runs a benchmark: generates answers in batches (resumable) and computes the metrics."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from PIL import Image

from vigc.errors import AnnotationError, BusyError, ConflictError, EvaluationError, ImageError
from vigc.evaluation.benchmarks.base import Benchmark, DataSettings, Predictions, Question, digest_of
from vigc.evaluation.benchmarks.llava import Judging, LlavaBench
from vigc.evaluation.benchmarks.predictions import Prediction, PredictionFile, read_answers
from vigc.evaluation.benchmarks.table import open_benchmark
from vigc.jobs.progress import Progress
from vigc.processing.atomic import atomic_write, sole_writer
from vigc.processing.bounded_parsing import parse_json, read_json
from vigc.processing.images import open_image

from .answering import AnsweringModel
from .intervals import with_intervals
from .results import Results, beside, write_results


def evaluate(
    name: str,
    data: DataSettings,
    output: str | Path,
    *,
    model: AnsweringModel | None = None,
    predictions: str | Path | None = None,
    batch_size: int = 8,
    judging: Judging | None = None,
    overwrite: bool = False,
) -> Results:
    """Runs a benchmark, or resumes an interrupted run; the files are those of an uninterrupted run.

    Args:
        name: A name in `BENCHMARKS`.
        data: The benchmark's files and the selection of questions.
        output: The results file (JSON). Files with the same stem: `.predictions.jsonl` (answers, synced after every
            batch), `.scores.jsonl` (counts by question), `.run.json` (settings), `.submission.*` or `.answers*`.
        model: The model that answers. By default its `max_new_tokens` is the benchmark's.
        predictions: Instead of `model`: a file of existing answers (see [`read_answers`]).
        batch_size: Number of questions per batch.
        judging: For LLaVA-eval: takes `questions, references, answers, contexts`, returns reviews.
        overwrite: Discard the answers of another run with this output.

    Returns:
        The metrics. A question whose image cannot be opened is recorded in `set_aside` and counts as wrong. If the
        questions are made from instance annotations (CHAIR, POPE on your images), images without an image file or an
        answer are skipped and counted.

    Raises:
        EvaluationError: Files or settings are invalid.
        ConflictError: The output has answers of a run with other settings.
        BusyError: Another process is writing this output.
    """
    if (model is None) == (predictions is None):
        raise EvaluationError("Give either a model or predictions.")
    path = Path(output)
    benchmark = open_benchmark(name, data)
    if judging is not None and not isinstance(benchmark, LlavaBench):
        raise EvaluationError(f"Reviews only apply to llava, not to {name}: remove --reviews.")
    try:
        given = cache(lambda: read_answers(Path(str(predictions))))  # read after the benchmark's files
        questions = benchmark.questions(_has_picture if predictions is None else lambda one: given().are_about(one))
        busy = BusyError(f"Another process is writing {path}: wait for it, or give another --output.")
        with sole_writer(path, busy):
            run = Run(name, _data(data), len(questions), digest_of(questions))
            if model is None:
                run = replace(run, answers={"predictions": given().path.name})
                texts, unasked = given().to(questions)
                said = _Said(given().model, texts, unasked=unasked)
            else:
                model = replace(model, settings={"max_new_tokens": benchmark.max_new_tokens, **model.settings})
                run = replace(run, answers={**model.described(), "batch_size": batch_size})
                said = _Said(model.name, *_ask(model, questions, path, run, overwrite))
            if judging is not None and isinstance(benchmark, LlavaBench):
                benchmark.judge(questions, said.texts, said.by, judging)
            return _finish(benchmark, questions, said, path, run)
    except AnnotationError as error:
        raise EvaluationError(str(error)) from error


@dataclass(frozen=True)
class Run:
    """Everything that determines the answers of an evaluation.

    Args:
        benchmark: Name of the benchmark.
        data: The settings that select the questions.
        questions: Number of questions.
        asked: Digest of the questions.
        answers: The source of the answers: a model with its settings, or a file.
    """

    benchmark: str
    data: Mapping[str, Any]
    questions: int
    asked: str
    answers: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The record in `.run.json` and the results file."""
        own = {"benchmark": self.benchmark, "data": self.data, "questions": self.questions, "asked": self.asked}
        return {**own, **self.answers}


@dataclass(frozen=True)
class _Said:
    """Answers: the model, the texts, questions without an image, and the number of answers to other questions."""

    by: str
    texts: Predictions
    aside: list[tuple[str, str]] = field(default_factory=list)
    unasked: int = 0


def _has_picture(question: Question) -> bool:
    return question.picture is not None


def _finish(benchmark: Benchmark, questions: Sequence[Question], said: _Said, output: Path, run: Run) -> Results:
    """Scores the answers and writes all files."""
    files = []
    for ending, content in benchmark.submission(questions, said.texts, said.by).items():
        files.append(beside(output, ending))
        atomic_write(files[-1], content)
    try:
        units = benchmark.units(questions, said.texts)
    except EvaluationError:
        raise
    except ValueError as error:  # a metric refuses a reference
        raise EvaluationError(f"{benchmark.title}: {error}") from error
    figures = with_intervals(units, benchmark.figures) if units else {}
    pictures = len({question.image_id for question in questions})
    counts = {"skipped_images": benchmark.skipped, "unasked_answers": said.unasked}
    results = Results(benchmark.name, said.by, figures, len(questions), pictures, said.aside, output, files, **counts)
    write_results(results, run.to_json(), units, benchmark)
    return results


def _ask(
    model: AnsweringModel, questions: Sequence[Question], output: Path, run: Run, overwrite: bool
) -> tuple[Predictions, list[tuple[str, str]]]:
    """The model's answers, including those of an interrupted run, and the questions without an image."""
    if all(question.picture is None for question in questions):
        raise EvaluationError(
            f"None of the {len(questions)} images was found (such as {questions[0].name}): give the folder of the "
            "images with --images."
        )
    path, run_file = beside(output, "predictions.jsonl"), beside(output, "run.json")
    _claim(run_file, path, run, overwrite)
    # Batches are formed from all questions, so that a resumed run has the same batches and padding.
    size = run.answers["batch_size"]
    batches = [questions[start : start + size] for start in range(0, len(questions), size)]
    with PredictionFile(path) as file:
        waiting = [batch for batch in batches if any(question.id not in file.known for question in batch)]
        before = len(questions) - sum(map(len, waiting))
        with Progress("questions", len(questions), before=before, label=run.benchmark) as progress:
            for batch in waiting:
                file.add(_answered(model, batch))
                progress.add(len(batch))
    records = [file.known[question.id] for question in questions]
    aside = [(record.question_id, record.reason or "") for record in records if record.text is None]
    return {key: prediction.text for key, prediction in file.known.items()}, aside


def _answered(model: AnsweringModel, batch: Sequence[Question]) -> list[Prediction]:
    """An answer per question, or the reason why there is none."""
    opened: dict[str, Image.Image] = {}
    reasons: dict[str, str] = {}
    for question in batch:
        try:
            if question.picture is None:
                raise ImageError(question.name, "was not found")
            opened[question.id] = open_image(question.picture, name=question.name)
        except ImageError as error:
            reasons[question.id] = str(error)
    asked = [question for question in batch if question.id in opened]
    texts = model.answer([opened[question.id] for question in asked], asked) if asked else []
    found = {question.id: text for question, text in zip(asked, texts, strict=True)}
    return [Prediction(question.id, found.get(question.id), reasons.get(question.id)) for question in batch]


def _claim(run_file: Path, predictions_file: Path, run: Run, overwrite: bool) -> None:
    """Records the settings of a run; refuses to mix its answers with those of another run."""
    if overwrite:
        predictions_file.unlink(missing_ok=True)
    elif predictions_file.exists() and predictions_file.stat().st_size:  # an empty one is of a run without an answer
        try:
            before = read_json(run_file)
            if not isinstance(before, dict):
                raise ValueError("it holds no object")
        except (OSError, ValueError) as error:
            raise ConflictError(
                f"{predictions_file} exists, but not its settings ({error}): give --overwrite to discard it."
            ) from error
        now = parse_json(json.dumps(run.to_json()))
        changed = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
        if changed:
            changes = "; ".join(f"{name} was {before.get(name)!r}, is {now.get(name)!r}" for name in changed)
            raise ConflictError(
                f"{predictions_file} has answers of another run: {changes}. Give another --output, or --overwrite."
            )
    atomic_write(run_file, f"{json.dumps(run.to_json(), indent=2)}\n".encode())


def _data(settings: DataSettings) -> Mapping[str, Any]:
    """The settings that select the questions, without folders, which may be moved."""
    kept = {name: getattr(settings, name) for name in ("split", "prompt", "limit", "seed")}
    own = {name: value.name if isinstance(value, Path) else value for name, value in settings.own.items()}
    return {**kept, "synonyms": None, **own}
