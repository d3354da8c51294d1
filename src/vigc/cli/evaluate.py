"""`vigc evaluate`: runs benchmarks, with confidence intervals, and compares two runs."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Mapping, MutableMapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

from vigc.errors import EvaluationError
from vigc.options import Option, Setting, check_paths, check_values, recorded
from vigc.processing.atomic import atomic_write
from vigc.processing.job_file import job_text

from .command import COMPLETE, REJECTED, add_command
from .options import Given, given_of, settings_of_all, taking
from .terminal import count, hide_progress_bars, line, option, say

if TYPE_CHECKING:
    from vigc.evaluation import Benchmark, Figure, Results
    from vigc.evaluation.answering import AnsweringModel
    from vigc.evaluation.settings import AnswerSettings


class _Benchmarks(TyperGroup):
    """Adds the commands of the benchmarks. They are built on first use, because that needs slow imports.

    A benchmark declares its name, help text and options, so that a new one needs no change here.
    """

    _commands: MutableMapping[str, Any]
    _complete: bool

    @property
    def commands(self) -> MutableMapping[str, Any]:
        """All commands, by name."""
        if not self._complete:
            self._complete = True
            self._commands = {**_benchmark_commands(), **self._commands}
        return self._commands

    @commands.setter
    def commands(self, declared: MutableMapping[str, Any]) -> None:
        self._commands, self._complete = dict(declared), False


app = typer.Typer(
    name="vigc evaluate",
    cls=_Benchmarks,
    help="Answer a benchmark's questions and score the answers, or compare two runs.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


def _benchmark_commands() -> MutableMapping[str, Any]:
    from vigc.evaluation import BENCHMARKS

    benchmarks = typer.Typer(name="vigc evaluate", rich_markup_mode=None)
    for name, benchmark in BENCHMARKS.items():
        add_command(benchmarks, _command(benchmark), name, help=f"{benchmark.summary}\n\n{_AFTER}")
    commands: MutableMapping[str, Any] = vars(get_command(benchmarks))["commands"]
    return commands


def _command(benchmark: type[Benchmark]) -> Callable[..., None]:
    """The command of a benchmark: the common options and the benchmark's."""
    from vigc.evaluation.benchmarks.settings import QUESTIONS, DataSettings
    from vigc.evaluation.settings import AnswerSettings

    own = {
        one.name: Setting(
            one.name, Option(one.help, QUESTIONS, common=True, default=one.default), one.kind, (), False, True, None
        )
        for one in benchmark.options
    }
    settings = {**settings_of_all((DataSettings, AnswerSettings)), **own}

    def run(given: Given) -> None:
        raise typer.Exit(_run(benchmark, settings, given))

    return taking(settings, run)


def _run(benchmark: type[Benchmark], settings: Mapping[str, Setting], given: Given) -> int:
    """Runs the benchmark with the command's options; returns the exit code."""
    from vigc.evaluation.benchmarks.settings import DataSettings
    from vigc.evaluation.settings import AnswerSettings

    name = benchmark.name
    asked = AnswerSettings(**given_of(AnswerSettings, given))
    own = {one.name: given[one.name] for one in benchmark.options}
    data = DataSettings(**given_of(DataSettings, given), options=own)
    for checked in (asked, data):
        check_values(checked, EvaluationError)
    check_paths(asked, EvaluationError)

    from vigc.evaluation import evaluate, read_reviews
    from vigc.evaluation.results import beside

    hide_progress_bars()
    results = evaluate(
        name,
        data,
        asked.output,
        model=None if asked.model is None else _answerer(asked.model, asked, given),
        predictions=asked.predictions,
        batch_size=asked.batch_size,
        judging=None if asked.reviews is None else read_reviews(asked.reviews),
        overwrite=asked.overwrite,
    )
    atomic_write(beside(asked.output, "job.yaml"), job_text(f"vigc evaluate {name}", recorded(given, settings)))
    _print_results(results)
    if name == "llava" and asked.reviews is None:
        _print_judging(results, given)
    return REJECTED if results.set_aside else COMPLETE


def _answerer(model: str, asked: AnswerSettings, given: Given) -> AnsweringModel:
    from vigc.evaluation import load_answerer
    from vigc.inference.settings import CommonDecoding

    return load_answerer(
        model,
        settings=given_of(CommonDecoding, given),
        correct=False if asked.no_correct else None,
        **asked.loading,
    )


