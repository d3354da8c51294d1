"""LLaVA's evaluation: a judge scores a model's answers and reference answers to the same questions.

```python
judge = EndpointJudge("http://localhost:8000/v1", "Qwen/Qwen3-32B")
reviews = judge_answers(questions, references, answers, judge=judge, contexts=contexts, output="reviews.jsonl")
```

The figure is 100 times the mean score of the model's answers over that of the references, by category and over all
([Visual Instruction Tuning](https://arxiv.org/abs/2304.08485), section 5.1).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import islice
from threading import Event
from typing import Any

from vigc.errors import ConflictError, JudgeError, RequestRefusedError

from .models import Judge
from .prompts import (
    DEFAULT_RULES,
    FAILED,
    LAYOUTS,
    SYSTEM,
    Request,
    Rule,
    build_request,
    parse_as_released,
    parse_scores,
)
from .review_file import ReviewFile

# A judge that refuses so many and takes none will take none.
_REFUSED_AT_FIRST = 5


@dataclass(frozen=True, slots=True)
class _Task:
    """A review to be had.

    Args:
        row: What is known of it before.
        request: What the judge is asked.
    """

    row: dict[str, Any]
    request: Request

    @property
    def key(self) -> tuple[str, str]:
        """How the file knows it."""
        return json.dumps(self.row["question_id"]), self.row["order"]


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
    """Has two answers to each question scored, and goes on where an earlier call with the same `output` stopped.

    Args:
        questions: `{question_id, text, category, image}`, as in LLaVA's question files; `image` where there are
            contexts.
        answers_a: `{question_id, text}`, in any order, and `answer_id` if there is one: the references.
        answers_b: The model's answers, likewise.
        judge: An [`EndpointJudge`] or a [`LocalJudge`].
        contexts: `{image, captions, instances}`: what the judge is told about each picture.
        rules: By category, see [`read_rules`]; by default `DEFAULT_RULES`.
        output: File of reviews, JSON Lines. Each is on the disk before the next begins; nothing is asked twice.
        order_swap: Ask a second time with the answers in the other order.
        layout: "fenced", or "original", see [`build_request`].
        system: The system turn.
        seed: Handed to the judge.

    Returns:
        A row per question and order: `question_id`, `category`, `order` ("ab" or "ba"), `scores` ([a, b], whatever
        the order; [-1, -1] where the review cannot be read; None where the judge refused to review), `parsed`,
        `review` (as it came), `tuple` ([a, b] as the released script reads the review), `answer1_id` and `answer2_id`
        (of a and b), `judge`, `seed`, `layout`, `finish`, `served_by`, `withheld` and `suspicious` (sentences that
        speak to the judge, by where they stood), `request` (hash of what was asked), and `failure` (why there is none).

    Raises:
        JudgeError: Something in the arguments or the file is wrong, or the judge refuses everything.
        ConflictError: The file holds reviews of something else.
        TransientError: The judge is away; the same call goes on later.
    """
    tasks = _tasks(questions, answers_a, answers_b, contexts, rules or DEFAULT_RULES, order_swap, layout, system)
    tasks = [_identified(task, judge, seed) for task in tasks]
    with ReviewFile(output) as file:
        for task in tasks:
            known = file.rows.get(task.key)
            if known is not None and known["request"] != task.row["request"]:
                raise ConflictError(_conflict(file, task, known))
        failures = _review(judge, [task for task in tasks if task.key not in file.rows], seed, file)
        return [file.rows.get(task.key) or failures[task.key] for task in tasks]


def _tasks(
    questions: Iterable[Mapping[str, Any]],
    answers_a: Iterable[Mapping[str, Any]],
    answers_b: Iterable[Mapping[str, Any]],
    contexts: Iterable[Mapping[str, Any]] | None,
    rules: Mapping[str, Rule],
    order_swap: bool,
    layout: str,
    system: str,
) -> list[_Task]:
    if layout not in LAYOUTS:
        raise JudgeError(f"layout {layout!r} is not known: use one of {', '.join(LAYOUTS)}.")
    asked = _by(questions, "question_id", ("text", "category"), "questions")
    pair = [_by(given, "question_id", ("text",), which) for given, which in ((answers_a, "a"), (answers_b, "b"))]
    pictures = None if contexts is None else _by(contexts, "image", (), "contexts")
    for answers, which in zip(pair, ("the references (a)", "the answers (b)"), strict=True):
        if missing := [question["question_id"] for key, question in asked.items() if key not in answers]:
            raise JudgeError(f"{which} lack {len(missing)} of {len(asked)} questions, the first {missing[0]!r}.")
    tasks = []
    for key, question in asked.items():
        category, image = question["category"], question.get("image")
        if category not in rules:
            raise JudgeError(f"there is no rule for the category {category!r}: the rules are for {', '.join(rules)}.")
        context = None
        if pictures is not None:
            context = pictures.get(str(image))
            if context is None:
                raise JudgeError(f"the contexts lack the picture {image!r} of question {question['question_id']!r}.")
        for order in ("ab", "ba") if order_swap else ("ab",):
            first, second = (pair["ab".index(which)][key]["text"] for which in order)
            rule = rules[category]
            request = build_request(question["text"], context, first, second, rule, layout=layout, system=system)
            row = {"question_id": question["question_id"], "category": category, "order": order, "layout": layout}
            for number, answers in enumerate(pair, 1):
                row[f"answer{number}_id"] = answers[key].get("answer_id", question["question_id"])
            row |= {"withheld": request.withheld, "suspicious": request.suspicious}
            tasks.append(_Task(row, request))
    if not tasks:
        raise JudgeError("there are no questions: give at least one.")
    return tasks


def _by(
    records: Iterable[Mapping[str, Any]], name: str, texts: Sequence[str], what: str
) -> dict[str, Mapping[str, Any]]:
    """Records by a field of theirs as text (ids may be numbers in one file only), which must differ between them."""
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
    asked = json.dumps([task.request.messages, _without_place(judge.identity), seed], sort_keys=True)
    request = hashlib.sha256(asked.encode()).hexdigest()[:16]
    return _Task({**task.row, "judge": dict(judge.identity), "seed": seed, "request": request}, task.request)


def _without_place(judge: Mapping[str, Any]) -> dict[str, Any]:
    """What a judge is, wherever it is served: a server of one's own moves from machine to machine."""
    return {name: value for name, value in judge.items() if name != "endpoint"}


