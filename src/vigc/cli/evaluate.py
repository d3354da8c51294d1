"""`vigc evaluate`: benchmarks with figures and their intervals, and two runs compared."""

from __future__ import annotations

import inspect
import math
import shlex
import sys
from collections.abc import Callable, MutableMapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

from . import options as opt
from .command import COMPLETE, REJECTED, add_command
from .terminal import count, line, option, say

if TYPE_CHECKING:
    from vigc.evaluation import Benchmark, Figure, Results
    from vigc.evaluation.answering import AnsweringModel


class _Benchmarks(TyperGroup):
    """The benchmarks' commands beside the declared ones; made when they are first asked for, so that others are quick.

    A benchmark declares its name, what its command says, and options of its own; nothing here has to know it.
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
)

_DATA = "Questions"
_ANSWERS = "Answers made elsewhere"
_MODEL = "Model"

Data = Annotated[Path, option("The folder with the published files.", "--data", "-d", rich_help_panel=_DATA)]
Images = Annotated[
    Path | None,
    option("The folder of the pictures.", rich_help_panel=_DATA, show_default="images or val2014 in --data, or --data"),
]
Split = Annotated[
    str | None,
    option(
        "okvqa, aokvqa: val, test, ...; mmbench: a part of the table's name; pope: random, popular or adversarial; "
        "chair: which instances_SPLIT.json.",
        rich_help_panel=_DATA,
    ),
]
Prompt = Annotated[
    str | None,
    option("What to ask, with {question} in it, instead of the benchmark's own words.", rich_help_panel=_DATA),
]
Limit = Annotated[
    int | None,
    option("Only the questions about so many pictures, drawn with --seed.", min=1, rich_help_panel=_DATA),
]
Seed = Annotated[int, option("Decides which, and what POPE asks for in pictures of yours.", rich_help_panel=_DATA)]
Output = Annotated[
    Path, option("The file of results to write (JSON); answers and submissions lie beside it.", "--output", "-o")
]
Overwrite = Annotated[bool, option("Discard the answers of another run beside the output.", "--overwrite")]
Predictions = Annotated[
    Path | None,
    option("Score these answers (JSON, JSON Lines, Excel) instead of asking a model.", rich_help_panel=_ANSWERS),
]
Reviews = Annotated[
    Path | None,
    option("llava: a judge's reviews of the answers (JSON Lines, as LLaVA publishes them).", rich_help_panel=_ANSWERS),
]
Model = Annotated[
    str | None,
    option("Folder or Hub name of VIGC, InstructBLIP or any chat model.", "--model", "-m", rich_help_panel=_MODEL),
]
BatchSize = Annotated[int, option("Questions at a time.", min=1, rich_help_panel=_MODEL)]
NoCorrect = Annotated[
    bool, option("VIGC: one plain answer, without VIC's steps.", "--no-correct", rich_help_panel=_MODEL)
]


def _declared(
    data: Data,
    output: Output,
    model: Model = None,
    predictions: Predictions = None,
    reviews: Reviews = None,
    images: Images = None,
    split: Split = None,
    prompt: Prompt = None,
    limit: Limit = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    batch_size: BatchSize = 8,
    no_correct: NoCorrect = False,
    dtype: opt.Dtype = "auto",
    device: opt.Device = "auto",
    revision: opt.Revision = None,
    trust_remote_code: opt.RemoteCode = False,
    num_beams: opt.NumBeams = None,
    max_new_tokens: opt.NewTokens = None,
    iqf_preset: opt.IqfPreset = None,
    iqf_steps: opt.IqfSteps = None,
) -> None:
    """The options that all benchmarks have."""


def _benchmark_commands() -> MutableMapping[str, Any]:
    from vigc.evaluation import BENCHMARKS

    benchmarks = typer.Typer(name="vigc evaluate")
    for name, benchmark in BENCHMARKS.items():
        add_command(benchmarks, _command(benchmark), name, help=f"{benchmark.summary}\n\n{_AFTER}")
    commands: MutableMapping[str, Any] = vars(get_command(benchmarks))["commands"]
    return commands


def _command(benchmark: type[Benchmark]) -> Callable[..., None]:
    """The command of a benchmark: the options of all, and its own."""

    def run(**given: Any) -> None:
        raise typer.Exit(_run(benchmark, given))

    declared = inspect.signature(_declared, eval_str=True)
    own = [
        inspect.Parameter(
            one.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[
                one.kind | None, option(one.help, rich_help_panel=_DATA, show_default=one.default or False)
            ],
        )
        for one in benchmark.options
    ]
    run.__signature__ = declared.replace(  # type: ignore[attr-defined]
        parameters=[*declared.parameters.values(), *own]
    )
    return run


def _run(benchmark: type[Benchmark], given: dict[str, Any]) -> int:
    """Runs the benchmark with the command's options; returns the exit code."""
    from vigc.evaluation import DataSettings, evaluate, read_reviews

    _quiet()
    name = benchmark.name
    parts = ("data", "images", "split", "prompt", "limit", "seed")
    own = {one.name: given[one.name] for one in benchmark.options}
    results = evaluate(
        name,
        DataSettings(**{part: given[part] for part in parts}, options=own),
        given["output"],
        model=None if given["model"] is None else _answerer(given),
        predictions=given["predictions"],
        batch_size=given["batch_size"],
        judging=None if given["reviews"] is None else read_reviews(given["reviews"]),
        overwrite=given["overwrite"],
    )
    _print_results(results)
    if name == "llava" and given["reviews"] is None:
        _print_judging(results, given)
    return REJECTED if results.set_aside else COMPLETE


