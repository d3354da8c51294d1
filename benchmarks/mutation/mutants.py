"""Which mutants there are: cosmic-ray's operators over the code under test, less what no test can see, and a sample."""

from __future__ import annotations

import ast
import hashlib
import itertools
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import unified_diff
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / "build" / "mutation"
# What is measured with. It stands last on the path, so that the project's own libraries stay as they are.
TOOLS = ROOT / "build" / "mutation-tools"
PINS = ("cosmic-ray==8.7.0", "coverage==7.17.5")
TARGETS = (
    "modeling_vigc/requests_vigc.py", "modeling_vigc/engine_vigc.py", "modeling_vigc/sequences_vigc.py",
    "modeling_vigc/slots_vigc.py", "modeling_vigc/speculative_vigc.py", "modeling_vigc/rollout_vigc.py",
    "inference/*.py", "jobs/**/*.py", "generation/rollouts/*.py", "generation/correctors/*.py",
    "generation/filters/*.py", "generation/sources/*.py", "formats/*.py", "src/vigc/errors.py",
)  # fmt: skip
LOGGERS = ("logger", "log", "logging")

Position = tuple[int, int]  # line and column in characters, as parso has them: lines count from 1
Span = tuple[Position, Position]


def install_tools() -> None:
    """Brings cosmic-ray and coverage into a folder of their own, once, and onto the end of the path."""
    if not (TOOLS / "coverage").exists():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*command, "--target", TOOLS, *PINS], check=True)
    sys.path.append(str(TOOLS))


def targets() -> list[str]:
    """The files under test, from the root."""
    found = {path.relative_to(ROOT).as_posix() for pattern in TARGETS for path in ROOT.glob(pattern)}
    return sorted(found)


def digest(*paths: str) -> str:
    """One hash of files, named from the root."""
    whole = hashlib.sha256()
    for path in paths:
        whole.update(f"{path}\0".encode() + hashlib.sha256((ROOT / path).read_bytes()).digest())
    return whole.hexdigest()[:16]


def write_json(path: Path, value: Any) -> None:
    """Writes a file that is complete whenever it is there."""
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(value), encoding="utf-8")
    os.replace(unfinished, path)


@dataclass(frozen=True)
class Mutant:
    """One change of one file: the place, and cosmic-ray's operator with the number of its occurrence."""

    path: str
    start: Position
    end: Position
    operator: str
    occurrence: int

    @property
    def id(self) -> str:
        """Its name in results."""
        return f"{self.path}:{self.start[0]}:{self.start[1]} {self.operator}/{self.occurrence}"

    def apply(self, source: str) -> str:
        """The source with the change."""
        from cosmic_ray.mutating import mutate_code
        from cosmic_ray.plugins import get_operator

        changed = mutate_code(source, get_operator(f"core/{self.operator}")(), self.occurrence)
        if changed is None:
            raise ValueError(f"{self.id}: there is no such place in the file: sample again")
        return changed

    def diff(self) -> str:
        """The change as a unified diff of the file as it is."""
        source = (ROOT / self.path).read_text(encoding="utf-8")
        names = {"fromfile": f"a/{self.path}", "tofile": f"b/{self.path}"}
        return "".join(unified_diff(source.splitlines(True), self.apply(source).splitlines(True), n=1, **names))


# Which places count


def characters(lines: list[str], line: int, column: int) -> Position:
    """A place of `ast`, whose columns are bytes, as parso has it."""
    return line, len(lines[line - 1].encode()[:column].decode())


def is_unseen(node: ast.AST) -> Iterator[ast.AST]:
    """The parts of a node that no test of behaviour sees: annotations, `__all__`, texts in a log, imports for types.

    Docstrings need no rule, since no operator changes text. Annotations are not evaluated
    (`from __future__ import annotations`), nor are aliases of types at the level of a module more than a name.
    """
    match node:
        case ast.AnnAssign():
            yield node.annotation
        case ast.arg(annotation=ast.AST() as annotation):
            yield annotation
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            yield from [node.returns] if node.returns else []
            yield from (one for one in node.decorator_list if ast.unparse(one).endswith("overload"))
        case ast.Assign(targets=[ast.Name(id="__all__")]):
            yield node
        case ast.If() if ast.unparse(node.test).endswith("TYPE_CHECKING"):
            yield node
        case ast.Call(func=ast.Attribute(value=ast.Name(id=name))) if name in LOGGERS:
            yield from [*node.args, *node.keywords]
        case ast.Module():
            parts = (part for one in node.body if isinstance(one, ast.Assign) for part in ast.walk(one.value))
            yield from (part for part in parts if isinstance(part, ast.BinOp) and isinstance(part.op, ast.BitOr))


