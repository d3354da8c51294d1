"""Lazy imports for packages: public names are imported on first use.

This module imports nothing of vigc.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any


def lazy_names(
    package: str, modules: Mapping[str, Sequence[str]]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """The `__getattr__` and `__dir__` of a package (PEP 562). Type checkers read its imports under `TYPE_CHECKING`.

    Args:
        package: `__name__` of the package.
        modules: Public names by module. Module names are absolute, or relative to the package (".generate").
    """
    homes = {name: module for module, names in modules.items() for name in names}

    def __getattr__(name: str) -> Any:
        if name not in homes:
            public = ", ".join(sorted(homes))
            raise AttributeError(f"module {package!r} has no attribute {name!r}; its public names are {public}")
        value = getattr(import_module(homes[name], package), name)
        setattr(sys.modules[package], name, value)
        return value

    def __dir__() -> list[str]:
        return sorted({*vars(sys.modules[package]), *homes})

    return __getattr__, __dir__
