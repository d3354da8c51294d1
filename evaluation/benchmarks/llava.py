"""LLaVA-eval: 90 questions about 30 images of COCO, whose answers a judge scores."""

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

# Takes questions, references, the model's answers and contexts in the layout of LLaVA's files; returns reviews with
# `question_id`, `category` and `scores` (the reference's first).
Judging = Callable[..., Sequence[Entry]]


def read_reviews(path: Path) -> Judging:
    """Existing reviews in LLaVA's layout, with `scores` or `tuple`, as a judging function."""

    def judging(*_: Any) -> list[Entry]:
        return read_entries(path, "question_id")

    return judging


def _refused(review: Entry) -> bool:
    """Whether the judge refused the request, so that there is nothing to count."""
    return review.get("scores", ()) is None


@dataclass
class LlavaBench(Benchmark):
    """LLaVA-Bench (COCO). Its metrics need reviews; without them only the file of answers is written."""

    reviews: list[Entry] = field(default_factory=list, repr=False)

    name, title, metric, main = "llava", "LLaVA-eval", "llava_relative_score", "all"
    summary = "LLaVA-eval: 90 questions about 30 images of COCO, scored by a judge."
    source = (
        "https://github.com/haotian-liu/LLaVA (playground/data/coco2014_val_qa_eval and llava/eval/table), and the "
        "images from https://cocodataset.org (val2014)"
    )
    max_new_tokens = 512

    def read(self) -> list[Question]:
        """All questions, with their reference answers if that file exists."""
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
        """The published reference answers; empty if the file does not exist."""
        path = self.file_if_any("qa90_gpt4_answer.jsonl")
        return [] if path is None else read_entries(path, "question_id", "text")

    def contexts(self) -> list[Entry]:
        """The published contexts of the images for the judge: captions and boxes."""
        return read_entries(self.file("caps_boxes_coco2014_val_80.jsonl"), "image", "captions", "instances")

    def answers(self, questions: Sequence[Question], predictions: Predictions, model: str) -> list[Entry]:
        """The model's answers in LLaVA's layout; ids only depend on model and question."""
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
        """Gets reviews of the answers.

        Raises:
            EvaluationError: A question has no reference answer.
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
        """A unit per question with all its reviews; none for questions that the judge refused or has not reviewed."""
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
        # Published reviews only have "tuple", parsed by the released script; ours also have `scores`, parsed by us.
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
        """See [`llava_relative_score.figures`]."""
        return relative.figures(sums)

    def submission(self, questions: Sequence[Question], predictions: Predictions, model: str) -> dict[str, bytes]:
        """LLaVA's file of answers."""
        return {"answers.jsonl": json_lines(self.answers(questions, predictions, model))}


@dataclass(frozen=True)
class JudgeInputs:
    """The inputs of [`judge_answers`].

    Args:
        questions: The questions with an answer.
        references: The published answers to all questions.
        answers: The model's answers, possibly to more questions.
        contexts: The contexts of the images.
        rules: The published file of rules, if it exists.
        unanswered: Number of questions without an answer.
    """

    questions: list[Entry]
    references: list[Entry]
    answers: list[Entry]
    contexts: list[Entry]
    rules: Path | None
    unanswered: int


def read_judge_inputs(data: Path, answers: Path) -> JudgeInputs:
    """Reads LLaVA's files, which `vigc evaluate llava` reads too, and a model's answers in any supported layout.

    Raises:
        EvaluationError: A file is missing, or no question has an answer.
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
    # An answer without text, whose image could not be opened, becomes an empty text, as in the file of answers.
    rows: list[Entry] = []
    for answer in given:
        own = {} if answer.answer_id is None else {"answer_id": answer.answer_id}
        rows.append({"question_id": answer.question_id, "text": answer.text or "", **own})
    contexts, rules = benchmark.contexts(), benchmark.file_if_any("rule.json")
    return JudgeInputs(answered, references, rows, contexts, rules, len(questions) - len(answered))
