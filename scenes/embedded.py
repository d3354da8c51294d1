"""The models that the package includes, and the short names that commands accept for them."""

from __future__ import annotations

import os
from pathlib import Path

# The embedded model, trained on rendered scenes (recipes/tiny).
VIGC_TINY = Path(__file__).resolve().parent / "vigc_tiny"

EMBEDDED = {"vigc-tiny": VIGC_TINY}


def model_folder(model: str | os.PathLike[str]) -> str:
    """The path for `from_pretrained`: an embedded model's folder, given its name; any other name unchanged.

    Args:
        model: "vigc-tiny", or a folder or a name on the Hub. A folder of that name in the working directory takes
            precedence.
    """
    name = os.fspath(model)
    return str(EMBEDDED[name]) if name in EMBEDDED and not Path(name).is_dir() else name


def model_name(model: str | os.PathLike[str]) -> str:
    """The inverse of [`model_folder`]: an embedded model's name, given its folder; any other name unchanged."""
    for name, folder in EMBEDDED.items():
        if Path(model).is_dir() and Path(model).resolve() == folder:
            return name
    return os.fspath(model)
