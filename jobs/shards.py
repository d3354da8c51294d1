"""Commits a shard: checks its output and writes its files and its record."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from vigc.hub_cards import TypeFigures

from . import ledger
from .counts import NO_PAIR, UNREADABLE, Reason
from .plan import Plan
from .protocols import Input, RowSchema
from .records import ShardRecord
from .shard_output import ShardOutput


def commit(
    folder: Path, plan: Plan, shard: int, sources: Sequence[Input], output: ShardOutput, schema: RowSchema
) -> ShardRecord:
    """Writes a shard: rows by type, then the quarantine, then the record.

    Raises:
        RuntimeError: An input, a sample or a row is lost or duplicated; nothing is written.
    """
    output.inputs = sum(source.count for source in sources)
    output.skipped_inputs = sum(map(ledger.inputs_of, output.skipped))
    record = ShardRecord.copied(
        output,
        shard=shard,
        fingerprint=plan.fingerprint,
        types={kind: TypeFigures() for kind in plan.configuration.types},
        licenses=Counter(dict(sorted(Counter(row["license"] or "unknown" for row in output.rows).items()))),
        reasons=_reasons(output),
    )
    _check(record, output)
    # 1. Remove the record of an earlier attempt.
    ledger.reopen_shard(folder, shard)
    # 2. Write the rows of each type, and the quarantine.
    for kind, figures in record.types.items():
        rows = [row for row in output.rows if row["type"] == kind]
        if rows:
            memory, mark = ledger.write_rows(folder, kind, shard, rows, schema.arrow)
            figures.add(map(schema.edit_of, rows), memory, mark.size or 0)
            record.files[ledger.rows_file(kind, shard)] = mark
        figures.malformed = sum(reject["type"] == kind for reject in output.rejects)
    if aside := output.skipped + output.rejects:
        record.files[ledger.quarantine_file(shard)] = ledger.write_quarantine(folder, shard, aside)
    # 3. Delete other files of an earlier attempt.
    ledger.remove_leftovers(folder, record)
    # 4. Write the record last: it marks the shard as finished.
    ledger.write_shard(folder, record)
    return record


def _reasons(output: ShardOutput) -> Counter[Reason]:
    counts: Counter[Reason] = Counter()
    for aside in output.skipped:
        counts[Reason(UNREADABLE, aside["reason"])] += ledger.inputs_of(aside)
    counts.update(Reason(NO_PAIR, aside["reason"]) for aside in output.rejects)
    return Counter(dict(sorted(counts.items())))


def _check(record: ShardRecord, output: ShardOutput) -> None:
    """Checks that every input and sample is accounted for, and that the plan has every row's type."""
    ended = record.images + record.duplicates + record.skipped_inputs + record.bare
    if ended != record.inputs:
        raise RuntimeError(f"Shard {record.shard} has {record.inputs} inputs, but {ended} are accounted for.")
    lost = {row["type"] for row in output.rows} - set(record.types)
    if lost:
        raise RuntimeError(f"Shard {record.shard} has rows of the types {lost}, which the plan does not name.")
    if len({row["id"] for row in output.rows}) < len(output.rows):
        raise RuntimeError(f"Shard {record.shard} has two rows of one id.")
    ended = len(output.rows) + len(output.rejects) + record.dropped
    if ended != output.asked:
        raise RuntimeError(f"Shard {record.shard} has {output.asked} requested texts, but {ended} are accounted for.")
