"""Jobs that generate and correct instruction datasets from images."""

from typing import TYPE_CHECKING

from vigc.errors import BusyError, ConflictError, GenerationError, TransientError
from vigc.lazy import lazy_names

__all__ = [
    "DEFAULT_TYPES",
    "FORMATS",
    "BusyError",
    "ConflictError",
    "CorrectJob",
    "Estimate",
    "GenerateJob",
    "GenerationError",
    "JobSettings",
    "Preview",
    "Summary",
    "TransientError",
    "correct_dataset",
    "generate_dataset",
    "preview_job",
    "run_job",
    "write_report",
]

if TYPE_CHECKING:
    from .correct import CorrectJob, correct_dataset
    from .estimate import Estimate
    from .finalize import Summary
    from .generate import DEFAULT_TYPES, FORMATS, GenerateJob, generate_dataset
    from .preview import Preview, preview_job
    from .report import write_report
    from .run import run_job
    from .settings import JobSettings
else:  # hidden from type checkers, which would otherwise accept any name
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            ".correct": ("CorrectJob", "correct_dataset"),
            ".estimate": ("Estimate",),
            ".finalize": ("Summary",),
            ".generate": ("DEFAULT_TYPES", "FORMATS", "GenerateJob", "generate_dataset"),
            ".preview": ("Preview", "preview_job"),
            ".report": ("write_report",),
            ".run": ("run_job",),
            ".settings": ("JobSettings",),
        },
    )
