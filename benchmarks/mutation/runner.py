"""Runs mutants against the tests that reach them; one line of JSON for each result, so that a later call resumes."""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass

from coverage_map import CoverageMap
from mutants import ROOT, WORK, Mutant, digest, sample, targets, write_json
from warm import Run, WarmTests

SAMPLE, RESULTS = WORK / "sample.json", WORK / "results.jsonl"
KILLED, SURVIVED, TIMEOUT, NO_COVERAGE = STATUSES = ("killed", "survived", "timeout", "no coverage")


@dataclass(frozen=True)
class Result:
    """What became of a mutant.

    Attributes:
        id: The mutant's.
        status: One of `STATUSES`.
        tests: How many tests were to run.
        cut: Whether further tests run the place, which the budget left out.
        seconds: How long it took.
        test: The one that failed.
        message: Of its failure.
    """

    id: str
    status: str
    tests: int = 0
    cut: bool = False
    seconds: float = 0.0
    test: str = ""
    message: str = ""


def read_sample() -> list[Mutant]:
    """The mutants as they were drawn.

    Raises:
        SystemExit: None are, or the code has changed since.
    """
    if not SAMPLE.exists():
        raise SystemExit(f"there is no sample in {SAMPLE}: `run` draws it")
    kept = json.loads(SAMPLE.read_text(encoding="utf-8"))
    if kept["sources"] != digest(*targets()):
        raise SystemExit(f"the code under test has changed since the sample was drawn: delete {SAMPLE} and {RESULTS}")
    return [Mutant(**one | {"start": tuple(one["start"]), "end": tuple(one["end"])}) for one in kept["mutants"]]


def draw_sample(found: CoverageMap, count: int, seed: int) -> list[Mutant]:
    """Reads the sample, which the first call draws."""
    if not SAMPLE.exists():
        mutants = [asdict(mutant) for mutant in sample(found.covered, count, seed)]
        kept = {"sources": digest(*targets()), "seed": seed, "covered": found.covered, "mutants": mutants}
        write_json(SAMPLE, kept)
    return read_sample()


def read_results() -> dict[str, Result]:
    """The last result of each mutant, less what a killed run left half-written."""
    found = {}
    for line in RESULTS.read_text(encoding="utf-8").splitlines() if RESULTS.exists() else []:
        try:
            result = Result(**json.loads(line))
        except json.JSONDecodeError:
            continue  # empty, or cut off: that mutant runs again
        found[result.id] = result
    return found


def append_result(result: Result) -> None:
    """Adds a result on a line of its own, even behind one that is cut off."""
    with RESULTS.open("a", encoding="utf-8") as file:
        file.write(f"\n{json.dumps(asdict(result))}")


class MutantRunner:
    """Runs mutants in a warm copy of the tree, and trusts no test that fails without the mutant too."""

    def __init__(self, warm: WarmTests, found: CoverageMap, budget: float):
        self.warm, self.map, self.budget = warm, found, budget
        self.trusted: dict[str, bool] = {}

    def run(self, mutant: Mutant) -> Result:
        """The outcome of a mutant."""
        begun = time.perf_counter()
        names, cut = self.map.tests_for(mutant, self.budget)
        status, failure = NO_COVERAGE, {}
        while usable := [name for name in names if self.trusted.get(name, True)]:
            status, failure = self._run_tests(mutant, usable)
            if status != KILLED or self._is_trusted(failure["test"]):
                break
        seconds = round(time.perf_counter() - begun, 1)
        return Result(mutant.id, status, len(names), cut, seconds, failure.get("test", ""), failure.get("message", ""))

    def _run_tests(self, mutant: Mutant, names: list[str]) -> tuple[str, dict[str, str]]:
        self.warm.write(mutant.path, mutant.apply((ROOT / mutant.path).read_text(encoding="utf-8")))
        try:
            run = self._pytest(names)
        finally:
            self.warm.write(mutant.path)
        failure = run.failure or {}
        if run.code is None or "Timeout" in failure.get("message", ""):
            return TIMEOUT, failure
        if run.code == 0:
            return SURVIVED, {}
        return KILLED, failure or {"test": names[0], "message": f"pytest ends with {run.code}"}

    def _pytest(self, names: list[str]) -> Run:
        """Many times as long as the tests took; what others of their file prepared comes on top."""
        seconds = [self.map.seconds[name] for name in names]
        arguments = ["-x", f"--timeout={30 + 5 * max(seconds):.0f}", *names]
        return self.warm.run(arguments, 60 + 5 * sum(seconds))

    def _is_trusted(self, name: str) -> bool:
        """Whether a test passes alone, without a mutant; a module that cannot be imported: whether its tests do."""
        if name not in self.trusted:
            names = [one for one in self.map.seconds if one == name or one.startswith(f"{name}::")][:1]
            self.trusted[name] = bool(names) and self._pytest(names).code == 0
            if not self.trusted[name]:
                print(f"not used any more, since it fails alone without a mutant: {name}", flush=True)
        return self.trusted[name]


def run(args: argparse.Namespace) -> None:
    """Runs the mutants of this part that have no result, and prints each."""
    found = CoverageMap.load(args.slowest)
    mutants, done = draw_sample(found, args.mutants, args.seed), read_results()
    part, parts = args.part
    waiting = [
        mutant for mutant in mutants[part - 1 :: parts] if mutant.id not in done or done[mutant.id].status in args.again
    ]
    print(f"{len(found.seconds)} tests are used; not used: {found.left_out}; {len(waiting)} mutants to run", flush=True)
    if not waiting:
        return
    begun = time.monotonic()
    with WarmTests(f"part-{part}") as warm:
        runner = MutantRunner(warm, found, args.budget)
        for number, mutant in enumerate(waiting, 1):
            if time.monotonic() - begun > 60 * args.minutes:
                print(f"left for the next call: {len(waiting) - number + 1}")
                return
            result = runner.run(mutant)
            append_result(result)
            print(f"{number:>4} {result.seconds:>6} s {result.status:<12}{result.id}  {result.test}", flush=True)
