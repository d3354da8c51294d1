"""What is recorded of files and shards when they are written: by it a later run knows what is done."""

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

# Types name folders: of letters, digits, "_" and "-" alone, whatever a plan or record of unknown origin says.
TYPE_NAME = re.compile(r"[A-Za-z0-9_-]+")

# What a record has beside counters.
_OTHERS = ("shard", "fingerprint", "types", "licenses", "reasons", "files")


@dataclass(frozen=True, slots=True)
class FileMark:
    """What is recorded of a file when it is written.

    Args:
        size: Bytes; None where a version recorded none.
        sha256: Hexadecimal digits; the same.
    """

    size: int | None
    sha256: str | None = None

    @classmethod
    def of(cls, data: bytes) -> FileMark:
        """The mark of a file with this content."""
        return cls(len(data), hashlib.sha256(data).hexdigest())

    @classmethod
    def from_json(cls, value: Any) -> FileMark:
        """As JSON holds it: an object, or of an older version the size or nothing.

        Raises:
            TypeError: It is none of these.
        """
        return cls(**value) if isinstance(value, dict) else cls(value)

    def fault(self, path: Path, *, size: bool = True, content: bool = False) -> str | None:
        """What is wrong with a file, to be read behind its name; None if it is as it was written.

        Args:
            path: The file.
            size: Whether its size counts, and not only that it is there and not empty.
            content: Whether its bytes count.
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
    """What the record of a finished shard says: its counts, and the files that it vouches for.

    Args:
        shard: Its number.
        fingerprint: The plan that it was made by.
        files: Size and hash of every file that was written, by its path in the folder.
    """

    shard: int
    fingerprint: str
    files: dict[str, FileMark] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As its file holds it."""
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
        """What [`to_json`] made, whatever became of the files.

        Raises:
            KeyError, TypeError, ValueError, AttributeError: It is no such object.
        """
        if unknown := values.keys() - {*_OTHERS, *counter_names()}:  # of a later version, which counts something else
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
