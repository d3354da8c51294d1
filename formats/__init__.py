"""Reads and writes published layouts of instruction data: LLaVA, VQA, COCO, TRL, FineVision and StableLLaVA."""

from typing import TYPE_CHECKING

from vigc.lazy import lazy_names

__all__ = [
    "FORMATS",
    "Format",
    "PreferenceRule",
    "rows_from_finevision",
    "rows_from_llava",
    "rows_from_trl",
    "source_records",
]

if TYPE_CHECKING:
    from .base import Format
    from .finevision import rows_from_finevision
    from .llava import rows_from_llava
    from .preferences import PreferenceRule
    from .table import FORMATS, source_records
    from .trl import rows_from_trl
else:  # unseen by type checkers, which would otherwise accept any name
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            ".base": ("Format",),
            ".finevision": ("rows_from_finevision",),
            ".llava": ("rows_from_llava",),
            ".preferences": ("PreferenceRule",),
            ".table": ("FORMATS", "source_records"),
            ".trl": ("rows_from_trl",),
        },
    )
