"""LLaVA-eval: 90 questions about 30 pictures of COCO, whose answers a judge scores."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vigc.errors import EvaluationError
from vigc.evaluation.metrics.llava_relative_score import llava_relative_score as relative

from .base import Benchmark, DataSettings, Numbers, Predictions, Question, Unit, picture_names
from .entries import Entry, json_lines, read_entries
from .predictions import read_answers

# Takes questions, references, the model's answers and contexts, each as LLaVA's files have them; returns reviews with
# `question_id`, `category` and `scores` (the reference's first).
Judging = Callable[..., Sequence[Entry]]


def read_reviews(path: Path) -> Judging:
    """A judge that has spoken already: its reviews, as LLaVA publishes them, with `scores` or `tuple`."""

    def judging(*_: Any) -> list[Entry]:
        return read_entries(path, "question_id")

    return judging


def _refused(review: Entry) -> bool:
    """Whether the judge would not review; there is nothing to count then."""
    return review.get("scores", ()) is None


@dataclass
class LlavaBench(Benchmark):
    """LLaVA-Bench (COCO). Its figures need reviews; without them only the file of answers is written."""

    reviews: list[Entry] = field(default_factory=list, repr=False)

    name, title, metric, main = "llava", "LLaVA-eval", "llava_relative_score", "all"
    summary = "LLaVA-eval: 90 questions about 30 pictures of COCO; a judge's reviews make the figures."
    source = (
        "https://github.com/haotian-liu/LLaVA (playground/data/coco2014_val_qa_eval and llava/eval/table), and the "
        "pictures from https://cocodataset.org (val2014)"
    )
    max_new_tokens = 512

    def read(self) -> list[Question]:
        """All questions, each with its reference answer if that file is there."""
        path = self.file("qa90_questions.jsonl")
        answers = {entry["question_id"]: entry for entry in self.references()}
        found = []
        for index, entry in enumerate(read_entries(path, "question_id", "image", "text", "category")):
            if entry["category"] not in relative.CATEGORIES:
                listed = ", ".join(relative.CATEGORIES)
                raise EvaluationError(f"{path}, entry {index}: 'category' {entry['category']!r} is none of {listed}.")
            picture = self.picture(*picture_names(entry["image"]))
            reference = {"question": entry, "answer": answers.get(entry["question_id"])}
            asked = self.asked(entry["text"])
            key = str(entry["question_id"])
            found.append(Question(key, entry["image"], picture, entry["image"], *asked, reference))
        return found

    def references(self) -> list[Entry]:
        """The answers that the model's are compared with, as published; none if the file is not there."""
        path = self.file_if_any("qa90_gpt4_answer.jsonl")
        return [] if path is None else read_entries(path, "question_id", "text")

    def contexts(self) -> list[Entry]:
        """What a judge is told about each picture, as published: captions and boxes."""
        return read_entries(self.file("caps_boxes_coco2014_val_80.jsonl"), "image", "captions", "instances")

    def answers(self, questions: Sequence[Question], predictions: Predictions, model: str) -> list[Entry]:
        """The model's answers in LLaVA's layout; ids depend on model and question alone."""
        return [
            {
                "question_id": question.reference["question"]["question_id"],
                "prompt": question.prompt,
                "text": predictions[question.id] or "",
                "answer_id": hashlib.sha256(f"{model}/{question.id}".encode()).hexdigest()[:22],
                "model_id": model,
                "metadata": {},
            }
            for question in questions
        ]

    def judge(self, questions: Sequence[Question], predictions: Predictions, model: str, judging: Judging) -> None:
        """Has the answers reviewed.

        Raises:
            EvaluationError: There is no reference answer to a question.
        """
        self.file("qa90_gpt4_answer.jsonl")
        if missing := [question.id for question in questions if question.reference["answer"] is None]:
            raise EvaluationError(
                f"LLaVA-eval: qa90_gpt4_answer.jsonl lacks {len(missing)} answers, the first to question {missing[0]}."
            )
        asked = [question.reference["question"] for question in questions]
        references = [question.reference["answer"] for question in questions]
        self.reviews = list(judging(asked, references, self.answers(questions, predictions, model), self.contexts()))

    def units(self, questions: Sequence[Question], predictions: Predictions) -> list[Unit]:
        """A unit per question, of all its reviews; none where the judge refused, or has not spoken."""
        if not self.reviews:
            return []
        found: dict[str, list[Entry]] = defaultdict(list)
        for review in self.reviews:
            found[str(review["question_id"])].append(review)
        units = []
        for question in questions:
            if not found[question.id]:
                raise EvaluationError(f"LLaVA-eval: there is no review of question {question.id}: judge all of them.")
            rows = [self._counts(question, review) for review in found[question.id] if not _refused(review)]
            if rows:
                counts = {name: sum(row[name] for row in rows) for name in rows[0]}
                units.append(Unit(question.id, question.image_id, counts))
        return units

    def _counts(self, question: Question, review: Entry) -> dict[str, float]:
        category = question.reference["question"]["category"]
        # Published reviews hold only "tuple", as the released script reads a review; ours also how we read it.
        released, scores = review.get("tuple", review.get("scores")), review.get("scores", review.get("tuple"))
        if not all(isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in (released, scores)):
            raise EvaluationError(f"The review of question {question.id} has the scores {scores!r}: two are expected.")
        try:
            counted = [relative.counts(pair[1], pair[0], category) for pair in (released, scores)]
        except (ValueError, TypeError) as error:
            raise EvaluationError(f"The review of question {question.id}: {error}") from error
        own = {name: value for name, value in counted[1].items() if name.endswith("_parsed") or name == "failed"}
        return {**counted[0], **own}

    def figures(self, sums: Numbers) -> Numbers:
        """Those of the metric."""
        return relative.figures(sums)

    def submission(self, questions: Sequence[Question], predictions: Predictions, model: str) -> dict[str, bytes]:
        """LLaVA's file of answers."""
        return {"answers.jsonl": json_lines(self.answers(questions, predictions, model))}


