"""OK-VQA and A-OKVQA: short answers compared with human answers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from vigc.errors import AnnotationError, EvaluationError
from vigc.evaluation.metrics.mmbench.mmbench import LETTERS, read_choice
from vigc.evaluation.metrics.vqa_accuracy import vqa_accuracy
from vigc.formats.coco import coco_names
from vigc.formats.json_rows import stream_entries

from .base import Benchmark, Numbers, Predictions, Question, Unit
from .entries import checked, read_entries

_BRIEF = "{question}\nAnswer with a single word or a short phrase."


class OkVqa(Benchmark):
    """OK-VQA: questions that need outside knowledge, from two files in VQA's layout."""

    name, title, metric, main = "okvqa", "OK-VQA", "vqa_accuracy", "accuracy"
    summary = "OK-VQA: short answers that need outside knowledge, by VQA accuracy."
    source = "https://okvqa.allenai.org/download.html, and the images from https://cocodataset.org (val2014)"
    template = _BRIEF
    max_new_tokens = 16

    def read(self) -> list[Question]:
        """All questions, with ten reference answers each."""
        part = f"{self.settings.split or 'val'}2014"
        path = self.file(f"OpenEnded_mscoco_{part}_questions.json")
        answered = self.file(f"mscoco_{part}_annotations.json")
        answers = self._answers(answered)
        found = []
        for index, item in enumerate(stream_entries(path, "questions")):
            entry = checked(path, index, item, ("image_id", "question", "question_id"))
            key, image = entry["question_id"], entry["image_id"]
            if key not in answers:
                raise AnnotationError(path, f"question {key!r} has no annotation in {answered}.", index)
            names = coco_names(image, part)
            reference = {"question_id": key, "answers": answers[key]}
            asked = self.asked(entry["question"], "okvqa")
            found.append(Question(str(key), str(image), self.picture(*names), names[0], *asked, reference))
        return found

    def _answers(self, path: Any) -> dict[Any, list[str]]:
        found = {}
        for index, item in enumerate(stream_entries(path, "annotations")):
            entry = checked(path, index, item, ("question_id", "answers"))
            given = entry["answers"]
            if not isinstance(given, list) or not all(isinstance(one, dict) and "answer" in one for one in given):
                raise AnnotationError(path, f"'answers' is {str(given)[:80]}: a list of objects is expected.", index)
            found[entry["question_id"]] = [one["answer"] for one in given]
        return found

    def units(self, questions: Sequence[Question], predictions: Predictions) -> list[Unit]:
        """A unit per question."""
        return [
            Unit(
                question.id,
                question.image_id,
                vqa_accuracy.counts(predictions[question.id] or "", question.reference["answers"]),
            )
            for question in questions
        ]

    def figures(self, sums: Numbers) -> Numbers:
        """`accuracy`, as published."""
        return {"accuracy": vqa_accuracy.figures(sums)["accuracy"]}

    def submission(self, questions: Sequence[Question], predictions: Predictions, model: str) -> dict[str, bytes]:
        """VQA's results file: a list of `{question_id, answer}`."""
        rows = [
            {"question_id": question.reference["question_id"], "answer": predictions[question.id] or ""}
            for question in questions
        ]
        return {"submission.json": json.dumps(rows).encode()}


class AOkVqa(Benchmark):
    """A-OKVQA: each question is asked twice, for a direct answer and for one of four choices."""

    name, title, metric, main = "aokvqa", "A-OKVQA", "vqa_accuracy", "direct_answer"
    summary = "A-OKVQA: direct answers and choices; writes the leaderboard's file."
    source = "https://allenai.org/project/a-okvqa, and the images from https://cocodataset.org (val2017)"
    image_folders = ("images", "val2017", "")
    template = _BRIEF
    max_new_tokens = 16
    _CHOICES = "{question}\n{choices}\nAnswer with the letter of the right choice."

    def read(self) -> list[Question]:
        """Two questions per entry: `<question_id>` and `<question_id>:choice`."""
        split = self.settings.split or "val"
        path = self.file(f"aokvqa_v1p0_{split}.json")
        found = []
        for index, entry in enumerate(read_entries(path, "question_id", "image_id", "question", "choices")):
            if not isinstance(entry["choices"], list) or len(entry["choices"]) != len(LETTERS):
                raise AnnotationError(path, f"'choices' is {entry['choices']!r}: four are expected.", index)
            names = coco_names(entry["image_id"], f"{split}2017")
            reference = {
                "question_id": entry["question_id"],
                "choices": dict(zip(LETTERS, entry["choices"], strict=True)),
                "correct": entry.get("correct_choice_idx"),
                "answers": entry.get("direct_answers"),
                # The authors' script excludes these from the direct answers of the test split.
                "skipped": split == "test" and bool(entry.get("difficult_direct_answer")),
            }
            place = (str(entry["image_id"]), self.picture(*names), names[0])
            choices = "\n".join(f"{letter}. {text}" for letter, text in reference["choices"].items())
            chosen = self._CHOICES.format(question=entry["question"], choices=choices)
            direct = self.asked(entry["question"], "aokvqa")
            key = str(entry["question_id"])
            found.append(Question(key, *place, *direct, {**reference, "kind": "direct_answer"}))
            found.append(
                Question(f"{key}:choice", *place, chosen, chosen, None, {**reference, "kind": "multiple_choice"})
            )
        return found

    def units(self, questions: Sequence[Question], predictions: Predictions) -> list[Unit]:
        """A unit per question; empty for a split without published answers."""
        units = []
        for question in questions:
            counts: dict[str, float] = dict.fromkeys(("questions", "accuracy", "exact", "choices", "chosen"), 0)
            said, reference = predictions[question.id] or "", question.reference
            if reference["kind"] == "multiple_choice" and reference["correct"] is not None:
                right = read_choice(said, reference["choices"]) == LETTERS[reference["correct"]]
                counts |= {"choices": 1, "chosen": right}
            elif reference["kind"] == "direct_answer" and reference["answers"] and not reference["skipped"]:
                counts |= vqa_accuracy.counts(said, reference["answers"])
            else:
                continue
            units.append(Unit(question.id, question.image_id, counts))
        return units

    def figures(self, sums: Numbers) -> Numbers:
        """`direct_answer` by VQA accuracy, `direct_answer_exact` as in A-OKVQA's script, and `multiple_choice`."""
        direct = vqa_accuracy.figures(sums)
        chosen = vqa_accuracy.figures({"questions": sums["choices"], "accuracy": sums["chosen"], "exact": 0})
        return {
            "direct_answer": direct["accuracy"],
            "direct_answer_exact": direct["exact"],
            "multiple_choice": chosen["accuracy"],
        }

    def submission(self, questions: Sequence[Question], predictions: Predictions, model: str) -> dict[str, bytes]:
        """The leaderboard's file: `{question_id: {multiple_choice, direct_answer}}`, with the text of the choice."""
        rows: dict[str, dict[str, str]] = {}
        for question in questions:
            said, reference = predictions[question.id] or "", question.reference
            letter = read_choice(said, reference["choices"]) if reference["kind"] == "multiple_choice" else None
            answer = said if letter is None else reference["choices"][letter]
            rows.setdefault(str(reference["question_id"]), {})[reference["kind"]] = answer
        if not all(len(row) == 2 for row in rows.values()):
            raise EvaluationError("A-OKVQA: each question needs a direct answer and a choice.")
        return {"submission.json": json.dumps(rows).encode()}
