"""What comes of a shard before it is committed."""

from __future__ import annotations

from dataclasses import dataclass, field

from .counts import Counts
from .protocols import Record


@dataclass(kw_only=True)
class ShardOutput(Counts):
    """All that came of a shard, with its counters.

    Args:
        rows: Rows of the task's `RowSchema`, as they are stored.
        skipped: Records of inputs that were skipped.
        rejects: Records of samples that were rejected.
        asked: How many samples were asked for: each must be a row, rejected, or dropped.
    """

    rows: list[Record] = field(default_factory=list)
    skipped: list[Record] = field(default_factory=list)
    rejects: list[Record] = field(default_factory=list)
    asked: int = 0
