"""The long job: pictures go in, a dataset of instruction rows comes out."""

from vigc.errors import BusyError, ConflictError, GenerationError, TransientError

from .correct import CorrectJob, correct_dataset
from .estimate import Estimate
from .finalize import Summary
from .generate import DEFAULT_TYPES, FORMATS, GenerateJob, generate_dataset
from .preview import Preview, preview_job
from .report import write_report
from .run import run_job
from .settings import JobSettings

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
