"""LLaVA's evaluation: a judge scores a model's answers against reference answers.

```python
judge = EndpointJudge("http://localhost:8000/v1", "Qwen/Qwen3-32B")
reviews = judge_answers(questions, references, answers, judge=judge, contexts=contexts, output="reviews.jsonl")
```

The metric is 100 times the mean score of the model's answers over that of the references, by category and over all
([Visual Instruction Tuning](https://arxiv.org/abs/2304.08485), section 5.1).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypedDict

from vigc.errors import ConflictError, JudgeError, RequestRefusedError
from vigc.inference import Request, Rollout, SamplingParams
from vigc.jobs.progress import Progress

from .judges import Judge
from .prompts import DEFAULT_RULES, LAYOUTS, SYSTEM, JudgePrompt, Rule, build_request
from .review import Review
from .review_file import ReviewFile

# If a judge refuses this many requests and answers none, the run ends.
_REFUSED_AT_FIRST = 5


class CategoryScores(TypedDict):
    """Metrics of one category; see [`relative_scores`]."""

    excluded: float | None
    as_released: float | None
    reviews: int
    failed: int
    refused: int
    withheld: int


@dataclass(frozen=True, slots=True)
class _Task:
    """A pending review, and its prompt."""

    review: Review
    prompt: JudgePrompt


def judge_answers(
    questions: Iterable[Mapping[str, Any]],
    answers_a: Iterable[Mapping[str, Any]],
    answers_b: Iterable[Mapping[str, Any]],
    *,
    judge: Judge,
    contexts: Iterable[Mapping[str, Any]] | None = None,
    rules: Mapping[str, Rule] | None = None,
    output: str | os.PathLike[str] | None = None,
    order_swap: bool = False,
    layout: str = "fenced",
    system: str = SYSTEM,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Gets scores of two answers to each question. A call with the same `output` resumes an interrupted one.

    Args:
        questions: `{question_id, text, category, image}`, as in LLaVA's question files; `image` is needed with
            contexts.
        answers_a: The references: `{question_id, text}` and optionally `answer_id`, in any order.
        answers_b: The model's answers, in the same layout.
        judge: An [`EndpointJudge`] or [`LocalJudge`].
        contexts: `{image, captions, instances}`: the descriptions of the images for the judge.
        rules: By category, see [`read_rules`]; by default `DEFAULT_RULES`.
        output: File of reviews (JSON Lines), synced after every review. No request is repeated.
        order_swap: Ask a second time with the answers in the other order.
        layout: "fenced", or "original", see [`build_request`].
        system: The system turn.
        seed: Seed of the judge.

    Returns:
        A row per question and order: `question_id`, `category`, `order` ("ab" or "ba"), `scores` ([a, b] in either
        order; [-1, -1] if the review cannot be parsed; None if the judge refused), `parsed`, `review` (unchanged),
        `tuple` ([a, b] as parsed by the released script), `answer1_id` and `answer2_id` (of a and b), `judge`, `seed`,
        `layout`, `finish`, `served_by`, `withheld` and `suspicious` (sentences that address the judge, by block),
        `request` (hash of the request), and `failure` (why there is no review).

    Raises:
        JudgeError: The arguments or the file are invalid, or the judge refuses all requests.
        ConflictError: The file has reviews of other requests.
        TransientError: The judge is unavailable; the same call resumes later.
    """
    pair = (answers_a, answers_b)
    tasks = _tasks(questions, pair, contexts, rules or DEFAULT_RULES, "ab ba" if order_swap else "ab", layout, system)
    tasks = [_identified(task, judge, seed) for task in tasks]
    with ReviewFile(output) as file:
        for task in tasks:
            known = file.known.get(task.review.key)
            if known is not None and known.request != task.review.request:
                raise ConflictError(_conflict(file, task.review, known))
        waiting = [task for task in tasks if task.review.key not in file.known]
        with Progress("reviews", len(tasks), before=len(tasks) - len(waiting)) as progress:
            failures = _review(judge, waiting, seed, file, progress)
        found = failures | file.known
        return [found[task.review.key].to_json() for task in tasks]