_AFTER = (
    "A killed run is resumed by the same command. Exit code 0: complete. 3: complete, but some images could not be "
    "opened. 2: invalid input or settings. 4: the output's answers are of another run. 5: another process is writing "
    "it. 75: temporary failure (disk, memory, network): retry later. 130: interrupted."
)


def compare(
    a: Annotated[Path, typer.Argument(help="A results file.", show_default=False)],
    b: Annotated[Path, typer.Argument(help="Another results file, of the same questions.", show_default=False)],
    seed: Annotated[int, option("Seed of the resampling.")] = 0,
) -> None:
    """Compare two runs: B minus A for each metric, with the interval of the difference and a verdict.

    Both are resampled together, by image (2,000 times). A difference whose 95 % interval contains 0 is noise; metrics
    without a difference are equal.
    """
    from vigc.evaluation import compare_results

    found = compare_results(a, b, seed)
    say(f"A: {a}\nB: {b}\n")
    say(f"{'metric':<24}{'A':>8}{'B':>8}{'B - A':>8}   95 % interval")
    for name, difference in found.items():
        interval = f"[{_number(difference.low)}, {_number(difference.high)}]"
        cells = "".join(f"{_number(value):>8}" for value in (difference.a, difference.b, difference.value))
        say(f"{name:<24}{cells}   {interval:<18} {difference.verdict}")


add_command(app, compare)


def _print_results(results: Results) -> None:
    """Prints the main metric, all metrics with intervals, skipped images and questions, and the paths of the files."""
    from vigc.evaluation import BENCHMARKS

    asked = f"{count(results.questions, 'question')} about {count(results.pictures, 'image')}"
    say(f"{results.benchmark}: {asked}, answered by {line(results.model)}")
    if results.figures:
        benchmark = BENCHMARKS[results.benchmark]
        main = results.figures[benchmark.main]
        say(f"{benchmark.title} {benchmark.main}: {_number(main.value)} {_interval(main)}".rstrip())
        _print_figures(results)
    else:
        say("  No metrics: the reference answers are not published, or no judge has reviewed the answers.")
    if results.skipped_images:
        listed = results.pictures + results.skipped_images
        without = f"{results.skipped_images:,} of {listed:,} images of the annotations have no image file or no answer."
        say(f"Skipped: {without}")
    if results.unasked_answers:
        say(f"Not counted: {count(results.unasked_answers, 'answer')} to questions that were not asked.")
    if results.set_aside:
        say(f"Skipped, {count(len(results.set_aside), 'question')} (counted as wrong):")
        for key, reason in results.set_aside[:5]:
            say(f"  {line(key)}: {line(reason)}")
    for path in results.files:
        say(f"Written: {path}")
    say(f"Results: {results.output}")


def _print_figures(results: Results) -> None:
    for name, figure in results.figures.items():
        say(f"  {name:<24}{_number(figure.value):>8}   {_interval(figure)}".rstrip())
    bare = sum(math.isnan(one.low) and not math.isnan(one.value) for one in results.figures.values())
    if bare:
        say(f"  No interval for {count(bare, 'metric')}: every resample of the images gives the same value.")


def _print_judging(results: Results, given: dict[str, Any]) -> None:
    """Prints the commands that judge and score the answers of LLaVA-eval."""
    answers = next(path for path in results.files if path.name.endswith("answers.jsonl"))
    reviews = answers.with_name(f"{answers.name.removesuffix('answers.jsonl')}reviews.jsonl")
    judge = ["vigc", "judge", answers, "--data", given["data"], "--output", reviews, "--model", "JUDGE"]
    score = ["vigc", "evaluate", "llava", "--data", given["data"], "--predictions", answers, "--reviews", reviews]
    for name in ("limit", "seed", "prompt"):
        if given[name]:
            score += [f"--{name}", given[name]]
    score += ["--output", results.output]
    say("Judge the answers and score the reviews with:")
    for command in (judge, score):
        say(f"  {shlex.join(map(str, command))}")
    say("JUDGE is the folder or Hub name of a chat model, or with --url URL its name at an OpenAI-compatible endpoint.")


def _interval(figure: Figure) -> str:
    return "" if math.isnan(figure.low) else f"95 % [{_number(figure.low)}, {_number(figure.high)}]"


def _number(value: Any) -> str:
    return "-" if math.isnan(value) else f"{round(value, 1) + 0.0:.1f}"  # + 0.0: never "-0.0"
