"""Would the tests notice a mistake? Seeded mutants of the code, each run against the tests that reach it.

    python benchmarks/mutation map                  # which test runs which lines, once
    python benchmarks/mutation run --minutes 60     # in sittings: the next call resumes
    python benchmarks/mutation report               # per file, with what survived

Everything is kept in build/mutation; `map` and `run` resume. Mutants are made by cosmic-ray in a copy of the tree, and
their tests run in forks of a process that has imported the libraries already. cosmic-ray and coverage are installed,
once, into build/mutation-tools. `run --part 1/2` and `--part 2/2` share the mutants between two processes.

The tests are those that take 10 seconds at most (`--slowest`) and are not marked slow, less tests/project, whose tests
read the code as text. A test that starts processes counts for the lines that it runs itself; the processes see the
mutant as well. A mutant is killed if a test fails that passes, alone, without it; or if the tests take many times as
long as without it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from mutants import ROOT, install_tools


def part(text: str) -> tuple[int, int]:
    """`K/N` as two numbers, 1 <= K <= N."""
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a part: give K/N, such as 1/2")
    return int(number), int(count)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    mapped = commands.add_parser("map", help="measure which test runs which lines")
    mapped.add_argument("tests", type=Path, nargs="*", default=[ROOT / "tests"], help="folders or files (all)")
    run = commands.add_parser("run", help="run mutants that have no result yet")
    run.add_argument("--mutants", type=int, default=300, help="size of the sample, drawn by the first call (300)")
    run.add_argument("--seed", type=int, default=0, help="of the sample (0)")
    run.add_argument("--slowest", type=float, default=10, help="seconds that a test may take to be used (10)")
    run.add_argument("--budget", type=float, default=120, help="seconds that the tests of a mutant may take (120)")
    run.add_argument("--minutes", type=float, default=float("inf"), help="start no mutant after that long")
    run.add_argument(
        "--part",
        type=part,
        default=(1, 1),
        metavar="K/N",
        help="share of the mutants, for parallel processes",
    )
    run.add_argument("--again", nargs="*", default=[], metavar="STATUS", help="outcomes to run again, such as survived")
    report = commands.add_parser("report", help="print results as Markdown")
    report.add_argument("--reasons", type=Path, help='JSON: {"<mutant>": {"equivalent": true, "reason": "..."}}')
    return parser.parse_args()


def main() -> None:
    """Does one command."""
    args = parse()
    install_tools()
    if args.command == "map":
        from coverage_map import measure_all

        measure_all(args.tests)
    elif args.command == "run":
        from runner import run

        run(args)
    else:
        from report import print_report

        print_report(args.reasons)


if __name__ == "__main__":
    main()
