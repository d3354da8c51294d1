"""Which test runs which lines, and how long it takes: measured once per file of tests, each file's part kept apart."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from mutants import ROOT, WORK, Mutant, digest, executed_lines, targets, write_json
from warm import WarmTests

PARTS = WORK / "map"
# They read the text of the code, and would notice every mutant without running it.
LEFT_OUT = ("tests/project", "tests/fixtures")
FILE_LIMIT, TEST_LIMIT = 3600, 120


def part_of(test_file: str) -> Path:
    """Where the part of a file of tests is kept."""
    return PARTS / f"{test_file.replace('/', '+')}.json"


def test_files(places: Iterable[Path]) -> list[str]:
    """Files of tests in folders or named, from the root, less those that read code."""
    found = set()
    for place in places:
        files = [place] if place.is_file() else place.rglob("test_*.py")
        found |= {file.resolve().relative_to(ROOT).as_posix() for file in files}
    return sorted(name for name in found if not name.startswith(LEFT_OUT))


def is_measured(test_file: str) -> bool:
    """Whether there is a part of the tests and the code as they are."""
    path = part_of(test_file)
    if not path.exists():
        return False
    part = json.loads(path.read_text(encoding="utf-8"))
    return [part["sources"], part["test_file"]] == [digest(*targets()), digest(test_file)]


def lines_of(data_file: Path, tree: Path, names: list[str]) -> dict[str, dict[int, list[int]]]:
    """What coverage recorded: path, line, the tests that ran it by their places in `names`.

    A line that ran outside of tests, when its module was imported, has an empty list at least.
    """
    from coverage import CoverageData

    data = CoverageData(str(data_file))
    data.read()
    found = {Path(name).relative_to(tree).as_posix(): data.contexts_by_lineno(name) for name in data.measured_files()}
    places = {name: place for place, name in enumerate(names)}
    return {
        path: {line: sorted(places[name] for name in contexts if name) for line, contexts in lines.items()}
        for path, lines in sorted(found.items())
    }


def measure(warm: WarmTests, test_file: str) -> dict[str, Any]:
    """The part of one file of tests: times and outcomes of its tests, and the tests of every line."""
    data_file = WORK / f"{warm.tree.name}.coverage"
    data_file.unlink(missing_ok=True)
    arguments = ["-m", "not slow", f"--timeout={TEST_LIMIT}", test_file]
    include = [str(warm.tree / path) for path in targets()]
    run = warm.run(arguments, FILE_LIMIT, measure=str(data_file), include=include)
    lines = lines_of(data_file, warm.tree, list(run.tests)) if data_file.exists() else {}
    data_file.unlink(missing_ok=True)
    return {
        **{"sources": digest(*targets()), "test_file": digest(test_file), "code": run.code, "failure": run.failure},
        **{"tests": run.tests, "lines": lines},
    }


def measure_all(places: list[Path]) -> None:
    """Measures all files of tests that have no part, or one of other code, and prints what each came to."""
    PARTS.mkdir(parents=True, exist_ok=True)
    wanted = [name for name in test_files(places) if not is_measured(name)]
    if not wanted:
        return
    with WarmTests("map") as warm:
        for name in wanted:
            begun = time.perf_counter()
            part = measure(warm, name)
            write_json(part_of(name), part)
            good = sum(test["outcome"] == "passed" for test in part["tests"].values())
            seconds, failed = time.perf_counter() - begun, part["failure"] or {}
            print(f"{name:<50}{seconds:>6.0f} s  {good:>4} of {len(part['tests'])} tests pass", flush=True)
            if part["code"] not in (0, 5) or failed:
                print(f"    exit code {part['code']}: {failed.get('test')}: {failed.get('message')}", flush=True)


@dataclass
class CoverageMap:
    """The parts of all files of tests that are there, put together.

    Attributes:
        slowest: Seconds that a test may take to be used.
        seconds: Of each test that passes and is quick enough.
        starting: The tests that start processes.
        left_out: How many tests are not used: too slow, failed or skipped.
        lines: Path, line, the tests that ran it.
    """

    slowest: float
    seconds: dict[str, float] = field(default_factory=dict)
    starting: set[str] = field(default_factory=set)
    left_out: dict[str, int] = field(default_factory=lambda: {"slow": 0, "failed": 0, "skipped": 0})
    lines: dict[str, dict[int, set[str]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(set)))

    @classmethod
    def load(cls, slowest: float) -> CoverageMap:
        """Reads the parts.

        Raises:
            SystemExit: There is none, or one is of other code or other tests.
        """
        found, paths = cls(slowest), sorted(PARTS.glob("*.json"))
        stale = []
        for path in paths:
            part = json.loads(path.read_text(encoding="utf-8"))
            test_file = path.stem.replace("+", "/")
            if not (ROOT / test_file).exists():
                path.unlink()
            elif not is_measured(test_file):
                stale.append(test_file)
            else:
                found.add(part)
        if stale or not found.seconds:
            raise SystemExit(f"the map is not of this code: {stale or 'no part'}: run `map {' '.join(stale)}` first")
        return found

    def add(self, part: dict[str, Any]) -> None:
        """Adds a part."""
        for name, test in part["tests"].items():
            is_slow = test["seconds"] > self.slowest
            if test["outcome"] == "passed" and not is_slow:
                self.seconds[name] = test["seconds"]
                self.starting |= {name} if test["processes"] else set()
            else:
                self.left_out["slow" if is_slow else test["outcome"]] += 1
        names = list(part["tests"])
        for path, lines in part["lines"].items():
            for line, places in lines.items():
                self.lines[path][int(line)] |= {names[place] for place in places} & self.seconds.keys()

    @cached_property
    def covered(self) -> dict[str, int]:
        """How many lines of each file under test run in tests that are used, or at import."""
        return {path: len(self.lines[path]) for path in targets()}

    def tests_for(self, mutant: Mutant, budget: float) -> tuple[list[str], bool]:
        """The tests that run the mutant's statement, the quickest first, and whether some were left out.

        Those that start processes come last: the first of them waits for imports, which another one's time holds.
        What runs with the import of its module (constants, defaults, decorators) is seen by every test that runs any
        line of the file, and if there is none, by those of the package.

        Args:
            mutant: The mutant.
            budget: Seconds that the tests take together at most.
        """
        source = (ROOT / mutant.path).read_text(encoding="utf-8")
        lines, at_import = executed_lines(source, (mutant.start[0], mutant.end[0]))
        ran = self.lines[mutant.path]
        names = set().union(*(ran[line] for line in (ran if at_import else lines) if line in ran))
        if at_import and not names:
            folder = "tests/cli/" if mutant.path.startswith("src/") else f"tests/{mutant.path.split('/')[0]}/"
            names = {name for name in self.seconds if name.startswith(folder)}
        chosen, spent = [], 0.0
        for name in sorted(names, key=lambda one: (one in self.starting, self.seconds[one], one)):
            spent += self.seconds[name]
            if chosen and spent > budget:
                break
            chosen.append(name)
        return chosen, len(chosen) < len(names)
