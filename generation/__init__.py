"""The long job: pictures go in, a dataset of instruction rows comes out."""

from .errors import GenerationError
from .generate import DEFAULT_TYPES, Summary, generate_dataset
from .report import write_report

__all__ = ["DEFAULT_TYPES", "GenerationError", "Summary", "generate_dataset", "write_report"]
