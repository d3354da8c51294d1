"""The places where planted bugs change the code of jobs, and what else of it they use.

Bugs know the package by this file alone: if a function moves or gets another name, only this file changes.
"""

from dataclasses import dataclass
from functools import partial
from types import ModuleType

from vigc.generation import finalize
from vigc.generation.filters import hashing
from vigc.generation.rollouts import worker
from vigc.jobs import ledger, locks, resume, settle
from vigc.jobs.counts import Totals
from vigc.jobs.ledger import FileMark, ShardRecord

__all__ = ["FileMark", "ShardRecord", "Totals"]


@dataclass(frozen=True)
class Seam:
    """A function or value that callers look up in a module, so that another one can stand in its place.

    Args:
        module: Where callers look it up.
        name: Its name there.
        does: What it does.
    """

    module: ModuleType
    name: str
    does: str

    def __post_init__(self):
        if not hasattr(self.module, self.name):
            raise AttributeError(f"{self.module.__name__} has no {self.name}, which {self.does}: name its new place.")

    def __call__(self, *given, **named):
        """What stands there now."""
        return getattr(self.module, self.name)(*given, **named)

    def replace(self, other):
        """Puts another one into its place."""
        setattr(self.module, self.name, other)

    def wrap(self, function):
        """Puts a function into its place that takes what stood there before the other arguments."""
        self.replace(partial(function, getattr(self.module, self.name)))


# Planning.
COMPLETE_PLAN = Seam(settle, "complete_plan", "lists the inputs and completes the plan")
IS_LISTED = Seam(settle, "_is_listed", "compares the lists of inputs in the folder with the plan")
KEPT_HASHES = Seam(hashing, "_kept", "reads a piece of the perceptual hashes that an earlier run kept")
HASH_PIECE = Seam(hashing, "_PIECE", "says how many hashes a piece has")

# Making and committing shards.
HOLD = Seam(locks, "hold", "locks a part of the folder, and says whether it was free")
FINISH_ROW = Seam(worker, "finish_row", "makes a row as it is stored")
COMMIT = Seam(resume, "commit", "writes a shard, its record last")
IS_DONE = Seam(resume, "_is_done", "says whether a shard is finished")
ATOMIC_WRITE = Seam(ledger, "atomic_write", "writes any file of the folder")
ROWS_FILE = Seam(ledger, "rows_file", "names the file of a shard's rows")
WRITE_QUARANTINE = Seam(ledger, "write_quarantine", "writes what a shard skipped and rejected")
READ_SHARD = Seam(ledger, "read_shard", "reads the record of a shard whose files are intact")
WRITE_SHARD = Seam(ledger, "write_shard", "writes the record of a shard")

# The end.
FINISH = Seam(resume, "finish", "writes card, report and the mark of the end, once")
SWEEP = Seam(resume, "sweep", "deletes what killed writes left")
WRITE_CARD = Seam(finalize, "write_dataset_card", "writes the card")

# What bugs use and leave as it is.
INPUTS, HASHES = ledger.INPUTS, ledger.HASHES
input_lines = settle._lines
missing_shards = resume.missing_shards
perceptual_hash = hashing.perceptual_hash
quarantine_file, record_file, shard_records = ledger.quarantine_file, ledger.record_file, ledger.shard_records
is_finished, write_finished, write_plan = ledger.is_finished, ledger.write_finished, ledger.write_plan
