"""Images, texts and rows: the processor, the table of task types, and the columns of the datasets."""

from typing import TYPE_CHECKING

from vigc.errors import ImageError
from vigc.lazy import lazy_names

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

if TYPE_CHECKING:
    from .images import open_image
    from .instructions_vigc import INSTRUCTION_TYPES, InstructionType, QuestionAnswer, pair_text, parse_pair
    from .processing_vigc import VigcProcessor
    from .rows import GENERATED_FEATURES, TRAIN_FEATURES, row_id
else:  # unseen by type checkers, which would otherwise accept any name
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            ".images": ("open_image",),
            ".instructions_vigc": ("INSTRUCTION_TYPES", "InstructionType", "QuestionAnswer", "pair_text", "parse_pair"),
            ".processing_vigc": ("VigcProcessor",),
            ".rows": ("GENERATED_FEATURES", "TRAIN_FEATURES", "row_id"),
        },
    )