def _answerer(given: dict[str, Any]) -> AnsweringModel:
    from vigc.evaluation import load_answerer

    settings = {part: given[part] for part in ("num_beams", "max_new_tokens", "iqf_preset", "iqf_steps")}
    loading = {part: given[part] for part in ("dtype", "device", "revision", "trust_remote_code")}
    return load_answerer(
        given["model"],
        settings={part: value for part, value in settings.items() if value is not None},
        correct=False if given["no_correct"] else None,
        **loading,
    )


_AFTER = (
    "The same command goes on where a killed one was. Exit code 0: complete. 3: complete, but some pictures could not "
    "be opened. 2: what was given cannot be worked with. 4: beside the output lie answers of another run. 5: another "
    "process is writing it. 75: the machine is in the way. 130: interrupted."
)


def compare(
    a: Annotated[Path, typer.Argument(help="A file of results.", show_default=False)],
    b: Annotated[Path, typer.Argument(help="Another, of the same questions.", show_default=False)],
    seed: Annotated[int, option("Of the resampling.")] = 0,
) -> None:
    """How much B exceeds A in every figure, with the interval of the difference, and whether it is noise.

    Both are resampled together, picture by picture (2,000 times). A difference whose 95 % interval holds 0 is noise;
    figures without a difference are called equal.
    """
    from vigc.evaluation import compare_results

    found = compare_results(a, b, seed)
    say(f"A: {a}\nB: {b}\n")
    say(f"{'figure':<24}{'A':>8}{'B':>8}{'B - A':>8}   95 % interval")
    for name, difference in found.items():
        interval = f"[{_number(difference.low)}, {_number(difference.high)}]"
        cells = "".join(f"{_number(value):>8}" for value in (difference.a, difference.b, difference.value))
        say(f"{name:<24}{cells}   {interval:<18} {difference.verdict}")


add_command(app, compare)


def _quiet() -> None:
    """Progress is for those who watch."""
    from transformers.utils import logging

    if not sys.stderr.isatty():
        logging.disable_progress_bar()


def _print_results(results: Results) -> None:
    """The figure to quote, all figures with their intervals, what was skipped or set aside, and where the files are."""
    from vigc.evaluation import BENCHMARKS

    asked = f"{count(results.questions, 'question')} about {count(results.pictures, 'picture')}"
    say(f"{results.benchmark}: {asked}, answered by {line(results.model)}")
    if results.figures:
        benchmark = BENCHMARKS[results.benchmark]
        main = results.figures[benchmark.main]
        say(f"{benchmark.title} {benchmark.main}: {_number(main.value)} {_interval(main)}".rstrip())
        _print_figures(results)
    else:
        say("  No figures: answers to these questions are not published, or no judge has reviewed them.")
    if results.skipped_images:
        listed = results.pictures + results.skipped_images
        without = f"{results.skipped_images:,} of {listed:,} images of the instances have no picture, or no answer."
        say(f"Skipped: {without}")
    if results.unasked_answers:
        say(f"Not counted: {count(results.unasked_answers, 'answer')} to questions that were not asked.")
    if results.set_aside:
        say(f"Set aside, {count(len(results.set_aside), 'question')} (counted as wrong):")
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
        say(f"  No interval for {count(bare, 'figure')}: every resample of the pictures gives the same value.")


def _print_judging(results: Results, given: dict[str, Any]) -> None:
    """The commands that make figures of LLaVA-eval's answers."""
    answers = next(path for path in results.files if path.name.endswith("answers.jsonl"))
    reviews = answers.with_name(f"{answers.name.removesuffix('answers.jsonl')}reviews.jsonl")
    judge = ["vigc", "judge", answers, "--data", given["data"], "--output", reviews, "--model", "JUDGE"]
    score = ["vigc", "evaluate", "llava", "--data", given["data"], "--predictions", answers, "--reviews", reviews]
    for name in ("limit", "seed", "prompt"):
        if given[name]:
            score += [f"--{name}", given[name]]
    score += ["--output", results.output]
    say("These commands have a judge review the answers, and score its reviews:")
    for command in (judge, score):
        say(f"  {shlex.join(map(str, command))}")
    say(
        "JUDGE is the folder or Hub name of a chat model; with --url ADDRESS its name at an OpenAI-compatible endpoint."
    )


def _interval(figure: Figure) -> str:
    return "" if math.isnan(figure.low) else f"95 % [{_number(figure.low)}, {_number(figure.high)}]"


def _number(value: Any) -> str:
    return "-" if math.isnan(value) else f"{round(value, 1) + 0.0:.1f}"  # + 0.0: never "-0.0"
