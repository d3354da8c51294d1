"""How often half precision writes other texts in a batch than alone, and how close the call was where it first did.

    python benchmarks/bench_divergence.py --size tiny --images 32 --slots 8
    python benchmarks/bench_divergence.py --size 7b --device cuda --images 256 --slots 128

The released loop writes one row at a time, the engine as many as it has slots. In float32 no text differs. In bfloat16
sums depend on the shape of a batch, and a row may differ where its two best words are nearly as good: the gap between
their logits in the loop, at the first word that differs, says whether that is all: bfloat16 has steps of 0.125 between
logits from 16 to 32.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from authors_loop import AuthorsLoop, Record
from bench_iqf import Texts, run_engine
from models import SIZES, build, pictures
from transformers import LogitsProcessor


class Gaps(LogitsProcessor):
    """Notes by how much the best word leads, at each place of the only row."""

    def __init__(self) -> None:
        self.calls: list[list[float]] = []

    def __call__(self, input_ids: torch.LongTensor, scores: torch.Tensor) -> torch.Tensor:
        """Changes nothing."""
        if input_ids.shape[1] == 0:  # prompts are embeddings: a call begins without ids
            self.calls.append([])
        best, second = scores[0].float().topk(2).values.tolist()
        self.calls[-1].append(best - second)
        return scores


def first_gap(tokenizer: Any, theirs: Record, gaps: list[list[float]], ours: Texts) -> float | None:
    """The gap at the first word in which a row differs from the loop's; None if none does."""
    pairs = zip([theirs.texts[0], *theirs.kept], [ours[1], *ours[2]], strict=False)
    for call, (one, other) in enumerate(pairs):
        if one != other:
            wanted, found = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (one, other))
            same = [a == b for a, b in zip(wanted, found, strict=False)]
            return gaps[call][same.index(False) if False in same else len(same)]
    return None


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="tiny")
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--task", default="detail")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="bfloat16")
    parser.add_argument("--output", type=Path, help="a JSON file")
    args = parser.parse_args()
    model, processor = build(args.size, args.seed, getattr(torch, args.dtype), args.device)
    images = pictures(args.images, args.size, args.seed)
    pixels = processor(images=images, return_tensors="pt")["pixel_values"].to(model.device, model.dtype)
    loop = AuthorsLoop(model, processor)
    ours = run_engine(model, processor, pixels, args.task, args.slots, num_beams=1, repetition_penalty=1.0)
    found: list[float] = []
    for row, texts in enumerate(ours):
        gaps = Gaps()
        loop.processors.append(gaps)
        (record,) = loop.run(pixels[row : row + 1], [args.task])
        loop.processors.remove(gaps)
        gap = first_gap(processor.tokenizer, record, gaps.calls, texts)
        found += [] if gap is None else [gap]
    print(f"{len(found)} of {args.images} rows differ in {args.dtype} at {args.slots} slots", end="")
    print(f"; gaps there: at most {max(found):.3g}, {sorted(round(gap, 3) for gap in found)}" if found else "")
    if args.output:
        given = {name: value for name, value in vars(args).items() if name != "output"}
        args.output.write_text(json.dumps({"given": given, "gaps": found}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
