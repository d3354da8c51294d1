"""Makes `import vigc` register VIGC with transformers' Auto classes, without importing transformers by itself.

`vigc.modeling_vigc` registers configuration and model on import. The processor is registered here, after both modules
that it needs. They are imported right after transformers, or at once if transformers was imported before vigc.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

_LIBRARY = "transformers"
_OURS = ("vigc.modeling_vigc", "vigc.processing.processing_vigc")


def register() -> None:
    """Registers VIGC now if transformers is imported, otherwise when it is."""
    sys.meta_path.insert(0, _Watcher())
    if _LIBRARY in sys.modules:
        _import_ours()


def _import_ours() -> None:
    # If one of them is just being imported (and imported transformers), it registers when its import ends.
    for name in _OURS:
        import_module(name)


def _register_processor() -> None:
    from transformers import AutoProcessor

    from .modeling_vigc import VigcConfig
    from .processing import VigcProcessor

    VigcProcessor.register_for_auto_class()
    AutoProcessor.register(VigcConfig, VigcProcessor, exist_ok=True)


class _Watcher(MetaPathFinder):
    """An import hook that is called after the import of transformers or one of our modules. It finds no modules."""

    def __init__(self) -> None:
        self.imported: set[str] = set()

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Returns the spec of the other finders, with a loader that also calls `_was_imported`."""
        if name != _LIBRARY and name not in _OURS:
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        specs = (finder.find_spec(name, path, target) for finder in others)
        spec = next((spec for spec in specs if spec is not None), None)
        if spec is None or spec.loader is None:
            return spec
        load = spec.loader.exec_module

        def load_and_tell(module: ModuleType) -> None:
            load(module)
            self._was_imported(name)

        vars(spec.loader)["exec_module"] = load_and_tell
        return spec

    def _was_imported(self, name: str) -> None:
        self.imported.add(name)
        if name == _LIBRARY:
            _import_ours()
        elif self.imported.issuperset(_OURS):
            _register_processor()


__all__ = ["register"]
