"""Writes a folder that adds IQF to stock InstructBLIP checkpoints through transformers' `custom_generate`."""

from __future__ import annotations

import re
from pathlib import Path

from vigc import modeling_vigc, processing
from vigc.hub_cards import write_custom_generate_card

from . import generate as custom_generate

REQUIREMENTS = "torch>=2.6\ntransformers>=5.20\npillow>=10.3\n"

_FROM_A_PACKAGE = re.compile(r"^from vigc\.\w+\.(?=\w+_vigc import )", flags=re.MULTILINE)


def save_custom_generate(folder: Path) -> list[Path]:
    """Writes `custom_generate/` into a folder: a new one for a repository, or an InstructBLIP checkpoint.

    Args:
        folder: The folder, created if it does not exist. A card is written if it has none.

    Returns:
        The files that were written.
    """
    home = folder / "custom_generate"
    home.mkdir(parents=True, exist_ok=True)
    files = {
        "generate.py": sibling_imports(_source(custom_generate.__file__)),
        "requirements.txt": REQUIREMENTS,
    }
    files |= travelling_code()
    for name, text in files.items():
        (home / name).write_text(text, encoding="utf-8")
    written = [home / name for name in sorted(files)]
    if not (folder / "README.md").exists():
        written.append(write_custom_generate_card(folder))
    return written


def travelling_code() -> dict[str, str]:
    """The `*_vigc.py` files that are published with a model, by file name."""
    folders = [Path(str(package.__file__)).parent for package in (modeling_vigc, processing)]
    return {path.name: _source(path) for folder in folders for path in sorted(folder.glob("*_vigc.py"))}


def sibling_imports(source: str) -> str:
    """Rewrites imports from vigc's packages to relative ones, for a flat folder."""
    return _FROM_A_PACKAGE.sub("from .", source)


def _source(path: str | Path) -> str:
    return Path(path).read_text(encoding="utf-8")
