"""Metrics of a model on typical and unusual held-out scenes, with the true and with wrong images.

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
from vigc.scenes.embedded import model_folder
from vigc.scenes.language import TOPICS, TYPES, write_probes
from vigc.scenes.render import render
from vigc.scenes.splits import HELD_OUT_SEED
from vigc.scenes.world import Scene, sample_scenes

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

# What a description is measured by: the share of one count (see `count`) in another. CHAIR: Rohrbach et al. 2018,
# "Object Hallucination in Image Captioning".
RATES = {
    "CHAIR_i": ("hallucinated", "mentions"),
    "CHAIR_s": ("false", "texts"),
    "coverage": ("covered", "kinds"),
    "wrong color": ("color", "sound"),
    "wrong size": ("size", "sound"),
    "wrong place": ("place", "sound"),
}


class Subject:
    """A model with its processor, which answers in batches."""

    def __init__(self, model: VigcForConditionalGeneration, processor: VigcProcessor) -> None:
        self.model, self.processor = model, processor

    @torch.no_grad()
    def embed(self, scenes: list[Scene]) -> torch.Tensor:
        """The ViT's features, float (N, patches + 1, width)."""
        parts = []
        for at in range(0, len(scenes), BATCH):
            pictures = [render(scene).image for scene in scenes[at : at + BATCH]]
            values = self.processor(images=pictures, return_tensors="pt")["pixel_values"]
            parts.append(self.model.get_image_embeds(values.to(self.model.device, self.model.dtype)))
        return torch.cat(parts)

    def answer(
        self, embeds: torch.Tensor, questions: list[str | None], task: str, steps: int = 0, prompt: str = "question"
    ) -> list[str | None]:
        """VIC's answers to questions of a task type; None for questions that are None.

        Args:
            embeds: float (N, patches + 1, width), from [`embed`].
            questions: N questions.
            task: Their task type.
            steps: 0 is one-shot VIC, -1 IQF until the end of the text.
            prompt: VIC's prompt, "question" or "instruction" (`iqf_prompt`).
        """
        asked = {number: question for number, question in enumerate(questions) if question}
        rows = {"questions": list(asked.values()), "task": [task] * len(asked)}
        answers = self._run(embeds[list(asked)], "vic", {"iqf_steps": steps, "iqf_prompt": prompt}, rows)["answers"]
        found = dict(zip(asked, answers, strict=True))
        return [found.get(number) for number in range(len(questions))]

    def pairs(self, embeds: torch.Tensor, tasks: list[str], **settings: Any) -> dict[str, list[Any]]:
        """VIG, then one-shot VIC: `questions`, `drafts`, `answers`, `valid`; `settings` of decoding."""
        return self._run(embeds, "vig", {"iqf_steps": 0, **settings}, {"task": tasks})

    def _run(
        self, embeds: torch.Tensor, mode: str, settings: dict[str, Any], rows: dict[str, list[str]]
    ) -> dict[str, list[Any]]:
        collected: dict[str, list[Any]] = defaultdict(list)
        for at in range(0, len(embeds), BATCH):
            output = self.model.generate(
                image_embeds=embeds[at : at + BATCH],
                processor=self.processor,
                mode=mode,
                return_dict_in_generate=True,
                **settings,
                **{name: values[at : at + BATCH] for name, values in rows.items()},
            )
            for name in ("questions", "drafts", "answers", "valid"):
                collected[name] += output[name] or [None] * len(output["valid"])
        return collected


def probe_figures(subject: Subject, scenes: list[Scene], embeds: torch.Tensor) -> dict[str, float]:
    """Accuracy on probing questions, in %, by topic."""
    asked = [(number, pair) for number, scene in enumerate(scenes) for pair in write_probes(scene)]
    shown = embeds[[number for number, _ in asked]]
    answers = subject.answer(shown, [pair.question for _, pair in asked], "conversation")
    hits = defaultdict(list)
    for (_, pair), answer in zip(asked, answers, strict=True):
        hits[pair.topic].append(read_answer(answer or "", pair.topic) == pair.truth)
    return {topic: _percent(hits[topic]) for topic in TOPICS}


