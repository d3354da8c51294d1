"""Where the answers of an evaluation come from, and where its results go: the settings beside `DataSettings`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from vigc.inference.settings import MODEL, CommonDecoding, LoadingSettings
from vigc.options import Option

_ANSWERS = "Answers made elsewhere"


@dataclass(frozen=True, kw_only=True)
class AnswerSettings(LoadingSettings, CommonDecoding):
    """Answers of a model, or of a file, and the file of results."""

    output: Annotated[
        Path,
        Option(
            "The file of results to write (JSON); answers and submissions lie beside it.",
            common=True,
            flags=("--output", "-o"),
            once=True,
        ),
    ]
    overwrite: Annotated[
        bool, Option("Discard the answers of another run beside the output.", common=True, once=True)
    ] = False
    predictions: Annotated[
        Path | None,
        Option(
            "Score these answers (JSON, JSON Lines, Excel) instead of asking a model.",
            _ANSWERS,
            common=True,
            path="file",
        ),
    ] = None
    reviews: Annotated[
        Path | None,
        Option("llava: a judge's reviews of the answers (JSON Lines, as LLaVA publishes them).", _ANSWERS, path="file"),
    ] = None
    model: Annotated[
        str | None,
        Option(
            "Folder or Hub name of VIGC, InstructBLIP or any chat model.", MODEL, common=True, flags=("--model", "-m")
        ),
    ] = None
    batch_size: Annotated[int, Option("Questions at a time.", MODEL, common=True, min=1)] = 8
    no_correct: Annotated[bool, Option("VIGC: one plain answer, without VIC's steps.", MODEL)] = False
