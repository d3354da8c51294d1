"""Builds vigc-tiny from scratch: scenes, initial weights, all training stages, metrics and card.

Run as `python recipes/tiny/train.py --output build/vigc-tiny`. The stages:

A   the ViT on dense labels of its patches, with heads that are discarded
B   the language model on texts without images
C1  the Q-Former on labels of its queries, with heads that are discarded
C2  Q-Former and language model on questions with answers, descriptions and VIG's pairs
C3  the same, mostly on texts that select an object first: VIG's questions, and reasoning
D   VIGC: ViT and language model frozen, half VIG's and half VIC's rows
E   the same with more of VIC's questions, above all about counts, which are learnt last
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from data import Encoder, Pictures, TextRow, instruction_row, prefixed, question_row, reordered, spelled_out
from measure import Subject, all_figures, table
from model import QUERIES, WIDTH, build_model, build_processor
from safetensors.torch import load_model, save_model
from stages import Stage, train_together, train_vigc, warm_up_language, warm_up_qformer, warm_up_vision
from transformers import set_seed

from vigc import __version__
from vigc.modeling_vigc import VigcForConditionalGeneration
from vigc.processing import VigcProcessor
from vigc.scenes.dataset import SOURCE
from vigc.scenes.language import TYPES
from vigc.scenes.vocabulary import vocabulary

# Shares of the kinds of question. What must be looked up by name or by place takes longest to learn.
PROBES = {"color": 1.0, "size": 0.7, "count": 1.0, "where": 1.5, "at": 1.5, "exists": 2.0}
LOOKING = {**PROBES, "detail": 1.0, "complex": 0.5}
COUNTING = {**PROBES, "count": 9.0}
DESCRIBING = {"detail": 2.0, "complex": 1.0}
REASONING = {"complex": 2.0, "detail": 1.0}
# What VIG asks about: with all topics alike, the likeliest beginning is "How many", and then trees, seen or not.
ASKING = {"color": 2.0, "size": 0.5, "count": 0.7, "where": 2.0, "at": 1.0, "exists": 0.5}
UNUSUAL = 0.3


@dataclass(frozen=True)
class Plan:
    """All settings of a build.

    Args:
        pictures: Number of scenes; all stages share them.
        vision: Stage A.
        language: Stage B.
        looking: Stage C1.
        talking: Stage C2; the language model has a third of its learning rate.
        asking: Stage C3, if any; VIG's questions then also follow `ASKING` in D and E.
        vigc: Stage D.
        counting: Stage E.
        prefixes: Share of VIC's rows in D and E with the answer's first sentences in the prompt; 0 is the paper.
        next_only: The target of such a row is only the next sentence.
        alike: A batch of pairs or of descriptions has one task type, and so less padding.
        any_order: Descriptions have the objects in random order, in all stages with texts.
        longer: Descriptions have three sentences per object instead of one, in all stages with texts.
        queries: Number of queries of the Q-Former.
        width: Width of the ViT, the Q-Former and the language model.
    """

    pictures: int
    vision: Stage
    language: Stage
    looking: Stage
    talking: Stage
    asking: Stage | None
    vigc: Stage
    counting: Stage
    prefixes: float = 0.0
    next_only: bool = False
    alike: bool = False
    any_order: bool = False
    longer: bool = False
    queries: int = QUERIES
    width: int = WIDTH


PLAN = Plan(
    pictures=24_000,
    vision=Stage(1500, 64, 1.5e-3),
    language=Stage(300, 64, 2e-3),
    looking=Stage(600, 128, 1.2e-3),
    talking=Stage(1400, 64, 1e-3),
    asking=Stage(600, 64, 8e-4),
    vigc=Stage(500, 64, 8e-4),
    counting=Stage(600, 64, 7e-4),
)


def build(
    plan: Plan, seed: int, checkpoints: Path | None, pictures: Pictures | None = None
) -> tuple[VigcForConditionalGeneration, VigcProcessor]:
    """Runs all stages.

    Args:
        plan: The settings.
        seed: Seed of all sampling.
        checkpoints: A folder for the weights of each stage; finished stages are loaded from it.
        pictures: `Pictures.sample(seed, plan.pictures, UNUSUAL)`, if there are any already; they keep what the ViT sees
            in them, for a further build from the same stage A.
    """
    clock = _Clock()
    pictures = pictures or Pictures.sample(seed, plan.pictures, UNUSUAL)
    processor = build_processor(plan.queries)
    model = build_model(processor, seed, plan.width).to("cuda" if torch.cuda.is_available() else "cpu")
    encoder = Encoder(processor, pictures)
    clock.lap("pictures")
    stages = {"a": _see, "b": _read, "c1": _look, "c2": _talk, "c3": _ask, "d": _correct, "e": _count}
    if plan.asking is None:
        del stages["c3"]
    for name, stage in stages.items():
        saved = None if checkpoints is None else checkpoints / f"{name}.safetensors"
        if saved is not None and saved.exists():
            load_model(model, str(saved))
        else:
            if name != "a" and pictures.embeds is None:
                pictures.embed(model.eval())
            # The random state of a stage does not depend on whether earlier stages ran or were loaded.
            set_seed(seed)
            model.train()
            stage(model, encoder, plan, seed)
            if saved is not None:
                saved.parent.mkdir(parents=True, exist_ok=True)
                save_model(model, f"{saved}.partial")
                os.replace(f"{saved}.partial", saved)
        if name == "a":
            # The ViT is frozen from here on, so that its features can be cached.
            model.vision_model.requires_grad_(False)
        clock.lap(f"stage {name}")
    return model.eval(), processor


def _see(model: VigcForConditionalGeneration, encoder: Encoder, plan: Plan, seed: int) -> None:
    """Stage A."""
    warm_up_vision(model, encoder.pictures, plan.vision, seed)


def _read(model: VigcForConditionalGeneration, encoder: Encoder, plan: Plan, seed: int) -> None:
    """Stage B."""
    warm_up_language(model, encoder, _talking_rows(encoder, plan, plan.language, seed), plan.language, seed)


def _look(model: VigcForConditionalGeneration, encoder: Encoder, plan: Plan, seed: int) -> None:
    """Stage C1."""

    def make(index: int) -> TextRow:
        if index // plan.looking.batch % 6 == 0:
            return instruction_row(encoder.pictures, index, seed)
        return question_row(encoder.pictures, index, seed, LOOKING)

    warm_up_qformer(model, encoder, make, plan.looking, seed)


def _talk(model: VigcForConditionalGeneration, encoder: Encoder, plan: Plan, seed: int) -> None:
    """Stage C2."""
    make = _talking_rows(encoder, plan, plan.talking, seed + 1)
    train_together(model, encoder, make, plan.talking, seed, language_rate=plan.talking.rate / 3)


def _talking_rows(encoder: Encoder, plan: Plan, stage: Stage, seed: int) -> Callable[[int], TextRow]:
    """Batches of probing questions, and of pairs and descriptions, in turn.

    Mixed, most of a batch would be padding, and the loss, a mean over tokens, would hardly hear the short answers.
    """

    def make(index: int) -> TextRow:
        number = index // stage.batch
        if number % 2:
            return question_row(encoder.pictures, index, seed, PROBES)
        writing = number // 2 % 2 if plan.alike else index % 2
        return _long_row(encoder, plan, index, seed, None if writing else DESCRIBING, number // 4)

    return make


def _long_row(
    encoder: Encoder, plan: Plan, index: int, seed: int, shares: dict[str, float] | None, turn: int
) -> TextRow:
    """A row of VIG's, without `shares`, or else of VIC's; where a batch holds one type, `turn` says which."""
    if shares is None:
        row = instruction_row(encoder.pictures, index, seed, (TYPES[turn % len(TYPES)],) if plan.alike else TYPES)
    else:
        alike = plan.alike and shares is DESCRIBING
        shares = {("detail", "complex", "detail")[turn % 3]: 1.0} if alike else shares
        row = question_row(encoder.pictures, index, seed, shares)
    if plan.any_order:
        row = reordered(row, random.Random(f"order:{seed}:{index}"))
    return spelled_out(row, encoder.pictures.scenes[row.scene]) if plan.longer else row


def _ask(model: VigcForConditionalGeneration, encoder: Encoder, plan: Plan, seed: int) -> None:
    """Stage C3; the language model learns at half the rate."""
    stage = plan.asking
    assert stage is not None

    def make(index: int) -> TextRow:
        turn = index // stage.batch % 4
        if turn % 2:
            return question_row(encoder.pictures, index, seed + 4, REASONING if turn == 1 else PROBES)
        types = ("complex", "complex", "detail") if turn else ("conversation",)
        return instruction_row(encoder.pictures, index, seed + 4, types, ASKING)

    train_together(model, encoder, make, stage, seed, language_rate=stage.rate / 2)


def _correct(model: VigcForConditionalGeneration, encoder: Encoder, plan: Plan, seed: int) -> None:
    """Stage D: a batch of descriptions, of VIG's pairs, of questions, of VIG's pairs, and so on."""
    _train_vigc(model, encoder, plan, plan.vigc, (DESCRIBING, None, PROBES, None), seed + 2)


def _count(model: VigcForConditionalGeneration, encoder: Encoder, plan: Plan, seed: int) -> None:
    """Stage E."""
    _train_vigc(model, encoder, plan, plan.counting, (DESCRIBING, None, COUNTING, COUNTING), seed + 3)


def _train_vigc(
    model: VigcForConditionalGeneration,
    encoder: Encoder,
    plan: Plan,
    stage: Stage,
    turns: tuple[dict[str, float] | None, ...],
    seed: int,
) -> None:
    """Trains Q-Former, queries and projection, a batch of VIC's questions by these shares or of VIG's pairs in turn."""

    def make(index: int) -> TextRow:
        number = index // stage.batch
        shares = turns[number % len(turns)]
        if shares is None and plan.asking is not None:
            return instruction_row(encoder.pictures, index, seed, TYPES, ASKING)
        if shares is None:
            return _long_row(encoder, plan, index, seed, None, number // 2)
        row = _long_row(encoder, plan, index, seed, shares, number // len(turns))
        rng = random.Random(f"prefix:{seed}:{index}")
        return prefixed(row, rng, plan.next_only) if rng.random() < plan.prefixes else row

    train_vigc(model, encoder, make, stage, seed)


class _Clock:
    """Prints the time of each stage."""

    def __init__(self) -> None:
        self.start = self.last = time.monotonic()

    def lap(self, name: str) -> None:
        now = time.monotonic()
        print(f"{name}: {now - self.last:.0f} s, {(now - self.start) / 60:.1f} min in all", flush=True)
        self.last = now


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="the model folder to write")
    parser.add_argument("--seed", type=int, default=0, help="seed of initial weights, scenes and their order")
    parser.add_argument("--checkpoints", type=Path, help="save the weights of each stage here, and resume from them")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument(
        "--prefixes", type=float, default=0.3, help="share of prefix-augmented rows in VIC's training; 0 is the paper's"
    )
    parser.add_argument("--scenes", type=int, default=1000, help="typical, and unusual, held-out scenes for metrics")
    parser.add_argument("--quick", action="store_true", help="only a few steps of each stage, as a smoke test")
    return parser


def main() -> None:
    """Builds, evaluates and saves the model."""
    arguments = make_parser().parse_args()
    # Asked before the work, during which the repository may move on.
    commit = _commit()
    start = time.monotonic()
    torch.set_num_threads(arguments.threads)
    short = Stage(3, 8, 1e-3)
    plan = Plan(200, *[short] * 7) if arguments.quick else PLAN
    plan = replace(plan, prefixes=arguments.prefixes)
    model, processor = build(plan, arguments.seed, arguments.checkpoints)
    # The figures are those of the weights as they are saved.
    model = model.half().float()
    results = all_figures(Subject(model, processor), arguments.scenes)
    print(table(results), flush=True)
    model.config.trained_on = SOURCE  # by which a job over other images is known to make no sense
    model.half().save_pretrained(arguments.output)
    processor.save_pretrained(arguments.output)
    (arguments.output / "figures.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    card = _card(model, plan, arguments, table(results), commit, time.monotonic() - start)
    (arguments.output / "README.md").write_text(card, encoding="utf-8")


def _card(
    model: VigcForConditionalGeneration,
    plan: Plan,
    arguments: argparse.Namespace,
    figures: str,
    commit: str,
    seconds: float,
) -> str:
    template = Path(__file__).with_name("card.md").read_text(encoding="utf-8")
    stages = [(name, value) for name, value in vars(plan).items() if isinstance(value, Stage)]
    return template.format(
        parameters=f"{model.num_parameters() / 1e6:.2f}M",
        words=len({word.lower() for word in vocabulary()}),
        scenes=f"{arguments.scenes:,}",
        figures=figures,
        seed=arguments.seed,
        prefixes=plan.prefixes,
        version=__version__,
        commit=commit,
        minutes=seconds / 60,
        device=torch.cuda.get_device_name() if torch.cuda.is_available() else f"{torch.get_num_threads()} CPU threads",
        stages="\n".join(f"- {name}: {stage.steps} x {stage.batch} at {stage.rate:g}" for name, stage in stages),
    )


def _commit() -> str:
    """The commit of the repository, with a "+" if there are changes; "unknown" outside a repository."""
    command = ["git", "-C", str(Path(__file__).resolve().parent), "describe", "--always", "--dirty=+", "--exclude=*"]
    try:
        result = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        return "unknown (git is not installed)"
    return result.stdout.strip() if result.returncode == 0 else "unknown"


if __name__ == "__main__":
    main()