def _tasks(
    questions: Iterable[Mapping[str, Any]],
    answers: tuple[Iterable[Mapping[str, Any]], Iterable[Mapping[str, Any]]],
    contexts: Iterable[Mapping[str, Any]] | None,
    rules: Mapping[str, Rule],
    orders: str,
    layout: str,
    system: str,
) -> list[_Task]:
    if layout not in LAYOUTS:
        raise JudgeError(f"layout {layout!r} is not known: use one of {', '.join(LAYOUTS)}.")
    asked = _by(questions, "question_id", ("text", "category"), "questions")
    pair = [_by(given, "question_id", ("text",), which) for given, which in zip(answers, "ab", strict=True)]
    pictures = None if contexts is None else _by(contexts, "image", (), "contexts")
    for known, which in zip(pair, ("the references (a)", "the answers (b)"), strict=True):
        if missing := [question["question_id"] for key, question in asked.items() if key not in known]:
            raise JudgeError(f"{which} lack {len(missing)} of {len(asked)} questions, the first {missing[0]!r}.")
    tasks = []
    for key, question in asked.items():
        rule, context = _rule(question, rules), _context(question, pictures)
        for order in orders.split():
            first, second = (pair["ab".index(which)][key]["text"] for which in order)
            prompt = build_request(question["text"], context, first, second, rule, layout=layout, system=system)
            ids = [known[key].get("answer_id", question["question_id"]) for known in pair]
            review = Review(question["question_id"], order, "", question["category"], layout, ids[0], ids[1])
            review = replace(review, withheld=prompt.withheld, suspicious=prompt.suspicious)
            tasks.append(_Task(review, prompt))
    if not tasks:
        raise JudgeError("there are no questions: give at least one.")
    return tasks


def _rule(question: Mapping[str, Any], rules: Mapping[str, Rule]) -> Rule:
    category = question["category"]
    if category not in rules:
        raise JudgeError(f"there is no rule for the category {category!r}: the rules are for {', '.join(rules)}.")
    return rules[category]


def _context(question: Mapping[str, Any], pictures: Mapping[str, Mapping[str, Any]] | None) -> Mapping[str, Any] | None:
    """The context of a question's image; None without contexts."""
    image = question.get("image")
    if pictures is not None and str(image) not in pictures:
        raise JudgeError(f"the contexts lack the image {image!r} of question {question['question_id']!r}.")
    return None if pictures is None else pictures[str(image)]


def _by(
    records: Iterable[Mapping[str, Any]], name: str, texts: Sequence[str], what: str
) -> dict[str, Mapping[str, Any]]:
    """Records by the text of a unique field (ids may be numbers in one file and texts in another)."""
    found: dict[str, Mapping[str, Any]] = {}
    for index, record in enumerate(records):
        wrong = [text for text in texts if not isinstance(record.get(text), str)]
        if name not in record or wrong:
            raise JudgeError(f"{what}[{index}] has no text {[*wrong, name][0]!r}: it is {str(dict(record))[:200]}.")
        key = str(record[name])
        if key in found:
            raise JudgeError(f"{what}[{index}] has the {name} {record[name]!r} of an earlier one: remove one of them.")
        found[key] = record
    return found


def _identified(task: _Task, judge: Judge, seed: int) -> _Task:
    asked = json.dumps([task.prompt.messages, _without_place(judge.described), seed], sort_keys=True)
    request = hashlib.sha256(asked.encode()).hexdigest()[:16]
    return _Task(replace(task.review, judge=dict(judge.described), seed=seed, request=request), task.prompt)


def _without_place(judge: Mapping[str, Any]) -> Mapping[str, Any]:
    """The description of a judge without its endpoint, because a server may move to another machine."""
    return {name: value for name, value in judge.items() if name != "endpoint"}


