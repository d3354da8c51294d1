"""Pictures, texts and rows: the processor, the table of instruction types, and the columns of our datasets."""

from vigc.errors import ImageError

from .export import export_dataset
from .export_layouts import rows_from_finevision, rows_from_trl
from .images import open_image
from .instructions_vigc import INSTRUCTION_TYPES, InstructionType, QuestionAnswer, pair_text, parse_pair
from .llava import rows_from_llava
from .preferences import PreferenceRule
from .processing_vigc import VigcProcessor
from .rows import GENERATED_FEATURES, TRAIN_FEATURES, row_id

VigcProcessor.register_for_auto_class()

__all__ = [
    "GENERATED_FEATURES",
    "INSTRUCTION_TYPES",
    "TRAIN_FEATURES",
    "ImageError",
    "InstructionType",
    "PreferenceRule",
    "QuestionAnswer",
    "VigcProcessor",
    "export_dataset",
    "open_image",
    "pair_text",
    "parse_pair",
    "row_id",
    "rows_from_finevision",
    "rows_from_llava",
    "rows_from_trl",
]
