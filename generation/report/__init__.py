"""The report page of a dataset folder: images, differences between drafts and answers, charts, rejected samples."""

from .page import write_report

__all__ = ["write_report"]