def _conflict(file: ReviewFile, task: _Task, known: Mapping[str, Any]) -> str:
    then, now = ({**row, "judge": _without_place(row.get("judge") or {})} for row in (known, task.row))
    names = [name for name in ("judge", "seed", "layout") if then.get(name) != now[name]]
    differ = ", ".join(f"{name} {then.get(name)!r} instead of {now[name]!r}" for name in names)
    what = differ or "a question, an answer, a context or a rule is another one"
    return (
        f"{str(file.path)!r} holds a review of question {task.row['question_id']!r} that was asked otherwise ({what}): "
        "name another file."
    )


def _review(judge: Judge, tasks: Sequence[_Task], seed: int, file: ReviewFile) -> dict[tuple[str, str], dict[str, Any]]:
    """Reviews what is left; returns the rows of what the judge refused."""
    stop, failures = Event(), {}

    def work(task: _Task) -> dict[str, Any] | None:
        try:
            reply = judge.reply(task.request.messages, seed, stop)
        except RequestRefusedError as error:
            return {**task.row, "review": None, "scores": None, "tuple": None, "parsed": False, "failure": str(error)}
        scores = parse_scores(reply.text)
        released = parse_as_released(reply.text)
        turn = 1 if task.row["order"] == "ab" else -1
        row = {
            **task.row,
            "review": reply.text,
            "scores": list((scores or FAILED)[::turn]),
            "parsed": scores is not None,
        }
        file.add({**row, "tuple": list(released[::turn]), "finish": reply.finish, "served_by": reply.served_by})
        return None

    left = iter(tasks)
    with ThreadPoolExecutor(judge.workers) as pool:
        running: dict[Future[dict[str, Any] | None], _Task] = {}
        try:
            # No more are handed out than are at work, so that nothing waits in line when the work has to stop.
            while running or (running := {pool.submit(work, task): task for task in islice(left, judge.workers)}):
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    task = running.pop(future)
                    failure = future.result()
                    if failure is not None:
                        failures[task.key] = failure
                    if len(failures) >= min(_REFUSED_AT_FIRST, len(tasks)) and not file.rows:
                        raise JudgeError(f"the judge refuses every request ({failures[task.key]['failure']}).")
                    running.update({pool.submit(work, task): task for task in islice(left, 1)})
        except BaseException:
            stop.set()
            raise
    return failures


def relative_scores(reviews: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """100 times the mean score of b over that of a, by category and over "all", failed parses counted both ways.

    Returns:
        For each category: `excluded` (reviews that cannot be read are left out) and `as_released` (they count as -1
        for both, as in the released script), in percent, None where there is nothing to divide by; and the counts
        `reviews`, `failed` (cannot be read), `refused` (there is none) and `withheld` (sentences spoke to the judge).
    """
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in reviews:
        groups.setdefault(str(row["category"]), []).append(row)
    groups["all"] = [row for rows in groups.values() for row in rows]
    figures = {}
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
    """The share of questions reviewed in both orders whose winner (a, b or neither) is the same in both."""
    signs: dict[str, list[int]] = {}
    for row in reviews:
        if row["parsed"]:
            first, second = row["scores"]
            signs.setdefault(json.dumps(row["question_id"]), []).append((first > second) - (first < second))
    both = [pair for pair in signs.values() if len(pair) == 2]
    return sum(first == second for first, second in both) / len(both) if both else None


def published_review(row: Mapping[str, Any], number: int) -> dict[str, Any]:
    """A review in the layout of LLaVA's review files, which its script summarises.

    Args:
        row: One of [`judge_answers`], with a review.
        number: Its place in the file, from 1.
    """
    kept = {name: row[name] for name in ("question_id", "answer1_id", "answer2_id", "category")}
    return {"id": number, **kept, "content": row["review"], "tuple": row["tuple"]}


def _ratio(scores: Sequence[Sequence[float]]) -> float | None:
    below, above = sum(pair[0] for pair in scores), sum(pair[1] for pair in scores)
    return 100 * above / below if scores and below > 0 else None