def count(text: str | None, scene: Scene, question: str | None) -> dict[str, int]:
    """Counts of a description, from which `RATES` are computed.

    A text that is missing says nothing wrong, but leaves everything out.
    """
    report = check(text or "", scene, question or "")
    sorts = [mistake.sort for mistake in report.mistakes]
    hallucinated = len(report.hallucinated)
    return {
        "texts": 1,
        "false": int(hallucinated > 0),
        "mentions": len(report.mentions),
        "hallucinated": hallucinated,
        "sound": len(report.mentions) - hallucinated,
        "kinds": len(report.covered) + len(report.missed),
        "covered": len(report.covered),
        "color": sorts.count("color"),
        "size": sorts.count("size"),
        "place": sorts.count("place"),
    }


def description_figures(scenes: list[Scene], texts: list[str | None], questions: list[str | None]) -> dict[str, float]:
    """`RATES` of descriptions, in %."""
    counts = [count(*row) for row in zip(texts, scenes, questions, strict=True)]
    sums = {name: sum(row[name] for row in counts) for name in counts[0]}
    return {name: 100 * sums[part] / max(1, sums[whole]) for name, (part, whole) in RATES.items()}


def figures(subject: Subject, scenes: list[Scene]) -> dict[str, dict[str, float]]:
    """All metrics on held-out scenes, with their own ("true") and with other scenes' ("wrong") images."""
    embeds = subject.embed(scenes)
    results = {}
    for name, shift in (("true", 0), ("wrong", 1)):
        shown = embeds.roll(shift, 0)
        pairs = subject.pairs(shown, [TYPES[number % len(TYPES)] for number in range(len(scenes))])
        described = subject.pairs(shown, ["detail"] * len(scenes))
        questions = described["questions"]
        iterated = subject.answer(shown, questions, "detail", steps=-1)
        results[name] = {
            "well-formed": _percent(pairs["valid"]),
            **probe_figures(subject, scenes, shown),
            **_named("VIG", description_figures(scenes, described["drafts"], questions)),
            **_named("VIC", description_figures(scenes, described["answers"], questions)),
            **_named("IQF", description_figures(scenes, iterated, questions)),
        }
    return results


def all_figures(subject: Subject, scenes: int) -> dict[str, dict[str, dict[str, float]]]:
    """`figures` on "typical" and on "unusual" scenes."""
    splits = {"typical": False, "unusual": True}
    return {name: figures(subject, sample_scenes(HELD_OUT_SEED, scenes, unusual)) for name, unusual in splits.items()}


def table(results: dict[str, dict[str, dict[str, float]]]) -> str:
    """The metrics as a Markdown table; the targets are for typical scenes."""
    typical, unusual = results["typical"], results["unusual"]
    lines = [
        "| Figure, % | Typical scenes | Wrong images | Target | Reached | Unusual scenes | Wrong images |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, value in typical["true"].items():
        least, most = TARGETS.get(name, (None, None))
        target = f">= {least}" if least is not None else f"<= {most}" if most is not None else "-"
        reached = "-" if target == "-" else "yes" if _reached(name, value) else "no"
        numbers = [f"{column[name]:.1f}" for column in (typical["wrong"], unusual["true"], unusual["wrong"])]
        lines.append(f"| {name} | {value:.1f} | {numbers[0]} | {target} | {reached} | {numbers[1]} | {numbers[2]} |")
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
    parser.add_argument("model", type=model_folder, help="folder of a model trained on scenes, or vigc-tiny")
    parser.add_argument("--scenes", type=int, default=1000, help="number of typical, and of unusual, held-out scenes")
    parser.add_argument("--output", type=Path, help="also write the metrics to this JSON file")
    return parser


def main() -> None:
    """Prints the table."""
    arguments = make_parser().parse_args()
    model = VigcForConditionalGeneration.from_pretrained(arguments.model, dtype=torch.float32).eval()
    if torch.cuda.is_available():
        model.to("cuda")
    results = all_figures(Subject(model, VigcProcessor.from_pretrained(arguments.model)), arguments.scenes)
    print(table(results))
    if arguments.output:
        arguments.output.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
