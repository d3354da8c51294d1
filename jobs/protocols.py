"""What a job is handed: its inputs, the maker of its shards, and what is written at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias, TypeVar

if TYPE_CHECKING:
    import pyarrow as pa

    from .plan import Plan, PlannedInputs
    from .shard_output import ShardOutput

# An object as JSON or parquet holds it: an input of the list, a row, or what the quarantine has.
Record: TypeAlias = dict[str, Any]


class Report(Protocol):
    """Is told how far a shard is, while it is made: first `(0, 0)`, when the model is loaded."""

    def __call__(self, inputs: int, rows: int, /) -> object:
        """Takes how many of the shard's inputs are done, and how many rows are made of them."""


class Input(Protocol):
    """One input."""

    @property
    def count(self) -> int:
        """How many inputs it stands for: itself and its exact copies."""

    def to_record(self) -> Record:
        """As the list of inputs holds it."""


InputT = TypeVar("InputT", bound=Input)
InputT_co = TypeVar("InputT_co", bound=Input, covariant=True)
InputT_contra = TypeVar("InputT_contra", bound=Input, contravariant=True)

MakeShard: TypeAlias = "Callable[[Sequence[InputT], Report], ShardOutput]"


class InputSet(Protocol[InputT_co]):
    """The inputs of a job: listed in a stable order, restored from the list, and known to be readable."""

    @property
    def shard_size(self) -> int:
        """How many make a shard."""

    @property
    def empty_folders(self) -> list[str]:
        """Sub-folders of the inputs with nothing in them, when they were listed last."""

    def sources(self, folder: Path) -> Iterator[InputT_co]:
        """Lists the inputs; what is computed for that is kept in the dataset folder."""

    def excluded(self) -> Iterator[Record]:
        """What filters excluded when the inputs were listed last."""

    def facts(self) -> PlannedInputs:
        """What the plan records of the inputs as they were listed last, without their number of shards and hash."""

    def restorer(self, folder: Path) -> Callable[[Record], InputT_co]:
        """Makes inputs of the records in the list of a dataset folder."""

    def check_readable(self) -> None:
        """Opens some inputs, before a model is loaded or anything replaced.

        Raises:
            TransientError: Disk, memory or network is unavailable.
            GenerationError: None of them can be read.
        """


class Edit(NamedTuple):
    """How far correction changed the draft of a row.

    Args:
        changed: Whether the row counts as changed.
        words_out: Words that only the draft has.
        words_in: Words that only the answer has.
    """

    changed: bool
    words_out: int
    words_in: int


class RowSchema(Protocol):
    """What the rows of a job are. Of their columns, a job itself reads `id`, `type` and `license`."""

    @property
    def arrow(self) -> pa.Schema:
        """The columns, as parquet files have them."""

    @property
    def types(self) -> Sequence[str]:
        """All types that such rows can have. Each names a folder; a plan names those of its job."""

    def edit_of(self, row: Record) -> Edit:
        """How far correction changed a row."""


class Task(Protocol[InputT_contra]):
    """What is made, and how: the settings of a job."""

    @property
    def row_schema(self) -> RowSchema:
        """What its rows are."""

    @property
    def overwrite(self) -> bool:
        """Whether another job, or a finished one, is replaced."""

    @property
    def verify(self) -> bool:
        """Whether files are compared with their hashes."""

    @property
    def rank(self) -> int:
        """Which of several processes this is."""

    @property
    def world_size(self) -> int:
        """How many processes share the job."""

    @property
    def engine(self) -> str:
        """Which executor makes the shards: "local" or "ray"."""

    @property
    def inputs_name(self) -> str:
        """What inputs are called where they are counted: "images"."""

    @property
    def workers(self) -> int | None:
        """With Ray: how many processes; None: one for each device."""

    @property
    def device(self) -> str:
        """Where the model runs, as it was given."""

    def check_portable(self) -> None:
        """Makes sure that other processes can do the task.

        Raises:
            GenerationError: The model is an object of this process.
        """

    def load(self, device: str, plan: Plan) -> MakeShard[InputT_contra]:
        """Loads the model; returns what makes shards with it.

        Raises:
            GenerationError: It cannot be loaded, or is not the one that was planned with.
        """

    def finalize(self, folder: Path, plan: Plan) -> dict[str, int]:
        """Writes what is made from all shards together; returns the figures that the mark of the end records."""
