"""What comes of a shard before it is committed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class ShardOutput:
    """All that came of a shard.

    Args:
        rows: Rows of `GENERATED_FEATURES` as they are stored.
        skipped: Records of inputs that were set aside.
        rejects: Records of texts that were set aside.
        images: How many pictures were worked on.
        duplicates: How many inputs are exact copies of one of them.
        dropped: How many questions were left out as repeated.
        bare: How many inputs have no picture; their rows were passed on as they were.
        halved: How often a batch was cut for want of memory.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    skipped: list[dict[str, Any]] = field(default_factory=list)
    rejects: list[dict[str, Any]] = field(default_factory=list)
    images: int = 0
    duplicates: int = 0
    dropped: int = 0
    bare: int = 0
    halved: int = 0
