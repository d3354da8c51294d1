"""What an export is told, beside its `PreferenceRule`: declared once, and checked without heavy imports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from vigc.errors import ExportError
from vigc.options import Option, check_values

_PICTURES = "Pictures"


@dataclass(frozen=True, kw_only=True)
class ExportSettings:
    """Which rows are written, in which layout, and where.

    Raises:
        ExportError: A value that is not known.
    """

    dataset: Annotated[
        Path,
        Option(
            "A folder that `vigc generate` or `vigc correct` wrote, or rows to train on as parquet.",
            argument=True,
            common=True,
            path="folder",
        ),
    ]
    format: Annotated[
        Literal["trl-sft", "trl-dpo", "llava", "finevision"],
        Option("The layout.", common=True, flags=("--format", "-f")),
    ]
    output: Annotated[
        Path, Option("The folder to write, new or empty.", common=True, flags=("--output", "-o"), once=True)
    ]
    types: Annotated[
        Sequence[str] | None,
        Option("Only these types of instruction, with commas between.", common=True, commas=True),
    ] = None
    no_pictures: Annotated[bool, Option("llava: store the paths of images only.", _PICTURES, common=True)] = False
    image_root: Annotated[
        Path | None,
        Option("The folder of images that rows only name; by default DATASET.", _PICTURES, common=True, path="folder"),
    ] = None

    def __post_init__(self) -> None:
        check_values(self, ExportError)
