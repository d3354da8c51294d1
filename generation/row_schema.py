"""The row schema of generated and corrected datasets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vigc.processing.instructions_vigc import INSTRUCTION_TYPES

if TYPE_CHECKING:
    import pyarrow as pa

    from vigc.jobs.protocols import Edit, Record

# The task type of corrected rows whose type is unknown.
CORRECTED = "corrected"


class GeneratedRows:
    """A `RowSchema` with the columns of `GENERATED_FEATURES`. Its members import pyarrow and datasets lazily."""

    @property
    def arrow(self) -> pa.Schema:
        """The parquet schema."""
        from vigc.processing.rows import GENERATED_FEATURES

        return GENERATED_FEATURES.arrow_schema

    @property
    def types(self) -> list[str]:
        """All task types, then `CORRECTED`."""
        return [*INSTRUCTION_TYPES, CORRECTED]

    def edit_of(self, row: Record) -> Edit:
        """Compares the words of draft and answer; a row without draft is unchanged."""
        from vigc.jobs.protocols import Edit
        from vigc.processing.rows import is_edited
        from vigc.processing.word_diff import words_changed

        draft, answer = row["draft"], row["answer"]
        return Edit(is_edited(draft, answer), *words_changed(draft, answer))
