"""The results as Markdown: how many mutants of each file were noticed, and those that were not."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path

from runner import KILLED, NO_COVERAGE, STATUSES, SURVIVED, TIMEOUT, Result, read_results, read_sample


def interval(hits: int, count: int) -> tuple[float, float]:
    """A 95 % interval of a share (Wilson)."""
    if not count:
        return 0.0, 1.0
    z, share = 1.959964, hits / count
    middle, width = share + z * z / (2 * count), z * math.sqrt(share * (1 - share) / count + z * z / (4 * count**2))
    return (middle - width) / (1 + z * z / count), (middle + width) / (1 + z * z / count)


def row(name: str, counts: Counter[str]) -> str:
    """A line of the table: counts, and the share of what was killed or timed out."""
    count = sum(counts.values())
    hits = counts[KILLED] + counts[TIMEOUT]
    low, high = interval(hits, count)
    share = f"{hits / max(1, count):.0%} ({low:.0%} to {high:.0%})"
    return f"| {name} | {count} | {' | '.join(str(counts[status]) for status in STATUSES)} | {share} |"


def read_reasons(path: Path) -> dict[str, dict]:
    """Why mutants survived.

    Raises:
        SystemExit: The file cannot be read, or has another form.
    """
    try:
        reasons = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SystemExit(f"{path} cannot be read: {error}") from error
    if not isinstance(reasons, dict) or not all(
        isinstance(one, dict) and isinstance(one.get("reason"), str) for one in reasons.values()
    ):
        raise SystemExit(f'{path} has another form: give {{"<mutant>": {{"equivalent": true, "reason": "..."}}}}')
    return reasons


def print_report(reasons_file: Path | None) -> None:
    """Prints the table, and each survivor with its diff and, where one is given, the reason."""
    reasons = read_reasons(reasons_file) if reasons_file else {}
    mutants, results = {mutant.id: mutant for mutant in read_sample()}, read_results()
    done = {name: results[name] for name in mutants if name in results}
    unknown = sorted(set(reasons) - set(done))
    if unknown:
        raise SystemExit(f"{reasons_file} names mutants without a result: {', '.join(unknown[:3])}")
    by_file: dict[str, Counter[str]] = {}
    for name, result in done.items():
        by_file.setdefault(mutants[name].path, Counter())[result.status] += 1
    equivalent = {name for name, reason in reasons.items() if reason.get("equivalent")}
    judged = Counter(result.status for name, result in done.items() if name not in equivalent)
    print(f"{len(done)} of {len(mutants)} mutants have a result.\n")
    print(f"| File | Mutants | {' | '.join(STATUSES)} | Killed or timeout (95 %) |\n|---|{'---:|' * 6}")
    for path in sorted(by_file):
        print(row(f"`{path}`", by_file[path]))
    print(row("all", sum(by_file.values(), Counter())))
    print(row(f"all but {len(equivalent)} equivalent ones", judged))
    for name, result in done.items():
        if result.status in (SURVIVED, NO_COVERAGE):
            print_survivor(result, mutants[name].diff(), reasons.get(name))


def print_survivor(result: Result, diff: str, reason: dict | None) -> None:
    """A mutant that no test noticed."""
    tests = f"{result.tests} tests run it" + (", not all that do: the budget was spent" if result.cut else "")
    print(f"\n### {result.id}\n\n{result.status}, {tests}.", end="")
    if reason:
        print(f" {'Equivalent: ' if reason.get('equivalent') else ''}{reason['reason']}", end="")
    print(f"\n\n```diff\n{diff.rstrip()}\n```")
