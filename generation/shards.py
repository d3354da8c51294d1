"""A shard, from its inputs to what is committed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vigc.generation.sources.base import Source
from vigc.hub_cards import TypeFigures
from vigc.jobs import ledger
from vigc.jobs.ledger import ShardRecord
from vigc.jobs.shard_output import ShardOutput
from vigc.processing.word_diff import words_changed

UNREADABLE, NO_PAIR = "a file that cannot be read", "a text that is no pair"


# Makes the output of a shard; the callback is told in words how far it is.
MakeShard = Callable[[list[Source], Callable[[str], Any]], ShardOutput]


def commit(folder: Path, plan: dict[str, Any], shard: int, sources: list[Source], output: ShardOutput) -> ShardRecord:
    """Writes a shard: rows by type, then what was set aside, then the record that vouches for them.

    What vouched for an earlier attempt goes first; files of that one that this one does not have go before the record.
    """
    record = ShardRecord(
        shard,
        plan["fingerprint"],
        inputs=sum(1 + len(source.same or ()) for source in sources),
        images=output.images,
        duplicates=output.duplicates,
        skipped=sum(map(ledger.inputs_of, output.skipped)),
        dropped=output.dropped,
        bare=output.bare,
        halved=output.halved,
        types={kind: TypeFigures() for kind in plan["configuration"]["types"]},
        licenses=dict(sorted(Counter(row["license"] or "unknown" for row in output.rows).items())),
        reasons=_reasons(output),
    )
    _check(record, output)
    _check_texts(shard, plan, sources, output)
    ledger.reopen_shard(folder, shard)
    for kind, figures in record.types.items():
        rows = [row for row in output.rows if row["type"] == kind]
        if rows:
            memory, mark = ledger.write_rows(folder, kind, shard, rows)
            figures.add(rows, memory, mark.size or 0)
            changes = [words_changed(row["draft"], row["answer"]) for row in rows]
            figures.words_out += sum(lost for lost, _ in changes)
            figures.words_in += sum(gained for _, gained in changes)
            record.files[ledger.rows_file(kind, shard)] = mark
        figures.malformed = sum(reject["type"] == kind for reject in output.rejects)
    if aside := output.skipped + output.rejects:
        record.files[ledger.quarantine_file(shard)] = ledger.write_quarantine(folder, shard, aside)
    ledger.remove_leftovers(folder, record)
    ledger.write_shard(folder, record)
    return record


def _reasons(output: ShardOutput) -> list[tuple[str, str, int]]:
    counts: Counter[tuple[str, str]] = Counter()
    for aside in output.skipped:
        counts[UNREADABLE, aside["reason"]] += ledger.inputs_of(aside)
    counts.update((NO_PAIR, aside["reason"]) for aside in output.rejects)
    return [(kind, reason, count) for (kind, reason), count in sorted(counts.items())]


def _check(record: ShardRecord, output: ShardOutput) -> None:
    """Every input must have ended somewhere, and every row under a type of the plan; else nothing is committed."""
    ended = record.images + record.duplicates + record.skipped + record.bare
    if ended != record.inputs:
        raise RuntimeError(f"Shard {record.shard} took in {record.inputs} inputs, but {ended} came out of it.")
    lost = {row["type"] for row in output.rows} - set(record.types)
    if lost:
        raise RuntimeError(f"Shard {record.shard} has rows of the types {lost}, which the plan does not name.")
    if len({row["id"] for row in output.rows}) < len(output.rows):
        raise RuntimeError(f"Shard {record.shard} has two rows of one id.")


def _check_texts(shard: int, plan: dict[str, Any], sources: list[Source], output: ShardOutput) -> None:
    """Every text that was asked for must have ended somewhere, too."""
    if plan["kind"] == "correct":
        asked = sum(len(source.pairs or ()) for source in sources)
        asked -= sum(aside.get("pairs", 0) for aside in output.skipped)
    else:
        asked = output.images * len(plan["configuration"]["types"]) * plan["configuration"]["questions"]
    ended = len(output.rows) + len(output.rejects) + output.dropped
    if ended != asked:
        raise RuntimeError(f"Shard {shard} was asked for {asked} texts, but {ended} came out of it.")


@dataclass
class Totals:
    """Sums over the records of shards."""

    inputs: int = 0
    images: int = 0
    duplicates: int = 0
    skipped: int = 0
    dropped: int = 0
    bare: int = 0
    halved: int = 0
    types: dict[str, TypeFigures] = field(default_factory=dict)
    licenses: Counter[str] = field(default_factory=Counter)
    reasons: Counter[tuple[str, str]] = field(default_factory=Counter)

    @classmethod
    def of(cls, records: Iterable[ShardRecord], kinds: list[str]) -> Totals:
        """The sums; of reasons, which may name every file, the most frequent ten thousand."""
        totals = cls(types={kind: TypeFigures() for kind in kinds})
        for record in records:
            for name in ("inputs", "images", "duplicates", "skipped", "dropped", "bare", "halved"):
                setattr(totals, name, getattr(totals, name) + getattr(record, name))
            for kind, figures in record.types.items():
                totals.types[kind] = totals.types[kind] + figures
            totals.licenses.update(record.licenses)
            for kind, reason, count in record.reasons:
                totals.reasons[kind, reason] += count
            if len(totals.reasons) > 20_000:
                totals.reasons = Counter(dict(totals.reasons.most_common(10_000)))
        return totals

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return sum(figures.rows for figures in self.types.values())

    @property
    def set_aside(self) -> int:
        """How many files and texts are in the quarantine."""
        return self.skipped + sum(figures.malformed for figures in self.types.values())
