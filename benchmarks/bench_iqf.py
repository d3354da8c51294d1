"""The engine against the released loop: time, decoded tokens, ViT calls and memory, in one process, in turns.

    python benchmarks/bench_iqf.py --size small --batches 1 4 8 --images 8 --rounds 3 --output iqf.json
    python benchmarks/bench_iqf.py --size tiny --images 8 --rounds 1            # a minute on any machine
    python benchmarks/bench_iqf.py --size 7b --device cuda --dtype bfloat16 --batches 1 32 128 256 --images 512

`eta_dec` is tokens kept per token decoded (rows x steps, beams counted). `eta_fwd` is the fewest tokens the language
model has to read and write for the same texts, per token that it does (rows x places, padding and beams counted). Both
are the same on every machine; seconds are not, and are compared within a round only.

Both have as many rows at a time as a batch has. The loop always writes VIG's draft answer; so does the engine, and VIC
begins beside it where lanes are free, unless it is "one call at a time" (`iqf_ahead=False`). "without drafts" it writes
the question alone before VIC answers (`iqf_draft=False`): questions and answers stay the same. `--plain-weights` tells
what the engine owes to copies of the weights in a layout that suits the CPU.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from authors_loop import AuthorsLoop
from models import SIZES, build, pictures

from vigc.modeling_vigc import VigcRequest
from vigc.modeling_vigc import packed_weights_vigc as blocked_vigc
from vigc.modeling_vigc.speculative_vigc import AHEAD_LANES

# Beams and repetition penalty.
DECODINGS = {"greedy": (1, 1.0), "beam5": (5, 1.5)}
# What the engine does in other ways.
WAYS: dict[str, dict[str, Any]] = {
    "as the loop": {},
    "one call at a time": {"iqf_ahead": False},
    "one call at a time, drafts verified": {"iqf_ahead": False, "iqf_verify_drafts": True},
    "drafts verified": {"iqf_verify_drafts": True},
    "without drafts": {"iqf_draft": False},
}
# As released, less what only the release records: the first VIC call written out in full.
SETTINGS = {"iqf_preset": "original", "iqf_full_record": False}
# (question, VIG's text, what the VIC calls kept)
Texts = tuple[str | None, str, list[str]]


@dataclass
class Cost:
    """What one run of one cell cost."""

    seconds: float = 0.0
    vit: int = 0
    calls: int = 0
    decoded: int = 0
    forwards: int = 0
    peak: float = 0.0


@dataclass
class Cell:
    """All runs of one decoding at one batch size in one way; ways share the baseline's."""

    decoding: str
    batch: int
    way: str
    baseline: list[Cost]
    engine: list[Cost] = field(default_factory=list)
    kept: int = 0
    floor: int = 0
    different: int = 0


