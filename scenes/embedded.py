"""The models that come with the package, and the names that stand for them wherever a model is named."""

from __future__ import annotations

import os
from pathlib import Path

# The embedded model, trained on rendered scenes (recipes/tiny).
VIGC_TINY = Path(__file__).resolve().parent / "vigc_tiny"

EMBEDDED = {"vigc-tiny": VIGC_TINY}


def model_folder(model: str | os.PathLike[str]) -> str:
    """What `from_pretrained` loads a model from: the folder of an embedded one, by its name; any other name as it is.

    Args:
        model: "vigc-tiny", or a folder or a name on the Hub. A folder of that name in the working directory comes
            first.
    """
    name = os.fspath(model)
    return str(EMBEDDED[name]) if name in EMBEDDED and not Path(name).is_dir() else name


def model_name(model: str | os.PathLike[str]) -> str:
    """The opposite of [`model_folder`]: the name of an embedded model, by its folder; any other name as it is."""
    for name, folder in EMBEDDED.items():
        if Path(model).is_dir() and Path(model).resolve() == folder:
            return name
    return os.fspath(model)
