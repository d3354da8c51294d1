"""Rules of the repository beside its levels: public names, help, drawings, pins, sizes, no path of one machine."""

import ast
import json
import re
import subprocess
import sys
from importlib import import_module

import pytest
from conftest import ROOT, sizes_of
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from test_architecture import (
    LEVELS,
    MOST_PATHS,
    PACKAGES,
    PUBLIC_NAMES,
    PYPROJECT,
    all_package_files,
    name_of,
    parsed,
)

# What is exported


def test_public_names_are_the_agreed_ones_and_all_import():
    import vigc

    assert vigc.__all__ == PUBLIC_NAMES
    assert set(PUBLIC_NAMES) <= set(dir(vigc))
    for name in PUBLIC_NAMES:
        assert getattr(vigc, name).__name__ == name
    with pytest.raises(AttributeError, match=r"VigcModel.*public names are.*VigcProcessor"):
        _ = vigc.VigcModel


@pytest.mark.parametrize("name", PACKAGES)
def test_a_package_exports_what_it_says(name):
    module = import_module(f"vigc.{name}")
    assert module.__all__, f"{name}/__init__.py has no __all__"
    missing = [public for public in module.__all__ if not hasattr(module, public)]
    assert not missing, missing


@pytest.mark.parametrize("module", ["vigc", "vigc.cli"])
def test_the_front_door_is_cheap(module):
    code = f"import sys, {module}; print(*sorted({{'torch', 'transformers', 'datasets', 'PIL'}} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == []


# What is said: commands and README


def commands() -> dict[str, object]:
    """Every command of `vigc` by its full name, sub-commands too."""
    from typer.main import get_command

    from vigc.cli.root import app

    found = {}

    def walk(command, name):
        if getattr(command, "commands", None):
            for key, child in command.commands.items():
                walk(child, f"{name} {key}")
        else:
            found[name] = command

    walk(get_command(app), "vigc")
    return found


def test_every_command_and_option_has_help():
    silent = [name for name, command in commands().items() if not command.help]
    silent += [
        f"{name} {parameter.name}"
        for name, command in commands().items()
        for parameter in command.params
        if not getattr(parameter, "help", None)
    ]
    assert not silent, silent


def test_every_command_is_named_in_the_readme():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    missing = [name for name in commands() if not re.search(rf"\b{name}\b", readme)]
    assert not missing, missing


def drawn_tree() -> list[str]:
    """The paths of CONTRIBUTING's file tree: the fenced block drawn with branches that holds pyproject.toml."""
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    blocks = [block for block in re.findall(r"```\w*\n(.*?)```", page, flags=re.DOTALL) if "── pyproject" in block]
    assert len(blocks) == 1, "CONTRIBUTING.md needs one file tree, in a fenced block, with the branches ├── and └──"
    paths, parents = [], []
    for line in blocks[0].splitlines():
        if branch := re.match(r"(?P<indent>[│ \u00a0]*)(?:├|└)──\s+(?P<name>\S+)", line):
            depth = len(branch["indent"]) // 4
            parents[depth:] = [branch["name"].rstrip("/")]
            paths.append("/".join(parents))
    return paths


def test_the_drawn_tree_is_the_tree():
    listed, tracked = drawn_tree(), tracked_files()
    absent = [path for path in listed if not (ROOT / path).exists()]
    assert not absent, f"CONTRIBUTING.md names what does not exist: {absent}"
    top = {path.split("/")[0] for path in tracked}
    unlisted = top - {path.split("/")[0] for path in listed}
    assert not unlisted, f"CONTRIBUTING.md's tree lacks {sorted(unlisted)}"


def test_the_drawn_levels_are_the_levels():
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    drawn = {int(number): names for number, names in re.findall(r"(?m)^(\d)  (\S.*)$", page)}
    for number, names in enumerate(LEVELS, start=1):
        assert {name for name in PACKAGES if re.search(rf"\b{name}\b", drawn[number][:40])} == set(names), drawn[number]


def test_the_demo_configuration_is_the_fixture_s():
    folder = ROOT / "tests" / "fixtures" / "parity" / "seed0"
    meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    assert json.loads((folder / "vigc_config.json").read_text(encoding="utf-8")) == sizes_of(meta)


# Packaging in words


def test_every_dependency_is_pinned_in_the_constraints():
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    lines = [line.split("#")[0].strip() for line in text.splitlines()]
    pins = [Requirement(line) for line in lines if line]
    assert [str(pin) for pin in pins if not re.fullmatch(r"==[^*+,]+", str(pin.specifier))] == []
    pinned = {canonicalize_name(pin.name) for pin in pins}
    project = PYPROJECT["project"]
    required = [text for texts in project["optional-dependencies"].values() for text in texts] + project["dependencies"]
    names = {canonicalize_name(Requirement(text).name) for text in required} - {project["name"]}
    assert names - pinned == set()
    assert project["name"] not in pinned


# Sizes and traces


def test_files_and_functions_stay_readable():
    # A file is read whole before it is changed, and a function fits on a screen: past these sizes a second idea has
    # moved in and wants its own name. Tests are free, since theirs is mostly data.
    long = []
    for file in all_package_files():
        lines = len(file.read_text(encoding="utf-8").splitlines())
        if lines > 400:
            long.append(f"{name_of(file)} has {lines} lines (at most 400)")
        for node in ast.walk(parsed(file)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                lines = node.end_lineno - node.lineno + 1
                if lines > 60:
                    long.append(f"{name_of(file)}:{node.lineno} {node.name} has {lines} lines (at most 60)")
    assert not long, long


def complexity(function: ast.AST) -> int:
    """McCabe's number: 1, and 1 for each branch, loop, handler, comprehension and further operand of and/or."""
    branches = (ast.If, ast.IfExp, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler, ast.Assert, ast.match_case)
    number = 1
    for node in ast.walk(function):
        if isinstance(node, branches):
            number += 1
        elif isinstance(node, ast.comprehension):
            number += 1 + len(node.ifs)
        elif isinstance(node, ast.BoolOp):
            number += len(node.values) - 1
    return number


def test_no_function_has_too_many_paths():
    functions = [
        (f"{name_of(file)} {node.name}", complexity(node))
        for file in all_package_files()
        for node in ast.walk(parsed(file))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    ]
    too_complex = {name: number for name, number in functions if number >= MOST_PATHS}
    assert not too_complex, too_complex


def test_complexity_counts_as_mccabe_does():
    source = (
        "def f(a):\n if a and a or a:\n  return [b for b in a if b]\n try:\n  pass\n except E:\n  return 1 if a else 2"
    )
    assert complexity(ast.parse(source)) == 8


def tracked_files() -> list[str]:
    """What git tracks or, before the next commit, would."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return sorted({path for path in listed.split("\0") if path and (ROOT / path).is_file()})


def test_nothing_points_at_one_machine():
    # Built from pieces, or this file would find itself.
    patterns = [
        r"(?<![\w.:/-])/" + r"work\b",
        r"(?<!\w)\." + r"library\b",
        r"\bfarm" + r"-",
        r"/(?:home|root|Users)" + r"/\w",
        "py" + r"pi\.org",
        "python" + "hosted",
    ]
    forbidden = re.compile("|".join(patterns))
    found = []
    for path in tracked_files():
        try:
            text = (ROOT / path).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # pictures, weights, archives
        found += [f"{path}: {match[0]}" for match in forbidden.finditer(text)]
    assert not found, found