class Meter:
    """Counts what goes through the parts of a model while it is on."""

    def __init__(self, model: Any) -> None:
        self.model, self.beams, self.cost = model, 1, Cost()

    @contextmanager
    def on(self, beams: int) -> Iterator[Cost]:
        """Counts into a new cost."""
        self.beams, self.cost = beams, Cost()
        llm = self.model.language_model
        hooks = [
            self.model.vision_model.register_forward_pre_hook(self._vit, with_kwargs=True),
            self.model.qformer.register_forward_pre_hook(self._qformer, with_kwargs=True),
            llm.register_forward_pre_hook(self._llm, with_kwargs=True),
        ]
        reset_peak(self.model.device)
        begun = time.perf_counter()
        try:
            yield self.cost
            if self.model.device.type == "cuda":
                torch.cuda.synchronize()
            self.cost.seconds = time.perf_counter() - begun
            self.cost.peak = peak(self.model.device)
        finally:
            for hook in hooks:
                hook.remove()

    def _vit(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.cost.vit += (args[0] if args else kwargs["pixel_values"]).shape[0]

    def _qformer(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        # Every prompt passes here once, and its prefill yields a first token, with beams one of each.
        self.cost.calls += kwargs["input_ids"].shape[0]
        self.cost.decoded += kwargs["input_ids"].shape[0] * self.beams

    def _llm(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = kwargs.get("inputs_embeds")
        rows, places = (kwargs["input_ids"] if given is None else given).shape[:2]
        self.cost.forwards += rows * places
        if given is None:
            self.cost.decoded += rows * places


def reset_peak(device: torch.device) -> None:
    """Forgets how much memory was in use at most."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    elif Path("/proc/self/clear_refs").exists():
        Path("/proc/self/clear_refs").write_text("5")


def peak(device: torch.device) -> float:
    """Most memory in use since then, megabytes: allocated on the device, or the resident set of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    status = Path("/proc/self/status")
    if not status.exists():
        return float("nan")
    lines = [line for line in status.read_text().splitlines() if line.startswith("VmHWM")]
    return int(lines[0].split()[1]) / 1024


def run_loop(loop: AuthorsLoop, pixels: torch.Tensor, task: str, batch: int) -> list[Texts]:
    """The released loop over the pictures, a batch at a time."""
    rows = []
    for start in range(0, len(pixels), batch):
        part = pixels[start : start + batch]
        rows += loop.run(part, [task] * len(part))
    return [(row.question, row.texts[0], row.kept) for row in rows]


def run_engine(model: Any, processor: Any, pixels: torch.Tensor, task: str, batch: int, **decoding: Any) -> list[Texts]:
    """The engine over the pictures, as many rows at a time as the loop has; pictures pass the ViT a batch at a time."""
    rows: list[Texts] = [(None, "", [])] * len(pixels)
    done = 0

    def requests() -> Iterator[VigcRequest | None]:
        for start in range(0, len(pixels), batch):
            embeds = model.get_image_embeds(pixels[start : start + batch])
            for place, row in enumerate(embeds, start):
                while place - done == batch:
                    yield None
                yield VigcRequest(row, "vig", task, key=place)

    slots = max(batch, AHEAD_LANES)  # as `generate` has them
    with torch.no_grad():  # as the loop
        for request, row in model.generate_stream(requests(), processor, max_slots=slots, **SETTINGS, **decoding):
            kept = [step["sentence"] for step in row.trace if step["sentence"]]
            rows[request.key] = (row.question, row.vig_text or "", kept)
            done += 1
    return rows


def floor(processor: Any, task: str, rows: list[Texts]) -> tuple[int, int]:
    """Tokens kept, and the fewest that have to be read and written for them (32 + P + S - 1 for each call)."""
    tokenizer, places = processor.tokenizer, processor.num_query_tokens

    def count(text: str) -> int:
        return len(tokenizer(text, add_special_tokens=False)["input_ids"])

    kept = least = 0
    for question, text, sentences in rows:
        prompt = processor.instruction(task)
        calls = [(prompt, count(text) + (not text.endswith("Answer:")))]  # VIG's text and its end of sequence
        if question is not None:
            prompt = processor.vic_prompt(question, task, "instruction")
            for sentence in sentences:
                calls.append((prompt, count(sentence)))
                prompt = f"{prompt} {sentence}"
            if len(sentences) < 4:
                calls.append((prompt, 1))  # the end of sequence that says there is no more
        kept += sum(length for _, length in calls)
        least += sum(places + 1 + count(prompt) + length - 1 for prompt, length in calls)
    return kept, least


def measure(args: argparse.Namespace) -> list[Cell]:
    """All cells, each round of each cell in turns."""
    model, processor = build(args.size, args.seed, getattr(torch, args.dtype), args.device)
    images = pictures(args.images, args.size, args.seed)
    pixels = processor(images=images, return_tensors="pt")["pixel_values"].to(model.device, model.dtype)
    meter = Meter(model)
    groups = []
    for name in args.decodings:
        ways = [way for way in args.ways if name == "greedy" or "iqf_verify_drafts" not in WAYS[way]]
        for batch in args.batches:
            costs: list[Cost] = []
            groups.append([Cell(name, batch, way, costs) for way in ways])
    for number in range(args.rounds):
        for cells in groups:
            name, batch = cells[0].decoding, cells[0].batch
            beams, penalty = DECODINGS[name]
            loop = AuthorsLoop(model, processor, beams=beams, penalty=penalty)
            theirs = _timed(meter, beams, partial(run_loop, loop, pixels, args.task, batch), cells[0].baseline)
            for cell in cells[:: -1 if number % 2 else 1]:
                decoding = {"num_beams": beams, "repetition_penalty": penalty, **WAYS[cell.way]}
                work = partial(run_engine, model, processor, pixels, args.task, batch, **decoding)
                rows = _timed(meter, beams, work, cell.engine)
                cell.kept, cell.floor = floor(processor, args.task, rows)
                cell.different = different(theirs, rows)
            seconds = ", ".join(f"{cell.way} {cell.engine[-1].seconds:.1f} s" for cell in cells)
            print(
                f"round {number + 1}, {name} at {batch}: {cells[0].baseline[-1].seconds:.1f} s; {seconds}", flush=True
            )
    return [cell for cells in groups for cell in cells]


def different(theirs: list[Texts], ours: list[Texts]) -> int:
    """How many rows differ: in the question, in what VIG wrote (as far as it was asked to), in a kept sentence."""
    count = 0
    for one, other in zip(theirs, ours, strict=True):
        drafted = not other[1].endswith("Answer:")
        count += one != other if drafted else (one[0], one[2]) != (other[0], other[2])
    return count


def _timed(meter: Meter, beams: int, work: Callable[[], list[Texts]], costs: list[Cost]) -> list[Texts]:
    with meter.on(beams) as cost:
        rows = work()
    costs.append(cost)
    return rows


def figures(cells: list[Cell]) -> list[dict[str, Any]]:
    """A line of the table for each cell, and for the engine's greedy search against the loop as it was released."""
    lines = []
    pairs = [(cell, cell) for cell in cells]
    loops = {cell.batch: cell for cell in cells if cell.decoding == "beam5"}
    pairs += [(loops[cell.batch], cell) for cell in cells if cell.decoding == "greedy" and cell.batch in loops]
    for theirs, ours in pairs:
        base, engine = theirs.baseline[-1], ours.engine[-1]
        ratios = [one.seconds / other.seconds for one, other in zip(theirs.baseline, ours.engine, strict=True)]
        lines.append(
            {
                "engine": f"{ours.decoding}, {ours.way}",
                "loop": theirs.decoding,
                "batch": ours.batch,
                "times faster": statistics.median(ratios),
                "lowest": min(ratios),
                "rows/s": engine.vit / engine.seconds,  # a row has one picture
                "row-steps": base.decoded / engine.decoded,
                "eta_dec": ours.kept / engine.decoded,
                "eta_dec loop": theirs.kept / base.decoded,
                "eta_fwd": ours.floor / engine.forwards,
                "eta_fwd loop": theirs.floor / base.forwards,
                "ViT": engine.vit,
                "ViT loop": base.vit,
                "MB": engine.peak,
                "MB loop": base.peak,
                "other texts": ours.different if theirs is ours else None,
            }
        )
    return lines


def table(lines: list[dict[str, Any]]) -> str:
    """The lines as Markdown."""

    def text(value: Any) -> str:
        return f"{value:.3g}" if isinstance(value, float) and value < 100 else "" if value is None else f"{value:.0f}"

    names = list(lines[0])
    rows = [[line[name] if isinstance(line[name], str) else text(line[name]) for name in names] for line in lines]
    head = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    return "\n".join(head + ["| " + " | ".join(row) + " |" for row in rows])


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 8])
    parser.add_argument("--decodings", choices=DECODINGS, nargs="+", default=list(DECODINGS))
    parser.add_argument("--ways", choices=WAYS, nargs="+", default=list(WAYS), help="of the engine")
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--task", default="detail")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plain-weights", action="store_true", help="no copies of weights in another layout")
    parser.add_argument("--threads", type=int, default=0, help="of torch on a CPU; 0 leaves it as it is")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    parser.add_argument("--output", type=Path, help="a JSON file")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.plain_weights:
        blocked_vigc.MOST_BYTES = 0
    cells = measure(args)
    lines = figures(cells)
    print(table(lines))
    if args.output:
        machine = {
            "device": torch.cuda.get_device_name() if args.device.startswith("cuda") else platform.processor(),
            "threads": torch.get_num_threads(),
            "load": os.getloadavg(),
            "torch": torch.__version__,
        }
        given = {name: value for name, value in vars(args).items() if name != "output"}
        content = {"given": given, "machine": machine, "figures": lines, "cells": [asdict(cell) for cell in cells]}
        args.output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
