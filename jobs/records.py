"""Records of written files and shards, by which a later run recognises finished work."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vigc.hub_cards import TypeFigures
from vigc.processing.digest import file_digest

from .counts import Reason, Totals, counter_names

# Types name folders, and a plan may come from a stranger: only letters, digits, "_" and "-" are allowed.
TYPE_NAME = re.compile(r"[A-Za-z0-9_-]+")

# Fields of a record that are not counters.
_OTHERS = ("shard", "fingerprint", "types", "licenses", "reasons", "files")


@dataclass(frozen=True, slots=True)
class FileMark:
    """Size and hash of a written file.

    Args:
        size: Size in bytes; None if an older version did not record it.
        sha256: Hash in hexadecimal digits; None likewise.
    """

    size: int | None
    sha256: str | None = None

    @classmethod
    def of(cls, data: bytes) -> FileMark:
        """The mark of a file with this content."""
        return cls(len(data), hashlib.sha256(data).hexdigest())

    @classmethod
    def from_json(cls, value: Any) -> FileMark:
        """Reads the JSON: an object, or from older versions the size or null.

        Raises:
            TypeError: The value is none of these.
        """
        return cls(**value) if isinstance(value, dict) else cls(value)

    def fault(self, path: Path, *, size: bool = True, content: bool = False) -> str | None:
        """Describes the damage of a file, as a predicate of its name; None if the file is intact.

        Args:
            path: The file.
            size: Whether to compare the size; otherwise the file must exist and not be empty.
            content: Whether to compare the hash.
        """
        if not path.is_file():
            return "is missing"
        now = path.stat().st_size
        if not now and self.size != 0:
            return "is empty"
        if (size or content) and self.size is not None and now != self.size:
            return f"has {now:,} bytes, and {self.size:,} were written"
        if content and self.sha256 is not None and file_digest(path) != self.sha256:
            return "has other bytes than were written"
        return None


@dataclass
class ShardRecord(Totals):
    """The record of a finished shard: its counts and its files.

    Args:
        shard: Index of the shard.
        fingerprint: Fingerprint of the plan.
        files: Size and hash of every file, by path in the dataset folder.
    """

    shard: int
    fingerprint: str
    files: dict[str, FileMark] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The JSON of the record's file."""
        return {
            "shard": self.shard,
            "fingerprint": self.fingerprint,
            **self.counts_to_json(),
            "types": {kind: asdict(figures) for kind, figures in self.types.items()},
            "licenses": dict(self.licenses),
            "reasons": [[reason.rule, reason.detail, count] for reason, count in self.reasons.items()],
            "files": {name: asdict(mark) for name, mark in self.files.items()},
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ShardRecord:
        """Reads the output of [`to_json`]; does not check the files.

        Raises:
            KeyError, TypeError, ValueError, AttributeError: The JSON is not a shard record.
        """
        if unknown := values.keys() - {*_OTHERS, *counter_names()}:  # written by a later version with other counters
            raise ValueError(f"{', '.join(sorted(unknown))}: not known")
        types = {kind: TypeFigures(**figures) for kind, figures in values["types"].items() if TYPE_NAME.fullmatch(kind)}
        return cls(
            values["shard"],
            values["fingerprint"],
            files={name: FileMark.from_json(mark) for name, mark in values["files"].items()},
            types=types,
            licenses=Counter(values.get("licenses", {})),
            reasons=Counter({Reason(rule, detail): count for rule, detail, count in values["reasons"]}),
            **cls.counts_from_json(values),
        )
