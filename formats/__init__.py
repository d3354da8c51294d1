"""Published layouts of instruction data: LLaVA, VQA, COCO, TRL, FineVision and others, read and written."""

from .layouts import rows_from_finevision, rows_from_trl
from .llava import rows_from_llava
from .preferences import PreferenceRule

__all__ = ["PreferenceRule", "rows_from_finevision", "rows_from_llava", "rows_from_trl"]
