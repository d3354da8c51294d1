"""Reads and writes published layouts of instruction data: LLaVA, VQA, COCO, TRL, FineVision and StableLLaVA."""

from .base import Format
from .finevision import rows_from_finevision
from .llava import rows_from_llava
from .preferences import PreferenceRule
from .table import FORMATS, source_records
from .trl import rows_from_trl

__all__ = [
    "FORMATS",
    "Format",
    "PreferenceRule",
    "rows_from_finevision",
    "rows_from_llava",
    "rows_from_trl",
    "source_records",
]
