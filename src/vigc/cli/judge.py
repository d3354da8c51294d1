"""`vigc judge`: a judge scores a model's answers to LLaVA-eval against the reference answers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vigc.errors import JudgeError

from .command import COMPLETE, REJECTED
from .terminal import count, line, option, say

if TYPE_CHECKING:
    from vigc.evaluation.judge.judges import Judge

_JUDGE = "Judge"

Answers = Annotated[
    Path,
    typer.Argument(help="The model's answers, with question_id and text, as `vigc evaluate llava` writes them."),
]
Data = Annotated[
    Path,
    option(
        "The folder with qa90_questions.jsonl, qa90_gpt4_answer.jsonl, caps_boxes_coco2014_val_80.jsonl and "
        "optionally rule.json.",
        "--data",
        "-d",
        show_default=False,
    ),
]
Output = Annotated[Path, option("The file of reviews (JSON Lines); an existing one is resumed.", "--output", "-o")]
Model = Annotated[str, option("The judge: its name at --url, or a folder or Hub name.", "--model", "-m")]
Url = Annotated[
    str | None, option("An OpenAI-compatible endpoint, such as http://localhost:8000/v1.", rich_help_panel=_JUDGE)
]
Key = Annotated[
    str | None, option("The environment variable that holds the endpoint's key.", "--key", rich_help_panel=_JUDGE)
]
Rules = Annotated[
    Path | None, option("The judge's instructions by category.", show_default="rule.json in --data, or built-in ones")
]
Swap = Annotated[bool, option("Ask a second time with the answers in the other order.", "--order-swap")]
Layout = Annotated[str, option("fenced, or original: LLaVA's exact prompt, without protection from prompt injection.")]
Seed = Annotated[int, option("Seed of the judge.", rich_help_panel=_JUDGE)]
Temperature = Annotated[
    float | None,
    option("0 is greedy decoding.", show_default="0.2 at an endpoint, 0 here", rich_help_panel=_JUDGE),
]
MaxTokens = Annotated[int, option("Maximum number of tokens of a review.", min=1, rich_help_panel=_JUDGE)]
Workers = Annotated[int, option("Concurrent requests to the endpoint.", min=1, rich_help_panel=_JUDGE)]
Fields = Annotated[
    str | None,
    option('Further fields of a request, as JSON; null removes one: {"max_tokens": null}.', rich_help_panel=_JUDGE),
]


def judge(
    answers: Answers,
    data: Data,
    output: Output,
    model: Model,
    url: Url = None,
    key: Key = None,
    rules: Rules = None,
    order_swap: Swap = False,
    layout: Layout = "fenced",
    seed: Seed = 0,
    temperature: Temperature = None,
    max_tokens: MaxTokens = 1024,
    workers: Workers = 4,
    request: Fields = None,
) -> None:
    """Have a judge score a model's answers against reference answers, as in LLaVA's evaluation.

    Every review is stored unchanged. An interrupted run is resumed by the same command. Exit code 0: complete. 3:
    complete, but some requests were refused. 2: invalid input or settings. 4: the file has reviews of another run. 5:
    another process is writing it. 75: the judge is unavailable: retry later. 130: interrupted.
    """
    from vigc.evaluation import DEFAULT_RULES, judge_answers, read_judge_inputs, read_rules

    given = read_judge_inputs(data, answers)
    chosen = rules or given.rules
    if given.unanswered:
        left = count(given.unanswered, "question")
        say(f"vigc judge: {line(str(answers))} has no answer to {left}, which are skipped.", err=True)
    reviews = judge_answers(
        given.questions,
        given.references,
        given.answers,
        judge=_judge(model, url, key, temperature, max_tokens, workers, request),
        contexts=given.contexts,
        rules=read_rules(chosen) if chosen else DEFAULT_RULES,
        output=output,
        order_swap=order_swap,
        layout=layout,
        seed=seed,
    )
    _print(reviews)
    refused = [row for row in reviews if row["scores"] is None]
    for row in refused[:5]:
        say(f"Refused, question {line(str(row['question_id']))}: {line(row['failure'])}")
    say(f"Reviews: {output}")
    raise typer.Exit(REJECTED if refused else COMPLETE)


def _judge(
    model: str,
    url: str | None,
    key: str | None,
    temperature: float | None,
    max_tokens: int,
    workers: int,
    request: str | None,
) -> Judge:
    from vigc.evaluation import EndpointJudge, LocalJudge

    settings: dict[str, Any] = {"max_tokens": max_tokens}
    if temperature is not None:
        settings["temperature"] = temperature
    if url is None:
        if key is not None or request is not None:
            raise JudgeError("--key and --request are for an endpoint: give its --url, or remove them.")
        return LocalJudge(model, **settings)
    fields = None if request is None else _fields(request)
    return EndpointJudge(url, model, key_variable=key, workers=workers, request=fields, **settings)


def _fields(text: str) -> dict[str, Any]:
    from vigc.processing.bounded_parsing import parse_json

    try:
        fields = parse_json(text)
    except ValueError as error:
        raise JudgeError(f"--request {text!r} is not valid JSON: {error}.") from error
    if not isinstance(fields, dict):
        raise JudgeError(f"--request {text!r} is not a JSON object.")
    return fields


def _print(reviews: list[dict[str, Any]]) -> None:
    from vigc.evaluation import order_agreement, relative_scores

    figures, agreement = relative_scores(reviews), order_agreement(reviews)
    say(f"{'':<12}{'readable':>10}{'as released':>13}{'reviews':>9}{'failed':>8}{'refused':>9}{'withheld':>10}")
    for name, row in figures.items():
        ratios = "".join(
            f"{'-' if ratio is None else format(ratio, '.1f'):>{width}}"
            for ratio, width in ((row["excluded"], 10), (row["as_released"], 13))
        )
        say(f"{name:<12}{ratios}{row['reviews']:>9}{row['failed']:>8}{row['refused']:>9}{row['withheld']:>10}")
    failed = figures["all"]["failed"]
    say(f"In % of the reference's score; {count(failed, 'review')} without two scores excluded, or counted as -1.")
    if agreement is not None:
        say(f"Same winner in both orders: {100 * agreement:.1f} % of the questions")