def unseen_spans(source: str) -> list[Span]:
    """Where a mutant would be equivalent, or noticed by the import alone."""
    lines = source.splitlines()
    return [
        (characters(lines, part.lineno, part.col_offset), characters(lines, part.end_lineno, part.end_col_offset))
        for node in ast.walk(ast.parse(source))
        for part in is_unseen(node)
    ]


@cache
def operators() -> dict[str, Any]:
    """cosmic-ray's operators that need no arguments, by name."""
    from cosmic_ray.plugins import get_operator, operator_names

    classes = {name.removeprefix("core/"): get_operator(name) for name in sorted(operator_names())}
    return {name: kind() for name, kind in classes.items() if not kind.arguments()}


def all_mutants(path: str) -> list[Mutant]:
    """Every mutant of a file, those at unseen places and those that are not Python left out."""
    from cosmic_ray.ast import ast_nodes, get_ast

    source = (ROOT / path).read_text(encoding="utf-8")
    spans, nodes = unseen_spans(source), list(ast_nodes(get_ast(source)))
    found = []
    for name, operator in operators().items():
        places = itertools.chain.from_iterable(map(operator.mutation_positions, nodes))
        for occurrence, (start, end) in enumerate(places):
            if not any(first <= tuple(start) and tuple(end) <= last for first, last in spans):
                found.append(Mutant(path, tuple(start), tuple(end), name, occurrence))
    return found


def changes_code(mutant: Mutant) -> bool:
    """Whether cosmic-ray can make the mutant, and Python reads it as something else than before."""
    source = (ROOT / mutant.path).read_text(encoding="utf-8")
    try:
        return ast.dump(ast.parse(mutant.apply(source))) != ast.dump(ast.parse(source))
    except (SyntaxError, AttributeError):  # the operator for exceptions knows no dotted name
        return False


# The sample


def shares(weights: Mapping[str, int], total: int) -> dict[str, int]:
    """Whole numbers in proportion to the weights, which add up to `total` (largest remainders)."""
    exact = {name: total * weight / max(1, sum(weights.values())) for name, weight in weights.items()}
    found = {name: int(value) for name, value in exact.items()}
    by_remainder = sorted(exact, key=lambda name: (found[name] - exact[name], name))
    for name in by_remainder[: total - sum(found.values())]:
        found[name] += 1
    return found


def sample(weights: Mapping[str, int], total: int, seed: int) -> list[Mutant]:
    """Mutants of each file in proportion to its weight.

    In a file every place of an operator's family is as likely as any other, though `+` can become ten other
    operators and `and` only one; then one change of that place is drawn.
    """
    found: list[Mutant] = []
    for path, count in shares(weights, total).items():
        draw = random.Random(f"{seed}:{path}")
        places: dict[tuple[Position, str], list[Mutant]] = {}
        for mutant in all_mutants(path) if count else []:
            places.setdefault((mutant.start, mutant.operator.split("_")[0]), []).append(mutant)
        in_turn = (draw.sample(places[place], len(places[place])) for place in draw.sample(sorted(places), len(places)))
        chosen = (next(filter(changes_code, changes), None) for changes in in_turn)
        found += itertools.islice(filter(None, chosen), count)
    return found


def executed_lines(source: str, lines: Iterable[int]) -> tuple[set[int], bool]:
    """The lines of the statement around a place, and whether they run when the module is imported.

    Of a statement that holds others, only its head counts; a default or a decorator runs with the import.

    Args:
        source: The module.
        lines: The first and the last line of the place.
    """
    first, last = min(lines), max(lines)
    head, at_import = {first, last}, True
    for node in ast.walk(ast.parse(source)):  # from the outermost node to the innermost
        if not isinstance(node, ast.stmt | ast.excepthandler | ast.match_case):
            continue
        body = [one for one in getattr(node, "body", []) if isinstance(one, ast.stmt)]
        start = node.pattern.lineno if isinstance(node, ast.match_case) else node.lineno
        start = min([start, *(one.lineno for one in getattr(node, "decorator_list", []))])
        stop = body[-1].end_lineno if isinstance(node, ast.match_case) else node.end_lineno
        if not start <= first <= last <= stop:
            continue
        head = set(range(start, max(start + 1, body[0].lineno) if body else stop + 1)) | {first}
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            at_import = at_import and first < body[0].lineno
    return head, at_import
