"""Figures of a model on held-out scenes, each beside the same with wrong pictures.

Run as `python recipes/tiny/measure.py build/vigc-tiny --scenes 1000`.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch

from vigc.modeling_vigc import VigcForConditionalGeneration
from vigc.processing import VigcProcessor
from vigc.scenes.checker import check, read_answer
from vigc.scenes.language import TOPICS, TYPES, write_probes
from vigc.scenes.render import render
from vigc.scenes.world import Scene, sample_scenes

# No training scene is from this world.
HELD_OUT_SEED = 1_000_003
BATCH = 250

TARGETS = {
    "well-formed": (98, None),
    "color": (95, None),
    "size": (95, None),
    "count": (95, None),
    "where": (60, None),
    "at": (70, None),
    "exists": (85, None),
    "VIC CHAIR_i": (None, 10),
    "VIC coverage": (75, None),
}


class Subject:
    """A model with its processor, asked in batches."""

    def __init__(self, model: VigcForConditionalGeneration, processor: VigcProcessor) -> None:
        self.model, self.processor = model, processor

    @torch.no_grad()
    def embed(self, scenes: list[Scene]) -> torch.Tensor:
        """What the ViT sees, float (N, patches + 1, width)."""
        parts = []
        for at in range(0, len(scenes), BATCH):
            pictures = [render(scene).image for scene in scenes[at : at + BATCH]]
            values = self.processor(images=pictures, return_tensors="pt")["pixel_values"]
            parts.append(self.model.get_image_embeds(values.to(self.model.device, self.model.dtype)))
        return torch.cat(parts)

    def answer(self, embeds: torch.Tensor, questions: list[str]) -> list[str]:
        """One-shot VIC on given questions."""
        return [text or "" for text in self._run(embeds, "vic", 0, questions=questions)["answers"]]

    def iterate(self, embeds: torch.Tensor, questions: list[str | None]) -> list[str | None]:
        """VIC with IQF, until the end of the text, on given questions; None where there is none."""
        asked = {number: question for number, question in enumerate(questions) if question}
        answers = self._run(embeds[list(asked)], "vic", -1, questions=list(asked.values()))["answers"]
        found = dict(zip(asked, answers, strict=True))
        return [found.get(number) for number in range(len(questions))]

    def pairs(self, embeds: torch.Tensor, tasks: list[str]) -> dict[str, list[Any]]:
        """VIG, then one-shot VIC: `questions`, `drafts`, `answers`, `valid`."""
        return self._run(embeds, "vig", 0, task=tasks)

    def _run(self, embeds: torch.Tensor, mode: str, steps: int, **rows: list[str]) -> dict[str, list[Any]]:
        collected: dict[str, list[Any]] = defaultdict(list)
        for at in range(0, len(embeds), BATCH):
            batch = {name: values[at : at + BATCH] for name, values in rows.items()}
            output = self.model.generate(
                image_embeds=embeds[at : at + BATCH],
                processor=self.processor,
                mode=mode,
                iqf_steps=steps,
                return_dict_in_generate=True,
                **batch,
            )
            for name in ("questions", "drafts", "answers", "valid"):
                collected[name] += output[name] or [None] * len(output["valid"])
        return collected


def probe_figures(subject: Subject, scenes: list[Scene], embeds: torch.Tensor) -> dict[str, float]:
    """Share of probing questions answered right, in %, by topic."""
    asked = [(number, pair) for number, scene in enumerate(scenes) for pair in write_probes(scene)]
    answers = subject.answer(embeds[[number for number, _ in asked]], [pair.question for _, pair in asked])
    hits = defaultdict(list)
    for (_, pair), answer in zip(asked, answers, strict=True):
        hits[pair.topic].append(read_answer(answer, pair.topic) == pair.truth)
    return {topic: _percent(hits[topic]) for topic in TOPICS}


def description_figures(scenes: list[Scene], texts: list[str | None], questions: list[str | None]) -> dict[str, float]:
    """CHAIR_i, CHAIR_s, coverage, wrong colours, sizes and places, in %, of descriptions."""
    # A text that is missing says nothing wrong, but leaves everything out.
    rows = zip(scenes, texts, questions, strict=True)
    reports = [check(text or "", scene, question or "") for scene, text, question in rows]
    mentions = [claim for report in reports for claim in report.mentions]
    hallucinated = sum(len(report.hallucinated) for report in reports)
    sound = max(1, len(mentions) - hallucinated)
    sorts = [mistake.sort for report in reports for mistake in report.mistakes]
    kinds = sum(len(report.covered) + len(report.missed) for report in reports)
    return {
        "CHAIR_i": 100 * hallucinated / max(1, len(mentions)),
        "CHAIR_s": _percent([bool(report.hallucinated) for report in reports]),
        "coverage": 100 * sum(len(report.covered) for report in reports) / max(1, kinds),
        **{f"wrong {sort}": 100 * sorts.count(sort) / sound for sort in ("color", "size", "place")},
    }


def figures(subject: Subject, count: int) -> dict[str, dict[str, float]]:
    """All figures on `count` typical held-out scenes, with the true and with wrong pictures."""
    scenes = sample_scenes(HELD_OUT_SEED, count, unusual=False)
    embeds = subject.embed(scenes)
    results = {}
    for name, shift in (("true", 0), ("wrong", 1)):
        shown = embeds.roll(shift, 0)
        pairs = subject.pairs(shown, [TYPES[number % len(TYPES)] for number in range(count)])
        described = subject.pairs(shown, ["detail"] * count)
        questions = described["questions"]
        results[name] = {
            "well-formed": _percent(pairs["valid"]),
            **probe_figures(subject, scenes, shown),
            **_named("VIG", description_figures(scenes, described["drafts"], questions)),
            **_named("VIC", description_figures(scenes, described["answers"], questions)),
            **_named("IQF", description_figures(scenes, subject.iterate(shown, questions), questions)),
        }
    return results


def table(results: dict[str, dict[str, float]]) -> str:
    """The figures as a table in Markdown."""
    lines = ["| Figure, % | True picture | Wrong picture | Target | Reached |", "|---|---|---|---|---|"]
    for name, value in results["true"].items():
        least, most = TARGETS.get(name, (None, None))
        target = f">= {least}" if least is not None else f"<= {most}" if most is not None else "-"
        reached = "-" if target == "-" else "yes" if _reached(name, value) else "no"
        lines.append(f"| {name} | {value:.1f} | {results['wrong'][name]:.1f} | {target} | {reached} |")
    return "\n".join(lines)


def _reached(name: str, value: float) -> bool:
    least, most = TARGETS[name]
    return (least is None or value >= least) and (most is None or value <= most)


def _named(name: str, values: dict[str, float]) -> dict[str, float]:
    return {f"{name} {key}": value for key, value in values.items()}


def _percent(hits: list[Any]) -> float:
    return 100 * sum(map(bool, hits)) / max(1, len(hits))


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="folder of a model trained on scenes")
    parser.add_argument("--scenes", type=int, default=1000, help="number of held-out scenes")
    parser.add_argument("--output", type=Path, help="also write the figures to this JSON file")
    return parser


def main() -> None:
    """Prints the table."""
    arguments = make_parser().parse_args()
    model = VigcForConditionalGeneration.from_pretrained(arguments.model, dtype=torch.float32).eval()
    if torch.cuda.is_available():
        model.to("cuda")
    results = figures(Subject(model, VigcProcessor.from_pretrained(arguments.model)), arguments.scenes)
    print(table(results))
    if arguments.output:
        arguments.output.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
