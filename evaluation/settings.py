"""Settings of an evaluation except for `DataSettings`: the source of the answers, and the output."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from vigc.inference.settings import MODEL, CommonDecoding, LoadingSettings
from vigc.options import Option

_ANSWERS = "Existing answers"


@dataclass(frozen=True, kw_only=True)
class AnswerSettings(LoadingSettings, CommonDecoding):
    """Settings of the answers, from a model or a file, and of the results file."""

    output: Annotated[
        Path,
        Option(
            "The results file to write (JSON); answers and submissions are written to the same folder.",
            common=True,
            flags=("--output", "-o"),
            once=True,
        ),
    ]
    overwrite: Annotated[
        bool, Option("Discard the answers of another run with this output.", common=True, once=True)
    ] = False
    predictions: Annotated[
        Path | None,
        Option(
            "Score these answers (JSON, JSON Lines, Excel) instead of running a model.",
            _ANSWERS,
            common=True,
            path="file",
        ),
    ] = None
    reviews: Annotated[
        Path | None,
        Option("llava: a judge's reviews of the answers (JSON Lines, in LLaVA's layout).", _ANSWERS, path="file"),
    ] = None
    model: Annotated[
        str | None,
        Option(
            "Folder or Hub name of VIGC, InstructBLIP or any chat model.", MODEL, common=True, flags=("--model", "-m")
        ),
    ] = None
    batch_size: Annotated[int, Option("Number of questions per batch.", MODEL, common=True, min=1)] = 8
    no_correct: Annotated[bool, Option("VIGC: answer by plain decoding, without VIC's steps.", MODEL)] = False
