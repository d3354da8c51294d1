"""Turns errors of annotation files into errors of a job."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from vigc.errors import AnnotationError, GenerationError, is_transient


@contextmanager
def naming_files() -> Iterator[None]:
    """Turns errors in annotation files into a `GenerationError`; transient errors pass unchanged."""
    try:
        yield
    except AnnotationError as error:
        if isinstance(error.__cause__, OSError) and is_transient(error.__cause__):
            raise error.__cause__ from None
        raise GenerationError(str(error)) from error
