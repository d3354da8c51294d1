"""The house keeps its own rules: which package imports which, and what travels to the Hub."""

import ast
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:  # mypy, a developer's tool of this project, brings it along before Python 3.11
    import tomli as tomllib

FRONT_DOOR = "vigc"
# Files of src/vigc that import nothing of ours but each other: every room may import them.
GROUND = ("errors", "lazy", "options")


# Each line is a level. A package imports packages of lower levels only, and none of its own level. Packages meet in
# dataset folders and rows, not in imports.
LEVELS = [
    ("modeling_vigc", "processing"),
    ("formats", "scenes", "hub"),
    ("inference", "exports"),
    ("hub_cards",),
    ("jobs",),
    ("generation",),
    ("evaluation",),
    ("trainer",),
]
PACKAGES = [name for names in LEVELS for name in names]

# The same inside of a package: its sub-packages, lower levels first. Modules beside them may import all of them.
SUB_LEVELS = {
    "generation": [("sources",), ("filters",), ("correctors",), ("rollouts",), ("report",)],
    "evaluation": [("metrics",), ("benchmarks", "judge")],
    "vigc": [("convert", "custom_generate"), ("cli",)],
}

# Packages that do without some of the project's libraries: what they may import beside the standard library.
LIBRARIES = {
    "modeling_vigc": {"torch", "transformers"},
    "processing": {
        *("torch", "transformers", "datasets", "pyarrow", "PIL", "filelock"),
        *("huggingface_hub", "yaml", "pillow_heif"),
    },
    "formats": {"datasets", "numpy", "pyarrow", "fsspec", "huggingface_hub", "yaml", "PIL"},
    "scenes": {"numpy", "PIL", "datasets"},
    "hub": {"huggingface_hub", "httpx", "httpx2", "pyarrow", "PIL"},
    "hub_cards": {"huggingface_hub", "jinja2", "datasets", "pyarrow", "PIL"},
    "jobs": {"pyarrow", "tqdm", "filelock", "ray"},
}

# Packages that know nothing of others, though their level would let them: a job is the same whatever is made.
STRANGERS = {
    "jobs": {
        *("vigc.modeling_vigc", "vigc.inference", "vigc.scenes", "vigc.formats", "vigc.exports", "vigc.hub"),
        *("vigc.processing.images", "vigc.processing.processing_vigc", "vigc.processing.devices"),
        # Nor of what rows hold: its `Task` says that.
        *("vigc.processing.rows", "vigc.processing.instructions_vigc", "vigc.processing.word_diff"),
    },
}
MOST_PACKAGES, MOST_ARROWS = 16, 45
MOST_PATHS = 20  # a function has fewer

# What a file on the Hub may need: transformers copies it alone, into a flat folder, for users without this package.
TRAVELLING_LIBRARIES = {"torch", "transformers", "PIL"}

PUBLIC_NAMES = [
    "VigcConfig",
    "VigcForConditionalGeneration",
    "VigcGenerateOutput",
    "VigcProcessor",
    "VigcTrainer",
    "VigcTrainingArguments",
    "convert_checkpoint",
    "generate_dataset",
    "model_folder",
]

# Distributions whose module has another name.
MODULE_OF = {"pillow": "PIL", "pyyaml": "yaml"}

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def room_folders() -> dict[str, Path]:
    folders = {path.parent.name: path.parent for path in ROOT.glob("*/__init__.py")}
    return {name: path for name, path in sorted(folders.items()) if name != "tests"}


def python_files(folder: Path) -> list[Path]:
    # The embedded model's copies of the code that travels are data of the package.
    return sorted(file for file in folder.rglob("*.py") if file.parent.name != "vigc_tiny")


def all_package_files() -> list[Path]:
    return [file for folder in [ROOT / "src" / "vigc", *room_folders().values()] for file in python_files(folder)]


def travelling_files() -> list[Path]:
    return [file for folder in room_folders().values() for file in python_files(folder) if is_travelling(file)]


def is_travelling(file: Path) -> bool:
    return file.name.endswith("_vigc.py")