@dataclass(frozen=True)
class JudgeInputs:
    """What [`judge_answers`] takes, as `vigc judge` finds it.

    Args:
        questions: Those that are answered.
        references: The published answers to all.
        answers: The model's, one for each question or more.
        contexts: What is told about each picture.
        rules: The published file of rules, if it is there.
        unanswered: How many questions have no answer.
    """

    questions: list[Entry]
    references: list[Entry]
    answers: list[Entry]
    contexts: list[Entry]
    rules: Path | None
    unanswered: int


def read_judge_inputs(data: Path, answers: Path) -> JudgeInputs:
    """LLaVA's files, looked for where `vigc evaluate llava` finds them, and a model's answers in any known layout.

    Raises:
        EvaluationError: A file is absent, or none of the questions is answered.
        AnnotationError: A file is damaged.
    """
    benchmark = LlavaBench(DataSettings(data))
    questions = read_entries(benchmark.file("qa90_questions.jsonl"), "question_id")
    references = read_entries(benchmark.file("qa90_gpt4_answer.jsonl"), "question_id")
    given = read_answers(answers).answers
    known = {answer.question_id for answer in given}
    answered = [question for question in questions if str(question["question_id"]) in known]
    if questions and not answered:
        first = given[0].question_id if given else None
        raise EvaluationError(
            f"{answers} answers none of the {len(questions)} questions of LLaVA-eval (its first answer is to "
            f"{first!r}, the first question {questions[0]['question_id']!r}): give the answers that `vigc evaluate "
            "llava` wrote."
        )
    # A text is missing where its picture could not be opened: as in the file of answers, an empty one.
    rows: list[Entry] = []
    for answer in given:
        own = {} if answer.answer_id is None else {"answer_id": answer.answer_id}
        rows.append({"question_id": answer.question_id, "text": answer.text or "", **own})
    contexts, rules = benchmark.contexts(), benchmark.file_if_any("rule.json")
    return JudgeInputs(answered, references, rows, contexts, rules, len(questions) - len(answered))
