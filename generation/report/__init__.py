"""The report page of a dataset folder: images, drafts against answers, charts, what was rejected."""

from .page import write_report

__all__ = ["write_report"]
