"""Resumable jobs: plan, shards, locks and output folder."""

from .counts import Counts, Reason, Totals
from .plan import Configuration, Plan, PlannedInputs
from .records import FileMark, ShardRecord
from .run import Outcome, run_task
from .shard_output import ShardOutput

__all__ = [
    "Configuration",
    "Counts",
    "FileMark",
    "Outcome",
    "Plan",
    "PlannedInputs",
    "Reason",
    "ShardOutput",
    "ShardRecord",
    "Totals",
    "run_task",
]
