"""How busy `vigc generate` keeps the model where pictures are slow to open, and its rows per second.

    python benchmarks/bench_job.py --size tiny --images 192 --open-ms 100 --output job.json

Busy is the time in passes of the engine and of the ViT, of the time from when the first of them begins until the last
shard is on disk; other threads work in that time too. Start-up and what comes after, card and report, are given apart:
they do not grow with the model's work. "Of the engine alone" is the job's rows per second, start-up left out, to those
of the engine with pictures that are open already.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from models import SIZES, build, pictures

from vigc.generation import generate_dataset
from vigc.generation.sources.prefetch import Loader
from vigc.jobs import resume
from vigc.modeling_vigc import VigcRequest
from vigc.modeling_vigc.engine_vigc import Engine

TYPES = ("conversation", "detail", "complex")


class Clock:
    """Adds up the seconds in some methods, and notes the first and last moment of others."""

    def __init__(self) -> None:
        self.busy = 0.0
        self.asked: float | None = None
        self.first: float | None = None
        self.last = 0.0

    @contextmanager
    def watching(self, model: Any, delay: float) -> Iterator[Clock]:
        """Watches the engine, the ViT, the loading (each picture takes `delay` seconds longer) and the commits."""
        step, embed, load, commit = Engine._step, model.get_image_embeds, Loader.load, resume.commit

        def timed(work: Any) -> Any:
            def run(*args: Any, **kwargs: Any) -> Any:
                begun = time.perf_counter()
                self.first = self.first or begun
                try:
                    return work(*args, **kwargs)
                finally:
                    self.busy += time.perf_counter() - begun

            return run

        def slow_load(loader: Loader, source: Any) -> Any:
            self.asked = self.asked or time.perf_counter()
            time.sleep(delay)  # other threads work meanwhile, as they do while a decoder does
            return load(loader, source)

        def noted_commit(*args: Any, **kwargs: Any) -> Any:
            record = commit(*args, **kwargs)
            self.last = time.perf_counter()
            return record

        Engine._step, Loader.load, resume.commit = timed(step), slow_load, noted_commit  # type: ignore[method-assign]
        model.get_image_embeds = timed(embed)
        try:
            yield self
        finally:
            Engine._step, Loader.load, resume.commit = step, load, commit  # type: ignore[method-assign]
            del model.get_image_embeds


def run_job(model: Any, processor: Any, folder: Path, args: argparse.Namespace) -> dict[str, float]:
    """One job over the folder of pictures."""
    with tempfile.TemporaryDirectory() as place, Clock().watching(model, args.open_ms / 1000) as clock:
        settings = {"max_new_tokens": args.max_new_tokens}
        summary = generate_dataset(
            folder,
            Path(place) / "out",
            model=model,
            processor=processor,
            types=TYPES,
            batch_size=args.slots,
            shard_size=args.shard_size,
            retries=0,
            settings=settings,
        )
        ended = time.perf_counter()
    assert clock.asked is not None and clock.first is not None
    seconds = clock.last - clock.first
    rows = summary.images * len(TYPES)
    return {
        "busy": clock.busy / seconds,
        "rows/s": rows / seconds,
        "seconds": seconds,
        "start-up": clock.first - clock.asked,
        "card and report": ended - clock.last,
    }


def run_engine(model: Any, processor: Any, pixels: torch.Tensor, args: argparse.Namespace) -> float:
    """Rows per second of the engine alone, pictures in memory."""

    def requests() -> Iterator[VigcRequest]:
        for start in range(0, len(pixels), args.slots):
            embeds = model.get_image_embeds(pixels[start : start + args.slots])
            for kind in TYPES:
                for row in embeds:
                    yield VigcRequest(row, "vig", kind)

    begun = time.perf_counter()
    with torch.inference_mode():
        stream = model.generate_stream(requests(), processor, args.slots, max_new_tokens=args.max_new_tokens)
        rows = sum(1 for _ in stream)
    return rows / (time.perf_counter() - begun)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="tiny")
    parser.add_argument("--images", type=int, default=192)
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--shard-size", type=int, default=256)
    parser.add_argument("--open-ms", type=float, default=100, help="how much longer a picture takes to open")
    parser.add_argument("--max-new-tokens", type=int, default=249)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    parser.add_argument("--output", type=Path, help="a JSON file")
    args = parser.parse_args()
    model, processor = build(args.size, 0, getattr(torch, args.dtype), args.device)
    images = pictures(args.images, args.size)
    pixels = processor(images=images, return_tensors="pt")["pixel_values"].to(model.device, model.dtype)
    rounds = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "pictures"
        folder.mkdir()
        for number, image in enumerate(images):
            image.save(folder / f"{number:05d}.png")
        for _ in range(args.rounds):
            before = run_engine(model, processor, pixels, args)
            found = run_job(model, processor, folder, args)
            after = run_engine(model, processor, pixels, args)
            found["of the engine alone"] = found["rows/s"] / statistics.mean((before, after))
            rounds.append(found)
            print({name: round(value, 3) for name, value in found.items()}, flush=True)
    medians = {name: statistics.median(found[name] for found in rounds) for name in rounds[0]}
    print("| " + " | ".join(medians) + " |\n|" + "---|" * len(medians))
    print("| " + " | ".join(f"{value:.3g}" for value in medians.values()) + " |")
    if args.output:
        given = {name: value for name, value in vars(args).items() if name != "output"}
        content = {"given": given, "load": os.getloadavg(), "medians": medians, "rounds": rounds}
        args.output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