def _conflict(file: ReviewFile, review: Review, known: Review) -> str:
    then, now = (
        {"judge": _without_place(one.judge or {}), "seed": one.seed, "layout": one.layout} for one in (known, review)
    )
    differ = ", ".join(f"{name} {then[name]!r} instead of {now[name]!r}" for name in now if then[name] != now[name])
    what = differ or "a question, an answer, a context or a rule is another one"
    return (
        f"{str(file.path)!r} holds a review of question {review.question_id!r} that was asked otherwise ({what}): "
        "name another file."
    )


def _review(
    judge: Judge, tasks: Sequence[_Task], seed: int, file: ReviewFile, progress: Progress
) -> dict[tuple[str, str], Review]:
    """Gets the missing reviews; returns the refused ones."""
    failures: dict[tuple[str, str], Review] = {}

    def review(task: _Task) -> Rollout:
        sampling = SamplingParams(judge.settings, seed=seed)
        try:
            completion = yield Request(task.prompt.user, system=task.prompt.system, sampling=sampling)
        except RequestRefusedError as error:
            failures[task.review.key] = replace(task.review, failure=str(error))
            if len(failures) >= min(_REFUSED_AT_FIRST, len(tasks)) and not file.known:
                raise JudgeError(f"the judge refuses every request ({error}).") from error
        else:
            file.add([task.review.read(completion)])

    for _ in judge.generator.run(review(task) for task in tasks):
        progress.add(1)
    return failures


def relative_scores(reviews: Iterable[Mapping[str, Any]]) -> dict[str, CategoryScores]:
    """100 times the mean score of b over that of a, by category and over "all".

    Returns:
        For each category: `excluded` (without reviews that cannot be parsed) and `as_released` (such reviews count as
        -1 for both, as in the released script), in percent, None if undefined; and the counts `reviews`, `failed`
        (cannot be parsed), `refused` and `withheld` (with sentences that address the judge).
    """
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in reviews:
        groups.setdefault(str(row["category"]), []).append(row)
    groups["all"] = [row for rows in groups.values() for row in rows]
    figures: dict[str, CategoryScores] = {}
    for name, rows in groups.items():
        heard = [row for row in rows if row["scores"] is not None]
        figures[name] = {
            "excluded": _ratio([row["scores"] for row in heard if row["parsed"]]),
            "as_released": _ratio([row["tuple"] for row in heard]),
            "reviews": len(heard),
            "failed": sum(not row["parsed"] for row in heard),
            "refused": len(rows) - len(heard),
            "withheld": sum(bool(row["withheld"]) for row in rows),
        }
    return figures


def order_agreement(reviews: Iterable[Mapping[str, Any]]) -> float | None:
    """Share of the questions with reviews in both orders that have the same winner (a, b or neither)."""
    signs: dict[str, list[int]] = {}
    for row in reviews:
        if row["parsed"]:
            first, second = row["scores"]
            signs.setdefault(json.dumps(row["question_id"]), []).append((first > second) - (first < second))
    both = [pair for pair in signs.values() if len(pair) == 2]
    return sum(first == second for first, second in both) / len(both) if both else None


def published_review(row: Mapping[str, Any], number: int) -> dict[str, Any]:
    """A review in the layout of LLaVA's review files, for its script.

    Args:
        row: A row of [`judge_answers`] with a review.
        number: Number of the row in the file, from 1.
    """
    kept = {name: row[name] for name in ("question_id", "answer1_id", "answer2_id", "category")}
    return {"id": number, **kept, "content": row["review"], "tuple": row["tuple"]}


def _ratio(scores: Sequence[Sequence[float]]) -> float | None:
    below, above = sum(pair[0] for pair in scores), sum(pair[1] for pair in scores)
    return 100 * above / below if scores and below > 0 else None
