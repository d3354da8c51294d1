"""`vigc custom-generate`: IQF for stock InstructBLIP checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from .terminal import count, option, say

Output = Annotated[
    Path,
    option("The folder to write: a new one, or the folder of an InstructBLIP checkpoint.", "--output", "-o"),
]


def custom_generate(output: Output) -> None:
    """Write the code that adds IQF to a stock InstructBLIP through transformers' custom_generate.

    A new folder can be published as a repository, for model.generate(custom_generate=NAME). In the folder of an
    InstructBLIP checkpoint, the code replaces that model's generate.
    """
    from vigc.custom_generate.folder import save_custom_generate

    written = save_custom_generate(output)
    say(f"{count(len(written), 'file')} in {output}")
