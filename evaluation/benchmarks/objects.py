"""CHAIR and POPE: object hallucination in descriptions and in yes-no answers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vigc.errors import EvaluationError
from vigc.evaluation.metrics.chair import chair
from vigc.evaluation.metrics.pope import pope
from vigc.formats.coco import coco_names
from vigc.formats.llava import image_id_of

from .base import Benchmark, Numbers, Option, Predictions, Question, Unit, picture_names
from .entries import Entry, json_lines, read_entries
from .instances import Instances, polled_objects

_COCO = "https://cocodataset.org (annotations_trainval2014, val2014)"
SETTINGS = ("random", "popular", "adversarial")


def _instances(benchmark: Benchmark, split: str | None) -> Instances | None:
    """The instance annotations in a benchmark's folder, if they exist."""
    names = [f"instances_{split}.json"] if split else ["instances_val2014.json", "instances.json"]
    path = benchmark.file_if_any(*names)
    return None if path is None else Instances.read(path)


def _names(instances: Instances, image: int) -> tuple[str, ...]:
    """Possible file names of an image."""
    return (instances.images[image], *coco_names(image))


@dataclass
class Chair(Benchmark):
    """CHAIR on images with instance annotations: of COCO, Objects365 or `vigc scenes`."""

    name, title, metric, main = "chair", "CHAIR", "chair", "CHAIR_i"
    summary = "CHAIR: hallucinated objects in descriptions; COCO, or any instance annotations in its layout."
    source = f"{_COCO}, or any file of that layout as instances.json"
    template = "Describe this image in detail."
    asks = ()
    options = (
        Option(
            "synonyms",
            "A file with an object category and its synonyms on each line, such as the authors' synonyms.txt.",
            Path,
            "synonyms.txt in --data, or a built-in list",
        ),
    )
    max_new_tokens = 512

    vocabulary: chair.Vocabulary = field(init=False, repr=False)

    def read(self) -> list[Question]:
        """A question per image with instances; objects in human captions count as present too."""
        instances = _instances(self, self.settings.split)
        if instances is None:
            split = self.settings.split or "val2014"
            raise EvaluationError(
                f"CHAIR needs instances_{split}.json or instances.json in {self.settings.data}: get it from "
                f"{self.source}."
            )
        self.partial = True
        synonyms = self.settings.own.get("synonyms") or self.file_if_any("synonyms.txt")
        self.vocabulary = instances.vocabulary(synonyms)
        captions = self.file_if_any(instances.path.name.replace("instances", "captions"))
        if captions is not None:
            instances.add_captions(captions, self.vocabulary)
        found = []
        for image in instances.images:
            names = _names(instances, image)
            reference = {"image_id": image, "objects": sorted(instances.objects[image])}
            asked = self.asked(self.template)
            found.append(Question(str(image), str(image), self.picture(*names), names[0], *asked, reference))
        return found

    def units(self, questions: Sequence[Question], predictions: Predictions) -> list[Unit]:
        """A unit per image."""
        return [
            Unit(question.id, question.image_id, self._counts(predictions[question.id], question))
            for question in questions
        ]

    def _counts(self, text: str | None, question: Question) -> dict[str, float]:
        names = [name.split("/")[0] for name in question.reference["objects"]]
        return chair.counts(text or "", names, self.vocabulary)

    def figures(self, sums: Numbers) -> Numbers:
        """Those of the metric."""
        return chair.figures(sums)

    def submission(self, questions: Sequence[Question], predictions: Predictions, model: str) -> dict[str, bytes]:
        """COCO's results file of captions, which CHAIR's script takes: a list of `{image_id, caption}`."""
        rows = [
            {"image_id": question.reference["image_id"], "caption": predictions[question.id] or ""}
            for question in questions
        ]
        return {"submission.json": json.dumps(rows).encode()}


