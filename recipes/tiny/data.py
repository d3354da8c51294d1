"""Training data of vigc-tiny: images of scenes, their dense labels, and rows of prompts and targets.

Every row is a pure function of (seed, index), so that a training run repeats exactly.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from vigc.processing import INSTRUCTION_TYPES, VigcProcessor, pair_text
from vigc.scenes.language import TOPICS, TYPES, Pair, probes, write_pair
from vigc.scenes.phrases import NUMBERS, describe, with_article
from vigc.scenes.render import render
from vigc.scenes.world import CELLS, COLORS, KINDS, MAX_OF_A_KIND, SIZES, Scene, SceneObject, sample_scenes

IGNORED = -100
KIND_IDS = {name: index for index, name in enumerate(KINDS)}
NO_KIND = len(KIND_IDS)
COLOR_IDS = {name: index for index, name in enumerate(COLORS)}
SIZE_IDS = {name: index for index, name in enumerate(SIZES)}
TRUTHS = (*COLORS, *SIZES, *NUMBERS[1 : MAX_OF_A_KIND + 1], *CELLS, *KINDS, "yes", "no")
TRUTH_IDS = {name: index for index, name in enumerate(TRUTHS)}
# What a head can say about one object, with the number of its classes; "alike" is how many of its kind there are.
OBJECT_HEADS = {
    "kind": NO_KIND + 1,
    "color": len(COLORS),
    "size": len(SIZES),
    "cell": len(CELLS),
    "alike": MAX_OF_A_KIND + 1,
}


def object_labels(scene: Scene, item: SceneObject | None, cell: int | None = None) -> dict[str, int]:
    """The classes of an object; an empty cell only has a place."""
    if item is None:
        nothing = dict.fromkeys(OBJECT_HEADS, IGNORED)
        return {**nothing, "kind": NO_KIND, "cell": IGNORED if cell is None else cell}
    return {
        "kind": KIND_IDS[item.kind],
        "color": COLOR_IDS[item.color],
        "size": SIZE_IDS[item.size],
        "cell": item.cell,
        "alike": len(scene.of_kind(item.kind)),
    }


@dataclass
class Pictures:
    """Scenes with their pixels, uint8 (N, 3, H, W), and, after the ViT is trained, its features."""

    scenes: list[Scene]
    pixels: torch.Tensor
    embeds: torch.Tensor | None = None

    @classmethod
    def sample(cls, seed: int, count: int, unusual: float, start: int = 0) -> Pictures:
        """Samples and renders `count` scenes of the world `seed`."""
        scenes = sample_scenes(seed, count, unusual, start)
        pixels = torch.empty(count, 3, 96, 96, dtype=torch.uint8)
        for index, scene in enumerate(scenes):
            pixels[index] = torch.from_numpy(np.asarray(render(scene).image).transpose(2, 0, 1).copy())
        return cls(scenes, pixels)

    def values(self, rows: list[int] | slice) -> torch.Tensor:
        """`pixel_values` like those of the processor."""
        return (self.pixels[rows].float() / 255 - 0.5) / 0.25

    @torch.no_grad()
    def embed(self, model: Any, batch: int = 256) -> None:
        """Runs the ViT over all images, once, because it is frozen from then on."""
        device = model.device
        parts = [
            model.get_image_embeds(self.values(slice(at, at + batch)).to(device)).cpu()
            for at in range(0, len(self.scenes), batch)
        ]
        self.embeds = torch.cat(parts)


class Rows(Dataset):
    """A dataset of row numbers; `make` creates a row from its number, deterministically."""

    def __init__(self, count: int, make: Callable[[int], Any]) -> None:
        self.count, self.make = count, make

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Any:
        return self.make(index)


def dense_labels(scene: Scene) -> dict[str, list[int]]:
    """For each of the 6 x 6 patches the classes of the object in its cell; for the image, the count of each kind."""
    cells = [object_labels(scene, scene.at(cell), cell) for cell in range(len(CELLS))]
    patches = [cells[(row // 2) * 3 + column // 2] for row in range(6) for column in range(6)]
    labels = {head: [patch[head] for patch in patches] for head in OBJECT_HEADS}
    labels["counts"] = [len(scene.of_kind(kind)) for kind in KINDS]
    return labels


@dataclass(slots=True)
class TextRow:
    """The prompt and target of a row, the number of its scene, and the ground truth of the question."""

    scene: int
    prompt: str
    target: str
    pair: Pair
    focused: bool


def question_row(pictures: Pictures, index: int, seed: int, shares: dict[str, float]) -> TextRow:
    """A question about a scene with its answer: VIC's job.

    `shares` says how often each topic of `TOPICS`, "detail" and "complex" is drawn.
    """
    rng = random.Random(f"question:{seed}:{index}")
    at = rng.randrange(len(pictures.scenes))
    scene = pictures.scenes[at]
    name = rng.choices(list(shares), list(shares.values()))[0]
    pair = _probe(scene, rng, name) if name in TOPICS else write_pair(scene, name, rng.getrandbits(32))
    return TextRow(at, pair.question, pair.answer, pair, focused=pair.type == "conversation")


def _probe(scene: Scene, rng: random.Random, topic: str) -> Pair:
    """A question about the topic, or about existence if the topic does not fit the scene."""
    return next(iter(probes(scene, rng, [topic])), None) or probes(scene, rng, ["exists"])[0]


def instruction_row(
    pictures: Pictures, index: int, seed: int, types: Sequence[str] = TYPES, shares: dict[str, float] | None = None
) -> TextRow:
    """An instruction of one of the types with a whole pair: VIG's job.

    `shares` says how often each topic of `TOPICS` is drawn for a conversation; by default all alike.
    """
    rng = random.Random(f"instruction:{seed}:{index}")
    at = rng.randrange(len(pictures.scenes))
    kind = INSTRUCTION_TYPES[rng.choice(types)]
    pair = write_pair(pictures.scenes[at], kind.name, rng.getrandbits(32))
    if shares is not None and kind.name == "conversation":
        pair = _probe(pictures.scenes[at], rng, rng.choices(list(shares), list(shares.values()))[0])
    prompt = kind.prompt if rng.random() < 0.5 else rng.choice(kind.paraphrases)
    return TextRow(at, prompt, pair_text(pair.question, pair.answer), pair, focused=False)


def prefixed(row: TextRow, rng: random.Random, next_only: bool = False) -> TextRow:
    """The row with the answer's first sentences moved into its prompt, as in VIC's iteration.

    Args:
        row: A row of VIC; a row whose answer has a single sentence is not changed.
        rng: Samples the number of sentences to move.
        next_only: The target is only the next sentence (empty after the last), instead of the rest.
    """
    sentences = _sentences(row.target)
    if len(sentences) < 2:
        return row
    cut = rng.randrange(1, len(sentences) + next_only)
    prompt = " ".join([row.prompt, *sentences[:cut]])
    target = " ".join(sentences[cut : cut + 1] if next_only else sentences[cut:])
    return replace(row, prompt=prompt, target=target)


def reordered(row: TextRow, rng: random.Random) -> TextRow:
    """The row with the objects of a description in random instead of reading order; other rows are not changed."""
    if row.pair.type != "detail":
        return row
    opening, *mentions = _sentences(row.pair.answer)
    rng.shuffle(mentions)
    return _answered(row, [opening, *mentions])


def spelled_out(row: TextRow, scene: Scene) -> TextRow:
    """The row with three sentences for each object of a description: its place, its size, its color.

    Args:
        row: A row of any task type; only descriptions are changed.
        scene: The scene of the row.
    """
    if row.pair.type != "detail":
        return row
    opening, *mentions = _sentences(row.pair.answer)
    sentences = [opening]
    for mention in mentions:
        # The longest, since a ball is the beginning of a balloon.
        named = [item for item in scene.objects if describe(item) in mention.lower()]
        item = max(named, key=lambda item: len(item.kind))
        thing, bare = describe(item), with_article(item.kind)
        mention = mention.replace(thing, bare).replace(thing.capitalize(), bare.capitalize())
        sentences += [mention, f"It is {item.size}.", f"It is {item.color}."]
    return _answered(row, sentences)


def _answered(row: TextRow, sentences: list[str]) -> TextRow:
    """The row with these sentences as its answer."""
    answer = " ".join(sentences)
    target = answer if row.target == row.pair.answer else pair_text(row.pair.question, answer)
    return replace(row, target=target, pair=replace(row.pair, answer=answer))


def _sentences(text: str) -> list[str]:
    return text.replace(". ", ".\n").split("\n")


def query_labels(scene: Scene, row: TextRow, queries: int) -> dict[str, list[int]]:
    """The labels of the queries: for a question, its object and its answer; otherwise one cell per query.

    Where there are fewer queries than cells, theirs are spread over the image.
    """
    if not row.focused:
        places = [number * len(CELLS) // queries for number in range(queries)]
        cells = [object_labels(scene, scene.at(place), place) for place in places]
        return {**{head: [cell[head] for cell in cells] for head in OBJECT_HEADS}, "answer": [IGNORED] * queries}
    item = None if row.pair.cell is None else scene.at(row.pair.cell)
    labels = object_labels(scene, item)
    if row.pair.topic == "count":
        labels["kind"], labels["alike"] = KIND_IDS[row.pair.kind], len(scene.of_kind(row.pair.kind))
    labels["answer"] = TRUTH_IDS[row.pair.truth]
    return {head: [value] * queries for head, value in labels.items()}


class Encoder:
    """Encodes rows to tensors like `VigcProcessor`, for images with cached ViT features."""

    def __init__(self, processor: VigcProcessor, pictures: Pictures) -> None:
        self.processor: Any = processor
        self.pictures = pictures
        self.places = [processor.tokenizer.convert_tokens_to_ids("<image>")] * processor.num_query_tokens

    def qformer(self, rows: list[TextRow]) -> dict[str, torch.Tensor]:
        """`qformer_input_ids` and `qformer_attention_mask`, int64 (B, Q)."""
        tokenizer = self.processor.qformer_tokenizer
        encoding = tokenizer([row.prompt for row in rows], padding=True, return_tensors="pt")
        return {f"qformer_{name}": encoding[name] for name in ("input_ids", "attention_mask")}

    def language(self, rows: list[TextRow], with_image: bool) -> dict[str, torch.Tensor]:
        """`input_ids`, `attention_mask`, `labels`, int64 (B, T), padded on the right."""
        tokenizer = self.processor.tokenizer
        prompts = tokenizer([row.prompt for row in rows])["input_ids"]
        targets = tokenizer([row.target for row in rows], add_special_tokens=False)["input_ids"]
        ids, labels = [], []
        for prompt, target in zip(prompts, targets, strict=True):
            start = [*(self.places if with_image else ()), *prompt]
            target = [*target, tokenizer.eos_token_id]
            ids.append(torch.tensor(start + target))
            labels.append(torch.tensor([IGNORED] * len(start) + target))
        padded = torch.nn.utils.rnn.pad_sequence(ids, True, tokenizer.pad_token_id)
        return {
            "input_ids": padded,
            "attention_mask": (padded != tokenizer.pad_token_id).long(),
            "labels": torch.nn.utils.rnn.pad_sequence(labels, True, IGNORED),
        }

    def embeds(self, rows: list[TextRow]) -> torch.Tensor:
        """The ViT's features of the rows' images, float (B, patches + 1, width)."""
        if self.pictures.embeds is None:
            raise ValueError("the images have not been seen by the ViT yet: call Images.embed first")
        return self.pictures.embeds[[row.scene for row in rows]]
