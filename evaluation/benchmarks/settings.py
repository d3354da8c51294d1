"""Settings of a benchmark's files and questions, declared without heavy imports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from vigc.options import Option

QUESTIONS = "Questions"


@dataclass(frozen=True)
class DataSettings:
    """The files of a benchmark and the selection of questions. The options' help documents the settings.

    Args:
        synonyms: CHAIR's file of synonyms; `options` may have it instead.
        options: Values of the options of a single benchmark, see [`Option`].
    """

    data: Annotated[
        Path,
        Option("The folder with the published files.", QUESTIONS, common=True, flags=("--data", "-d"), path="folder"),
    ]
    images: Annotated[
        Path | None,
        Option(
            "The folder of the images.",
            QUESTIONS,
            common=True,
            default="images or val2014 in --data, or --data",
            path="folder",
        ),
    ] = None
    split: Annotated[
        str | None,
        Option(
            "okvqa, aokvqa: val, test, ...; mmbench: a part of the table's name; pope: random, popular or adversarial; "
            "chair: SPLIT of instances_SPLIT.json.",
            QUESTIONS,
            common=True,
        ),
    ] = None
    prompt: Annotated[str | None, Option("A prompt with {question} in it, instead of the benchmark's.", QUESTIONS)] = (
        None
    )
    limit: Annotated[
        int | None,
        Option("Only the questions about this number of images, sampled with --seed.", QUESTIONS, common=True, min=1),
    ] = None
    seed: Annotated[int, Option("Seed of --limit, and of POPE's questions about your images.", QUESTIONS)] = 0
    synonyms: Path | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def own(self) -> Mapping[str, Any]:
        """The given options of a single benchmark."""
        given = {"synonyms": self.synonyms, **self.options}
        return {name: value for name, value in given.items() if value is not None}
