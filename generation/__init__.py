"""The long job: pictures go in, a dataset of instruction rows comes out."""

from .correct import correct_dataset
from .errors import BusyError, ConflictError, GenerationError, TryAgainError
from .finish import Summary
from .generate import DEFAULT_TYPES, FORMATS, generate_dataset
from .report import write_report

__all__ = [
    "DEFAULT_TYPES",
    "FORMATS",
    "BusyError",
    "ConflictError",
    "GenerationError",
    "Summary",
    "TryAgainError",
    "correct_dataset",
    "generate_dataset",
    "write_report",
]
