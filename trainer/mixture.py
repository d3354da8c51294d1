"""VIG and VIC samples from the rows of several datasets. Every draw is a function of (seed, epoch, index).

No global random generator is used, so that a resumed run gets the same samples, with any number of loader workers and
processes.
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
# Number of rows that are tried when images cannot be opened, before training ends with an error.
_TRIES = 20


@dataclass(slots=True)
class Sample:
    """A training sample: given `image` and `text`, the model learns to generate `target`.

    Args:
        image: RGB; None if there are cached features.
        text: The prompt for VIG or VIC.
        target: VIG: " Question: ... Answer: ..."; VIC: the answer.
        task: "vig" or "vic".
        type: The task type.
        group: In evaluation: index of the group whose loss the sample counts for.
        place: In training: (dataset, row) of the sample.
        image_embeds: Cached features instead of the image, the ViT's output, float (patches + 1, vision width).
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
    """Training samples, indexed by (epoch, index).

    An epoch has `samples_per_epoch` samples in random order; the weight of a dataset determines its share. Every row of
    a dataset is drawn once as VIG and once as VIC before any is drawn again, also across epochs. If an image cannot be
    opened, another row of the dataset, also determined by (seed, epoch, index), replaces it.

    Args:
        rows: Datasets with the columns of `TRAIN_FEATURES` or `GENERATED_FEATURES`.
        seed: Seed of all draws, together with epoch and index.
        weights: Relative share of each dataset; by default the square root of its size, as in the release.
        samples_per_epoch: Number of samples; by default the number of rows.
        tasks: "vig", "vic" or both.
        prefix_probability: How often VIC gets a random number of the answer's first sentences with the question, and
            learns the rest, as in inference with the Iterative Q-Former. 0 in the paper.
        image_size: (width, height) of augmented images; None for no augmentation.
        min_crop: The smallest area ratio of a crop.

    Raises:
        ValueError: A dataset lacks columns, is empty or has an unknown type, or the weights do not fit the datasets.
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
            raise TrainingError("A mixture needs at least one dataset.")
        sizes = [len(part) for part in self.rows]
        self.weights = [math.sqrt(size) for size in sizes] if weights is None else [float(one) for one in weights]
        if len(self.weights) != len(sizes) or min(self.weights) < 0 or sum(self.weights) <= 0:
            raise TrainingError(
                f"weights={weights}: give one number, 0 or more, for each of the {len(sizes)} datasets."
            )
        self.seed = seed
        self.samples_per_epoch = samples_per_epoch or sum(sizes)
        self.tasks = tuple(tasks)
        self.prefix_probability = prefix_probability
        self.image_size = image_size
        self.min_crop = min_crop
        # Set by `compute_features`; samples then have features instead of images.
        self.features: ImageFeatures | None = None
        self.counts = shares(self.samples_per_epoch, self.weights)
        # In shared memory, because loader workers set these flags.
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
            f"{_TRIES} rows of dataset {part} in succession have no readable image: {last}. Do the images still exist?"
        )

    def unreadable(self) -> list[tuple[int, int]]:
        """(dataset, row) of the rows drawn so far whose images could not be opened."""
        return [(part, int(row)) for part, rows in enumerate(self._unreadable) for row in rows.nonzero().ravel()]

    def plan(self, epoch: int) -> np.ndarray:
        """The samples of an epoch, int64 (samples, 3): dataset, row, task."""
        if self._plan is None or self._plan[0] != epoch:
            parts = [self._draws(part, epoch) for part in range(len(self.rows))]
            order = np.random.default_rng([self.seed, epoch]).permutation(self.samples_per_epoch)
            self._plan = (epoch, np.concatenate(parts)[order])
        return self._plan[1]

    def lengths(self, epoch: int) -> np.ndarray:
        """The approximate length of each sample, int64 (samples,): characters of question and first answer."""
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
        """The draws of a dataset in an epoch, from its endless sequence of shuffled (row, task) pairs."""
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
            # Includes the prompt of inference, which is not among the paraphrases.
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
    """Evaluation samples: each row as VIG and as VIC, with the prompts of inference and its likeliest answer.

    Nothing is random. Published and generated rows can be combined: missing columns are null.

    Args:
        rows: Datasets, as in [`VigcMixture`].
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
        texts = {"vig": (kind.prompt, pair_text(question, answer)), "vic": (kind.vic_prompt(question), answer)}
        text, target = texts[task]
        return Sample(open_row_image(row), text, target, task, kind.name, self.groups.index(f"{task}_{kind.name}"))


def _texts(rows: datasets.Dataset) -> datasets.Dataset:
    """The columns that lengths are computed from."""
    wanted = ("question", "answers", "answer", "conversation_id")
    return rows.select_columns([name for name in wanted if name in rows.column_names])


def _with_prefix(text: str, answer: str, rng: Random) -> tuple[str, str]:
    """Moves a random number of the answer's first sentences to the prompt, at least one; the last one always stays."""
    ends, at = [], 0
    while end := _SENTENCES.end(answer[at:], complete=True):
        at += end
        ends.append(at)
    ends = [end for end in ends if answer[end:].strip()]
    if not ends:
        return text, answer
    end = rng.choice(ends)
    return f"{text} {answer[:end].strip()}", answer[end:].strip()