class Pope(Benchmark):
    """POPE as published, or with questions made from the instance annotations of any images."""

    name, title, metric, main = "pope", "POPE", "pope", "f1"
    summary = "POPE: yes-no questions about objects; as published, or made from any instance annotations."
    source = "https://github.com/RUCAIBox/POPE (output/coco), and the images from https://cocodataset.org (val2014)"
    asks = ("{question}", "{object}", "{an_object}")
    max_new_tokens = 32

    def read(self) -> list[Question]:
        """The questions of all settings, or of the setting `split`; ids are `<setting>/<question_id>`."""
        split = self.settings.split
        chosen = [split] if split in SETTINGS else SETTINGS
        files = {name: f"coco_pope_{name}.json" for name in chosen}
        folders = ("", "coco", "output/coco")
        if any(self.file_if_any(file, folders=folders) for file in files.values()):
            if split is not None and split not in SETTINGS:
                raise EvaluationError(f"POPE has no split {split!r}: use one of {', '.join(SETTINGS)}.")
            fields = ("question_id", "image", "text", "label")
            rows = {name: read_entries(self.file(file, folders=folders), *fields) for name, file in files.items()}
        elif (instances := _instances(self, None if split in SETTINGS else split)) is not None:
            polled = polled_objects(instances.objects, instances.kinds, self.settings.seed)
            rows = {name: _polls(instances, polled[name]) for name in chosen}
            self.partial = True
        else:
            raise EvaluationError(
                f"POPE needs coco_pope_{chosen[0]}.json in {self.settings.data}: get it from {self.source}. Its "
                "questions can also be made here from COCO's or another file of instances, as instances.json."
            )
        return [self._question(name, row) for name, listed in rows.items() for row in listed]

    def _question(self, setting: str, row: Entry) -> Question:
        if row["label"] not in pope.LABELS:
            raise EvaluationError(f"POPE, question {row['question_id']}: 'label' is {row['label']!r}, not yes or no.")
        kind = row.get("object")
        words = {} if kind is None else {"object": kind, "an_object": _with_article(kind)}
        asked = self.asked(row["text"], **words)
        key = f"{setting}/{row['question_id']}"
        names = row.get("names") or picture_names(row["image"])
        reference = {name: row[name] for name in ("question_id", "image", "label")} | {"setting": setting}
        place = (key, image_id_of(row["image"]), self.picture(*names), row["image"])
        return Question(*place, *asked, {**reference, "object": kind})

    def units(self, questions: Sequence[Question], predictions: Predictions) -> list[Unit]:
        """A unit per question, counted for all and for its setting."""
        settings = [name for name in SETTINGS if any(question.reference["setting"] == name for question in questions)]
        units = []
        for question in questions:
            counted = pope.counts(predictions[question.id] or "", question.reference["label"])
            row: dict[str, float] = dict(counted)
            for setting in settings:
                inside = question.reference["setting"] == setting
                row |= {f"{setting}/{name}": number * inside for name, number in counted.items()}
            units.append(Unit(question.id, question.image_id, row))
        return units

    def figures(self, sums: Numbers) -> Numbers:
        """See [`pope.figures`]: over all questions and, with the prefix `<setting>/`, for each setting."""
        found = dict(pope.figures(sums))
        for setting in SETTINGS:
            own = {name.removeprefix(f"{setting}/"): value for name, value in sums.items() if name.startswith(setting)}
            if own:
                found |= {f"{setting}/{name}": value for name, value in pope.figures(own).items()}
        return found

    def submission(self, questions: Sequence[Question], predictions: Predictions, model: str) -> dict[str, bytes]:
        """For each setting the answers in the layout of POPE's script, and the questions if they were made here."""
        files = {}
        for setting in SETTINGS:
            own = [question for question in questions if question.reference["setting"] == setting]
            answers, asked = [], []
            for question in own:
                known = question.reference
                shown = {"question_id": known["question_id"], "image": known["image"], "text": question.prompt}
                asked.append({**shown, "label": known["label"]})
                said = predictions[question.id] or ""
                answers.append({"question_id": known["question_id"], "question": question.prompt, "answer": said})
            if own:
                files[f"answers_{setting}.jsonl"] = json_lines(answers)
            if own and own[0].reference["object"] is not None:  # the questions were made here
                files[f"coco_pope_{setting}.json"] = json_lines(asked)
        return files


def _polls(instances: Instances, polled: Mapping[int, list[tuple[str, str]]]) -> list[Entry]:
    """Questions in POPE's layout about the sampled objects."""
    rows: list[Entry] = []
    for image, pairs in polled.items():
        names = _names(instances, image)
        for kind, label in pairs:
            name = kind.split("/")[0].lower()
            text = f"Is there {_with_article(name)} in the image?"
            row = {"question_id": len(rows) + 1, "image": names[0], "text": text, "label": label}
            rows.append({**row, "object": name, "names": names})
    return rows


def _with_article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"
