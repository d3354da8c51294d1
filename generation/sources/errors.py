"""Errors of annotation files, as errors of a job."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from vigc.errors import AnnotationError, GenerationError, is_transient


@contextmanager
def naming_files() -> Iterator[None]:
    """What is wrong with a file of annotations as a `GenerationError`; what is wrong with the machine as it is."""
    try:
        yield
    except AnnotationError as error:
        if isinstance(error.__cause__, OSError) and is_transient(error.__cause__):
            raise error.__cause__ from None
        raise GenerationError(str(error)) from error
