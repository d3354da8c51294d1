"""The interfaces of a job: inputs, rows, and the task that makes shards."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias, TypeVar

if TYPE_CHECKING:
    import pyarrow as pa

    from .plan import Plan, PlannedInputs
    from .shard_output import ShardOutput

# A JSON object or parquet row: an input, a row or a quarantine record.
Record: TypeAlias = dict[str, Any]


class Report(Protocol):
    """A callback for progress within a shard. The first call is `(0, 0)`, after the model is loaded."""

    def __call__(self, inputs: int, rows: int, /) -> object:
        """Receives the number of finished inputs of the shard and the number of their rows."""


class Input(Protocol):
    """One input."""

    @property
    def count(self) -> int:
        """Number of inputs: this one and its exact copies."""

    def to_record(self) -> Record:
        """The record in the list of inputs."""


InputT = TypeVar("InputT", bound=Input)
InputT_co = TypeVar("InputT_co", bound=Input, covariant=True)
InputT_contra = TypeVar("InputT_contra", bound=Input, contravariant=True)

MakeShard: TypeAlias = "Callable[[Sequence[InputT], Report], ShardOutput]"


class InputSet(Protocol[InputT_co]):
    """The inputs of a job: listed in a stable order and restored from the list."""

    @property
    def shard_size(self) -> int:
        """Number of inputs per shard."""

    @property
    def empty_folders(self) -> list[str]:
        """Empty sub-folders found by the last listing."""

    def sources(self, folder: Path) -> Iterator[InputT_co]:
        """Lists the inputs; caches computed values in the dataset folder."""

    def excluded(self) -> Iterator[Record]:
        """Records of the inputs that filters excluded in the last listing."""

    def facts(self) -> PlannedInputs:
        """The plan's entry for the last listing, without number of shards and hash."""

    def restorer(self, folder: Path) -> Callable[[Record], InputT_co]:
        """Returns a function that makes an input from a record of the folder's list."""

    def check_readable(self) -> None:
        """Opens some inputs, before a model is loaded or a dataset is replaced.

        Raises:
            TransientError: Disk, memory or network is unavailable.
            GenerationError: None of them can be read.
        """


class Edit(NamedTuple):
    """How correction changed the draft of a row.

    Args:
        changed: Whether the row counts as changed.
        words_out: Number of words that only the draft has.
        words_in: Number of words that only the answer has.
    """

    changed: bool
    words_out: int
    words_in: int


class RowSchema(Protocol):
    """The columns of a job's rows. `jobs` itself only reads `id`, `type` and `license`."""

    @property
    def arrow(self) -> pa.Schema:
        """The parquet schema."""

    @property
    def types(self) -> Sequence[str]:
        """All types that rows can have. Each names a folder; a plan lists the types of its job."""

    def edit_of(self, row: Record) -> Edit:
        """How correction changed a row."""


class Task(Protocol[InputT_contra]):
    """A job's settings, its model and its final step."""

    @property
    def row_schema(self) -> RowSchema:
        """The schema of the rows."""

    @property
    def overwrite(self) -> bool:
        """Whether to replace another job or a finished one."""

    @property
    def verify(self) -> bool:
        """Whether to compare files with their hashes."""

    @property
    def rank(self) -> int:
        """Index of this process."""

    @property
    def world_size(self) -> int:
        """Number of processes that share the job."""

    @property
    def engine(self) -> str:
        """The executor: "local" or "ray"."""

    @property
    def inputs_name(self) -> str:
        """Name of the inputs in the progress: "images"."""

    @property
    def workers(self) -> int | None:
        """With Ray: number of processes; None for one per device."""

    @property
    def device(self) -> str:
        """The `device` setting of the job."""

    def check_portable(self) -> None:
        """Checks that the task can run in other processes.

        Raises:
            GenerationError: The model is an object in this process.
        """

    def load(self, device: str, plan: Plan) -> MakeShard[InputT_contra]:
        """Loads the model and returns the function that makes shards.

        Raises:
            GenerationError: The model cannot be loaded, or is not the model of the plan.
        """

    def finalize(self, folder: Path, plan: Plan) -> dict[str, int]:
        """Writes card and report; returns the totals for `finished.json`."""