def name_of(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


def module_of(file: Path) -> str:
    """The dotted name under which a file is imported."""
    relative = file.relative_to(ROOT)
    parts = list(relative.with_suffix("").parts)
    parts = parts[1:] if parts[0] == "src" else [FRONT_DOOR, *parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"), filename=str(file))


@dataclass(frozen=True)
class Import:
    """One imported module: its absolute name, the line, and whether importing the file imports it at once."""

    module: str
    line: int
    eager: bool


def imports_of(file: Path) -> list[Import]:
    """Every import of a file, also those inside functions, and `import_module("...")` with a literal name."""
    package = module_of(file).split(".")
    if file.name != "__init__.py":
        package = package[:-1]
    found = []

    def visit(node: ast.AST, eager: bool) -> None:
        if isinstance(node, ast.Import):
            found.extend(Import(alias.name, node.lineno, eager) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*base, *([node.module] if node.module else [])])
            # `from vigc import processing` imports a room, `from vigc.processing import x` too: one name says both.
            found.extend(Import(f"{base}.{alias.name}", node.lineno, eager) for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__"):
            named = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
            found.extend(Import(str(name), node.lineno, eager=False) for name in named)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            eager = False
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            eager = False
        for child in ast.iter_child_nodes(node):
            visit(child, eager)

    visit(parsed(file), eager=True)
    return found


def room_of(module: str) -> str | None:
    """The room a module name of this package lies in, FRONT_DOOR if in none, None for any other package's."""
    head, *rest = module.split(".")
    if head != FRONT_DOOR:
        return None
    return rest[0] if rest and rest[0] in {*room_folders(), *GROUND} else FRONT_DOOR


def libraries_of(file: Path) -> list[Import]:
    foreign = [found for found in imports_of(file) if room_of(found.module) is None]
    return [found for found in foreign if found.module.split(".")[0] not in sys.stdlib_module_names]


def declared_modules(*, extras: bool) -> set[str]:
    lists = [PYPROJECT["project"]["dependencies"]]
    if extras:
        lists += PYPROJECT["project"]["optional-dependencies"].values()
    names = {canonicalize_name(Requirement(text).name) for requirements in lists for text in requirements}
    return {MODULE_OF.get(name, name.replace("-", "_")) for name in names}


# Rooms and their imports


def test_every_package_has_a_level():
    assert set(room_folders()) == set(PACKAGES) and len(PACKAGES) + 1 <= MOST_PACKAGES


@pytest.mark.parametrize("name", PACKAGES)
def test_a_package_imports_lower_levels_only(name):
    level = next(number for number, names in enumerate(LEVELS) if name in names)
    allowed = {name, *GROUND, None, *(lower for names in LEVELS[:level] for lower in names)}
    wrong = [
        f"{name_of(file)}:{found.line} imports {found.module}"
        for file in python_files(ROOT / name)
        for found in imports_of(file)
        if room_of(found.module) not in allowed  # the front door has no level
    ]
    assert not wrong, wrong


@pytest.mark.parametrize("name", STRANGERS)
def test_a_package_knows_nothing_of_its_strangers(name):
    wrong = [
        f"{name_of(file)}:{found.line} imports {found.module}"
        for file in python_files(ROOT / name)
        for found in imports_of(file)
        if any(f"{found.module}.".startswith(f"{stranger}.") for stranger in STRANGERS[name])
    ]
    assert not wrong, wrong


def sub_package_of(module: str, package: str) -> str | None:
    """The sub-package that a module lies in; None for another package's modules and for those beside sub-packages."""
    prefix = [FRONT_DOOR] if package == FRONT_DOOR else [FRONT_DOOR, package]
    parts = module.split(".")
    names = {name for names in SUB_LEVELS[package] for name in names}
    inside = parts[: len(prefix)] == prefix and len(parts) > len(prefix) and parts[len(prefix)] in names
    return parts[len(prefix)] if inside else None


@pytest.mark.parametrize("package", SUB_LEVELS)
def test_a_sub_package_imports_lower_levels_only(package):
    folder = ROOT / "src" / "vigc" if package == FRONT_DOOR else ROOT / package
    known = {name for names in SUB_LEVELS[package] for name in names}
    assert known == {file.parent.name for file in folder.glob("*/__init__.py")}
    wrong = []
    for level, names in enumerate(SUB_LEVELS[package]):
        lower = {name for names in SUB_LEVELS[package][:level] for name in names}
        for name in names:
            for file in python_files(folder / name):
                for found in imports_of(file):
                    own = room_of(found.module) == package
                    sub = sub_package_of(found.module, package)
                    if own and sub not in {name, *lower} and not is_name_of_package(found.module, package):
                        wrong.append(f"{name_of(file)}:{found.line} imports {found.module}")
    assert not wrong, wrong


def is_name_of_package(module: str, package: str) -> bool:
    """Whether this is no module of a package: the front door's own names, such as `vigc.__version__`."""
    return package == FRONT_DOOR and not (ROOT / "src" / Path(*module.split(".")[:2])).with_suffix(".py").exists()


def arrows() -> set[tuple[str, str]]:
    """Which package imports which; files that all may import are no package."""
    found = set()
    for file in all_package_files():
        own = room_of(module_of(file))
        found |= {(own, room_of(each.module)) for each in imports_of(file)}
    return {
        (one, other) for one, other in found if one != other and not {one, other} & set(GROUND) and other is not None
    }


def test_there_are_few_arrows_between_packages():
    assert len(arrows()) <= MOST_ARROWS, sorted(arrows())


@pytest.mark.parametrize("name", GROUND)
def test_the_ground_imports_nothing_of_ours(name):
    found = {each.module for each in imports_of(ROOT / "src" / "vigc" / f"{name}.py")}
    foreign = {module for module in found if not module.startswith(tuple(f"vigc.{other}" for other in GROUND))}
    assert {module.split(".")[0] for module in foreign} <= sys.stdlib_module_names


def test_every_error_is_in_the_tree_and_the_tree_is_drawn():
    from vigc import errors

    own = {
        name: kind for name, kind in vars(errors).items() if isinstance(kind, type) and kind.__module__ == "vigc.errors"
    }
    lines = re.findall(r"^ {4}[ │├└─]*(\w+Error)\s+(\d+)?", errors.__doc__, re.MULTILINE)
    assert [name for name, _ in lines] and set(own) == {name for name, _ in lines}
    for name, code in lines:
        assert issubclass(own[name], errors.VigcError) and own[name].exit_code == int(code or own[name].exit_code), name
    public = [
        f"{name_of(file)}: {node.name}"
        for file in all_package_files()
        for node in ast.walk(parsed(file))
        if isinstance(node, ast.ClassDef) and node.name.endswith("Error") and not node.name.startswith("_")
        if name_of(file) != "src/vigc/errors.py"
    ]
    assert public == [], "an exception that others see belongs into vigc.errors"


@pytest.mark.parametrize("name", LIBRARIES)
def test_a_package_needs_only_the_libraries_of_its_row(name):
    wrong = [
        f"{name_of(file)}:{found.line} imports {found.module}"
        for file in python_files(ROOT / name)
        for found in libraries_of(file)
        if found.module.split(".")[0] not in LIBRARIES[name]
    ]
    assert not wrong, wrong


def test_libraries_are_declared_and_those_of_extras_imported_late():
    required, optional = declared_modules(extras=False), declared_modules(extras=True)
    wrong = [
        f"{name_of(file)}:{found.line} imports {found.module}"
        for file in all_package_files()
        for found in libraries_of(file)
        if found.module.split(".")[0] not in (required if found.eager else optional)
    ]
    assert not wrong, wrong


def test_packages_are_the_folders_with_an_init():
    settings = PYPROJECT["tool"]["setuptools"]
    packages = {module_of(file): name_of(file.parent) for file in all_package_files() if file.name == "__init__.py"}
    assert sorted(settings["packages"]) == sorted(packages)
    rooms = {"vigc": "src/vigc", **{f"vigc.{name}": name for name in room_folders()}}
    assert settings["package-dir"] == rooms


def test_every_python_file_lies_in_a_listed_package():
    wrong = [name_of(file) for file in all_package_files() if not (file.parent / "__init__.py").exists()]
    assert not wrong, f"no __init__.py beside {wrong}: the wheel would lack them"


def test_planted_bugs_know_the_package_by_one_module():
    found = imports_of(ROOT / "tests" / "faults" / "bugs.py")
    assert "seams" in {each.module for each in found}
    assert [each.module for each in found if room_of(each.module)] == []


# What travels to the Hub


def test_travelling_files_lie_flat_under_unique_names():
    files = travelling_files()
    assert files
    assert [name_of(file) for file in files if file.parent.parent != ROOT] == []
    names = [file.name for file in files]
    assert len(names) == len(set(names)), f"one would overwrite the other in a model folder: {sorted(names)}"


def test_no_travelling_file_waits_at_the_front_door():
    assert [name_of(file) for file in python_files(ROOT / "src") if is_travelling(file)] == []


@pytest.mark.parametrize("file", travelling_files(), ids=name_of)
def test_a_travelling_file_imports_siblings_and_the_three_libraries(file):
    wrong = []
    for node in ast.walk(parsed(file)):
        if isinstance(node, ast.ImportFrom) and node.level:
            sibling = node.module and (file.parent / f"{node.module}.py")
            if node.level != 1 or not sibling or not (sibling.exists() and is_travelling(sibling)):
                wrong.append(ast.unparse(node))
    known = {*sys.stdlib_module_names, *TRAVELLING_LIBRARIES}
    absolute = [found for found in imports_of(file) if not found.module.startswith(module_of(file.parent) + ".")]
    wrong += [found.module for found in absolute if found.module.split(".")[0] not in known]
    assert not wrong, wrong


@pytest.mark.parametrize("file", travelling_files(), ids=name_of)
def test_transformers_reads_no_import_where_there_is_none(file):
    # It looks for relative imports with a regular expression over the raw text: a line of a docstring that starts like
    # one makes saving fail.
    lines = re.findall(r"^\s*from\s+\.|^\s*import\s+\.", file.read_text(encoding="utf-8"), flags=re.MULTILINE)
    relative = [node for node in ast.walk(parsed(file)) if isinstance(node, ast.ImportFrom) and node.level]
    assert len(lines) == len(relative)


def test_no_class_is_defined_in_an_init():
    # Its code would be saved as __init__.py, which no model folder can load.
    for folder in room_folders().values():
        classes = [node.name for node in parsed(folder / "__init__.py").body if isinstance(node, ast.ClassDef)]
        assert classes == [], folder.name
