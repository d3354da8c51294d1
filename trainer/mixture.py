"""VIG and VIC samples from the rows of several data sets, every draw a function of (seed, epoch, index).

No global random generator is asked, so that a run that goes on from a checkpoint sees what it would have seen, with
any number of loader workers and processes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

import datasets
import numpy as np
import torch
from PIL import Image

from vigc.errors import ImageError, TrainingError
from vigc.modeling_vigc.sentences_vigc import UnitRule
from vigc.processing import pair_text
from vigc.processing.instructions_vigc import instruction_type

from .augment import augmented
from .rows import aligned, answers_of, check_answers, draw_answer, likeliest_answer, open_row_image, readable, shares

if TYPE_CHECKING:
    from .vision_cache import ImageFeatures

_SENTENCES = UnitRule()
# Rows that are tried in the place of one whose picture cannot be opened, before all are given up.
_TRIES = 20


@dataclass(slots=True)
class Sample:
    """What the model is trained on: it sees `image` and `text`, and learns to write `target`.

    Args:
        image: RGB; None where its features are known.
        text: What VIG or VIC is asked.
        target: VIG: " Question: ... Answer: ..."; VIC: the answer.
        task: "vig" or "vic".
        type: Type of instruction.
        group: In evaluation: which figure the sample counts for.
        place: In training: (data set, row) that it was made of.
        image_embeds: Instead of the picture: what the ViT makes of it, float (patches + 1, vision width).
    """

    image: Image.Image | None
    text: str
    target: str
    task: str
    type: str
    group: int | None = None
    place: tuple[int, int] | None = None
    image_embeds: torch.Tensor | None = None


class VigcMixture(torch.utils.data.Dataset):
    """Training samples, addressed by (epoch, index).

    An epoch holds `samples_per_epoch` samples in random order, each data set's share of them given by its weight.
    Every row of a data set is drawn as VIG and as VIC once before any is drawn again, across the ends of epochs. Where
    a picture cannot be opened, another row of the data set, which (seed, epoch, index) decides too, takes its place.

    Args:
        rows: Data sets with the columns of `TRAIN_FEATURES` or `GENERATED_FEATURES`.
        seed: Decides every draw, together with epoch and index.
        weights: Share of each data set, up to scale; by default the square root of its size, as in the release.
        samples_per_epoch: By default as many as there are rows.
        tasks: "vig", "vic" or both.
        prefix_probability: How often VIC gets an answer's first sentences, drawn at random, with the question, and
            learns the rest: what the Iterative Q-Former asks of it. 0 in the paper.
        image_size: (width, height) of augmented pictures; None leaves pictures as they are.
        min_crop: The smallest share of a picture's area that is kept.

    Raises:
        ValueError: A data set lacks columns, is empty or has an unknown type, or weights that fit no data set.
    """

    def __init__(
        self,
        rows: Sequence[datasets.Dataset],
        *,
        seed: int = 42,
        weights: Sequence[float] | None = None,
        samples_per_epoch: int | None = None,
        tasks: Sequence[str] = ("vig", "vic"),
        prefix_probability: float = 0.0,
        image_size: tuple[int, int] | None = None,
        min_crop: float = 0.5,
    ) -> None:
        self.rows = [readable(part, index) for index, part in enumerate(rows)]
        for index, part in enumerate(self.rows):
            check_answers(part, index)
        if not self.rows:
            raise TrainingError("A mixture needs at least one data set.")
        sizes = [len(part) for part in self.rows]
        self.weights = [math.sqrt(size) for size in sizes] if weights is None else [float(one) for one in weights]
        if len(self.weights) != len(sizes) or min(self.weights) < 0 or sum(self.weights) <= 0:
            raise TrainingError(
                f"weights={weights}: give one number, 0 or more, for each of the {len(sizes)} data sets."
            )
        self.seed = seed
        self.samples_per_epoch = samples_per_epoch or sum(sizes)
        self.tasks = tuple(tasks)
        self.prefix_probability = prefix_probability
        self.image_size = image_size
        self.min_crop = min_crop
        # Set by who has computed them, and then what samples bring instead of pictures.
        self.features: ImageFeatures | None = None
        self.counts = shares(self.samples_per_epoch, self.weights)
        # Marked by whichever process met them: loader workers share this memory.
        self._unreadable = [torch.zeros(size, dtype=torch.bool).share_memory_() for size in sizes]
        self._plan: tuple[int, np.ndarray] | None = None
        self._lengths: list[np.ndarray] | None = None

    def __len__(self) -> int:
        return self.samples_per_epoch

    def __getitem__(self, place: tuple[int, int]) -> Sample:
        epoch, index = place
        part, row, task = (int(number) for number in self.plan(epoch)[index])
        rng = Random(f"{self.seed}/{epoch}/{index}")
        for attempt in range(_TRIES):
            try:
                return self._sample((part, row), self.tasks[task], rng)
            except ImageError as error:
                last = error
                self._unreadable[part][row] = True
                rng = Random(f"{self.seed}/{epoch}/{index}/{attempt}")
                row = rng.randrange(len(self.rows[part]))
        raise TrainingError(
            f"{_TRIES} rows of data set {part} were tried in a row: {last}. Are the pictures still there?"
        )

    def unreadable(self) -> list[tuple[int, int]]:
        """(data set, row) of the rows met so far whose pictures could not be opened."""
        return [(part, int(row)) for part, rows in enumerate(self._unreadable) for row in rows.nonzero().ravel()]

    def plan(self, epoch: int) -> np.ndarray:
        """What an epoch is made of, int64 (samples, 3): data set, row, task."""
        if self._plan is None or self._plan[0] != epoch:
            parts = [self._draws(part, epoch) for part in range(len(self.rows))]
            order = np.random.default_rng([self.seed, epoch]).permutation(self.samples_per_epoch)
            self._plan = (epoch, np.concatenate(parts)[order])
        return self._plan[1]

    def lengths(self, epoch: int) -> np.ndarray:
        """About how long each sample of an epoch is, int64 (samples,): characters of question and first answer."""
        plan = self.plan(epoch)
        if self._lengths is None:
            self._lengths = [
                np.array([len(row["question"]) + len(answers_of(row)[0]) for row in _texts(part)]) for part in self.rows
            ]
        lengths = np.empty(len(plan), dtype=np.int64)
        for part, known in enumerate(self._lengths):
            here = plan[:, 0] == part
            lengths[here] = known[plan[here, 1]]
        return lengths

    def _draws(self, part: int, epoch: int) -> np.ndarray:
        """The next `counts[part]` of a data set's endless sequence: all rows and tasks shuffled, and again."""
        count, tasks = self.counts[part], len(self.tasks)
        items = len(self.rows[part]) * tasks
        places = np.arange(epoch * count, (epoch + 1) * count)
        drawn = np.empty((count, 3), dtype=np.int64)
        for turn in np.unique(places // items):
            order = np.random.default_rng([self.seed, part, int(turn), 1]).permutation(items)
            here = places // items == turn
            item = order[places[here] % items]
            drawn[here] = np.stack([np.full_like(item, part), item // tasks, item % tasks], axis=1)
        return drawn

    def _sample(self, place: tuple[int, int], task: str, rng: Random) -> Sample:
        row = self.rows[place[0]][place[1]]
        kind, answer = instruction_type(row["type"]), draw_answer(row, rng)
        question = row["question"].strip()
        if task == "vig":
            # The prompt of inference is one more wording, or training would never meet it.
            text, target = rng.choice((kind.prompt, *kind.paraphrases)), pair_text(question, answer)
        else:
            text, target = rng.choice(kind.answer_templates).format(question=question), answer
            if self.prefix_probability and rng.random() < self.prefix_probability:
                text, target = _with_prefix(text, target, rng)
        if self.features is not None:
            return Sample(None, text, target, task, kind.name, place=place, image_embeds=self.features.of(row["image"]))
        image = open_row_image(row)
        if self.image_size is not None:
            image = augmented(image, self.image_size, self.min_crop, rng)
        return Sample(image, text, target, task, kind.name, place=place)


class EvaluationPairs(torch.utils.data.Dataset):
    """Each row as VIG and as VIC, asked as at inference, with its likeliest answer; nothing is random.

    Published and generated rows can stand together: their columns are aligned, and what one lacks is null.

    Args:
        rows: Data sets, as of [`VigcMixture`].
        tasks: "vig", "vic" or both.
    """

    def __init__(self, rows: Sequence[datasets.Dataset], tasks: Sequence[str] = ("vig", "vic")) -> None:
        parts = [readable(part, index) for index, part in enumerate(rows)]
        for index, part in enumerate(parts):
            check_answers(part, index)
        self.rows = datasets.concatenate_datasets([aligned(part) for part in parts])
        self.tasks = tuple(tasks)
        types = sorted(set(self.rows.unique("type")))
        self.groups = [f"{task}_{kind}" for task in self.tasks for kind in types]

    def __len__(self) -> int:
        return len(self.rows) * len(self.tasks)

    def __getitem__(self, index: int) -> Sample:
        row, task = self.rows[index // len(self.tasks)], self.tasks[index % len(self.tasks)]
        kind, question = instruction_type(row["type"]), row["question"].strip()
        answer = likeliest_answer(row)
        asked = {"vig": (kind.prompt, pair_text(question, answer)), "vic": (kind.vic_prompt(question), answer)}
        text, target = asked[task]
        return Sample(open_row_image(row), text, target, task, kind.name, self.groups.index(f"{task}_{kind.name}"))


def _texts(rows: datasets.Dataset) -> datasets.Dataset:
    """The columns that lengths are read from."""
    wanted = ("question", "answers", "answer", "conversation_id")
    return rows.select_columns([name for name in wanted if name in rows.column_names])


def _with_prefix(text: str, answer: str, rng: Random) -> tuple[str, str]:
    """Moves 1 to all but 1 of the answer's sentences behind the text; an answer of one sentence stays whole."""
    ends, at = [], 0
    while end := _SENTENCES.end(answer[at:], complete=True):
        at += end
        ends.append(at)
    ends = [end for end in ends if answer[end:].strip()]
    if not ends:
        return text, answer
    end = rng.choice(ends)
    return f"{text} {answer[:end].strip()}", answer[end:].strip()
