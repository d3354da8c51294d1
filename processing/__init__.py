"""Images, texts and rows: the processor, the table of task types, and the columns of the datasets."""

from vigc.errors import ImageError

from .images import open_image
from .instructions_vigc import INSTRUCTION_TYPES, InstructionType, QuestionAnswer, pair_text, parse_pair
from .processing_vigc import VigcProcessor
from .rows import GENERATED_FEATURES, TRAIN_FEATURES, row_id

VigcProcessor.register_for_auto_class()

__all__ = [
    "GENERATED_FEATURES",
    "INSTRUCTION_TYPES",
    "TRAIN_FEATURES",
    "ImageError",
    "InstructionType",
    "QuestionAnswer",
    "VigcProcessor",
    "open_image",
    "pair_text",
    "parse_pair",
    "row_id",
]
