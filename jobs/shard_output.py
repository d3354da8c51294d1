"""The output of a shard before it is committed."""

from __future__ import annotations

from dataclasses import dataclass, field

from .counts import Counts
from .protocols import Record


@dataclass(kw_only=True)
class ShardOutput(Counts):
    """The output of a shard, with its counters.

    Args:
        rows: Rows of the task's `RowSchema`.
        skipped: Records of skipped inputs.
        rejects: Records of rejected samples.
        asked: Number of requested samples; each must end as a row, rejected or dropped.
    """

    rows: list[Record] = field(default_factory=list)
    skipped: list[Record] = field(default_factory=list)
    rejects: list[Record] = field(default_factory=list)
    asked: int = 0
