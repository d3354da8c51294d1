"""VIG and VIC samples from the rows of several data sets, every draw a function of (seed, epoch, index).

No global random generator is asked, so that a run that goes on from a checkpoint sees what it would have seen, with
any number of loader workers and processes.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any

import datasets
import numpy as np
import torch
from PIL import Image

from vigc.errors import ImageError
from vigc.modeling_vigc.sentences_vigc import UnitRule
from vigc.processing import open_image, pair_text
from vigc.processing.instructions_vigc import instruction_type
from vigc.processing.llava import short

from .augment import augmented

if TYPE_CHECKING:
    from .features import ImageFeatures

logger = logging.getLogger(__name__)

_COLUMNS = ("image", "type", "question")
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
        image_embeds: Instead of the picture: what the ViT makes of it, float (patches + 1, vision width).
    """

    image: Image.Image | None
    text: str
    target: str
    task: str
    type: str
    group: int | None = None
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
        if not self.rows:
            raise ValueError("A mixture needs at least one data set.")
        sizes = [len(part) for part in self.rows]
        self.weights = [math.sqrt(size) for size in sizes] if weights is None else [float(one) for one in weights]
        if len(self.weights) != len(sizes) or min(self.weights) < 0 or sum(self.weights) <= 0:
            raise ValueError(f"weights={weights}: give one number, 0 or more, for each of the {len(sizes)} data sets.")
        self.seed = seed
        self.samples_per_epoch = samples_per_epoch or sum(sizes)
        self.tasks = tuple(tasks)
        self.prefix_probability = prefix_probability
        self.image_size = image_size
        self.min_crop = min_crop
        # Set by who has computed them, and then what samples bring instead of pictures.
        self.features: ImageFeatures | None = None
        self.counts = _shares(self.samples_per_epoch, self.weights)
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
                return self._sample(self.rows[part][row], self.tasks[task], rng)
            except ImageError as error:
                last = error
                self._unreadable[part][row] = True
                rng = Random(f"{self.seed}/{epoch}/{index}/{attempt}")
                row = rng.randrange(len(self.rows[part]))
        raise ValueError(f"{_TRIES} rows of data set {part} were tried in a row: {last}. Are the pictures still there?")

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

    def _sample(self, row: Mapping[str, Any], task: str, rng: Random) -> Sample:
        kind = instruction_type(row["type"])
        answer = rng.choice(answers_of(row))  # listed as often as it was given
        question = row["question"].strip()
        if task == "vig":
            # The prompt of inference is one more wording, or training would never meet it.
            text, target = rng.choice((kind.prompt, *kind.paraphrases)), pair_text(question, answer)
        else:
            text, target = rng.choice(kind.answer_templates).format(question=question), answer
            if self.prefix_probability and rng.random() < self.prefix_probability:
                text, target = _with_prefix(text, target, rng)
        if self.features is not None:
            return Sample(None, text, target, task, kind.name, image_embeds=self.features.of(row["image"]))
        image = open_row_image(row)
        if self.image_size is not None:
            image = augmented(image, self.image_size, self.min_crop, rng)
        return Sample(image, text, target, task, kind.name)


class EvaluationPairs(torch.utils.data.Dataset):
    """Each row as VIG and as VIC, asked as at inference, with its most frequent answer; nothing is random.

    Args:
        rows: Data sets, as of [`VigcMixture`].
        tasks: "vig", "vic" or both.
    """

    def __init__(self, rows: Sequence[datasets.Dataset], tasks: Sequence[str] = ("vig", "vic")) -> None:
        parts = [readable(part, index) for index, part in enumerate(rows)]
        common = [name for name in parts[0].column_names if all(name in part.column_names for part in parts)]
        self.rows = datasets.concatenate_datasets([part.select_columns(common) for part in parts])
        self.tasks = tuple(tasks)
        types = sorted(set(self.rows.unique("type")))
        self.groups = [f"{task}_{kind}" for task in self.tasks for kind in types]

    def __len__(self) -> int:
        return len(self.rows) * len(self.tasks)

    def __getitem__(self, index: int) -> Sample:
        row, task = self.rows[index // len(self.tasks)], self.tasks[index % len(self.tasks)]
        kind, question = instruction_type(row["type"]), row["question"].strip()
        answer = Counter(answers_of(row)).most_common(1)[0][0]
        asked = {"vig": (kind.prompt, pair_text(question, answer)), "vic": (kind.vic_prompt(question), answer)}
        text, target = asked[task]
        return Sample(open_row_image(row), text, target, task, kind.name, self.groups.index(f"{task}_{kind.name}"))


def readable(rows: datasets.Dataset, index: int) -> datasets.Dataset:
    """`rows` with its pictures undecoded, once it is known that samples can be made of them."""
    lacking = [name for name in _COLUMNS if name not in rows.column_names]
    if not {"answers", "answer"} & set(rows.column_names):
        lacking.append("answers")
    if lacking:
        raise ValueError(
            f"Data set {index} has no {', '.join(lacking)}, only {', '.join(rows.column_names)}: training rows have "
            "the columns of vigc.processing.TRAIN_FEATURES."
        )
    if not len(rows):
        raise ValueError(f"Data set {index} is empty: there is nothing to draw from.")
    for name in rows.unique("type"):
        instruction_type(name)
    # Ours opens them, with limits on size and upright.
    return rows.cast_column("image", datasets.Image(decode=False))


def answers_of(row: Mapping[str, Any]) -> list[str]:
    """All answers to choose from; a generated row of a type with a single answer has `answer` only."""
    answers = [text.strip() for text in row.get("answers") or [row.get("answer") or ""]]
    answers = [text for text in answers if text]
    if not answers:
        raise ValueError(
            f"The question {short(row['question'])} ({row.get('conversation_id')}) has no answer: drop this row."
        )
    return answers


def open_row_image(row: Mapping[str, Any]) -> Image.Image:
    """The picture of an undecoded row; raises `ImageError` with its name."""
    image = row["image"]
    return open_image(image["path"] if image["bytes"] is None else image["bytes"], name=image["path"])


def openable(rows: datasets.Dataset) -> datasets.Dataset:
    """Undecoded rows without those whose picture cannot be opened; each such picture is said in a warning.

    Raises:
        ValueError: None can.
    """
    good, kept = {}, []
    for index, image in enumerate(rows["image"]):
        key = image["path"] if image["bytes"] is None else index
        if key not in good:
            try:
                open_row_image({"image": image})
            except ImageError as error:
                logger.warning("Left out of evaluation: %s", error)
                good[key] = False
            else:
                good[key] = True
        kept += [index] if good[key] else []
    if not kept:
        raise ValueError(f"None of the {len(rows)} pictures of evaluation rows can be opened: is this their folder?")
    return rows if len(kept) == len(rows) else rows.select(kept)


def source_of(rows: datasets.Dataset) -> str:
    """Where a data set's rows come from, as they say."""
    names = rows.unique("source") if "source" in rows.column_names else []
    return ", ".join(sorted(str(name) for name in names if name)) or "unnamed"


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


def _shares(total: int, weights: Sequence[float]) -> list[int]:
    """Whole numbers in proportion to `weights` that add up to `total`: the largest remainders are rounded up."""
    exact = [total * weight / sum(weights) for weight in weights]
    counts = [math.floor(share) for share in exact]
    by_remainder = sorted(range(len(exact)), key=lambda index: counts[index] - exact[index])
    for index in by_remainder[: total - sum(counts)]:
        counts[index] += 1
    return counts
