"""Which questions of a benchmark are asked: declared once, and read without heavy imports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from vigc.options import Option

QUESTIONS = "Questions"


@dataclass(frozen=True)
class DataSettings:
    """Where a benchmark's files lie and what of them is used. What a setting does is said where it is declared.

    Args:
        synonyms: CHAIR's file of synonyms, as `options` may have it.
        options: Values of options of the benchmark's own, see [`Option`].
    """

    data: Annotated[
        Path,
        Option("The folder with the published files.", QUESTIONS, common=True, flags=("--data", "-d"), path="folder"),
    ]
    images: Annotated[
        Path | None,
        Option(
            "The folder of the pictures.",
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
            "chair: which instances_SPLIT.json.",
            QUESTIONS,
            common=True,
        ),
    ] = None
    prompt: Annotated[
        str | None, Option("What to ask, with {question} in it, instead of the benchmark's own words.", QUESTIONS)
    ] = None
    limit: Annotated[
        int | None,
        Option("Only the questions about so many pictures, drawn with --seed.", QUESTIONS, common=True, min=1),
    ] = None
    seed: Annotated[int, Option("Decides which, and what POPE asks for in pictures of yours.", QUESTIONS)] = 0
    synonyms: Path | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def own(self) -> Mapping[str, Any]:
        """The options of the benchmark's own that are given."""
        given = {"synonyms": self.synonyms, **self.options}
        return {name: value for name, value in given.items() if value is not None}
