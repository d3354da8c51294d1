"""The rows of generated and corrected datasets, as a job is told of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vigc.processing.instructions_vigc import INSTRUCTION_TYPES

if TYPE_CHECKING:
    import pyarrow as pa

    from vigc.jobs.protocols import Edit, Record

# The type of corrected rows of no known type.
CORRECTED = "corrected"


class GeneratedRows:
    """A `RowSchema`: the columns of `GENERATED_FEATURES`. Checking settings does not import what its members need."""

    @property
    def arrow(self) -> pa.Schema:
        """The columns, as parquet files have them."""
        from vigc.processing.rows import GENERATED_FEATURES

        return GENERATED_FEATURES.arrow_schema

    @property
    def types(self) -> list[str]:
        """All task types, then the one of corrected rows of no known type."""
        return [*INSTRUCTION_TYPES, CORRECTED]

    def edit_of(self, row: Record) -> Edit:
        """Compares the words of draft and answer; without a draft nothing changed."""
        from vigc.jobs.protocols import Edit
        from vigc.processing.rows import is_edited
        from vigc.processing.word_diff import words_changed

        draft, answer = row["draft"], row["answer"]
        return Edit(is_edited(draft, answer), *words_changed(draft, answer))
