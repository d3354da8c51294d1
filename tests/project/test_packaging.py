"""The wheel is whole: installed alone, it serves every public name, its data files and the command."""

import os
import shutil
import subprocess
import sys
import zipfile

import pytest
from conftest import ROOT
from test_architecture import PACKAGES, PUBLIC_NAMES, PYPROJECT, all_package_files, module_of


def run(*command, **settings) -> str:
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True, **settings)
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    return result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy, so that neither old files in build/ nor a second process can get into it."""
    source, output = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ["src", *PACKAGES]:
        shutil.copytree(ROOT / name, source / name, ignore=ignore)
    for name in ["pyproject.toml", "README.md", "LICENSE"]:
        shutil.copy(ROOT / name, source)
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", output, source, cwd=output)
    (built,) = output.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def target(wheel, tmp_path_factory):
    """The wheel's content in a folder of its own, put there by pip."""
    folder = tmp_path_factory.mktemp("target")
    run(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", folder, wheel)
    return folder


@pytest.fixture
def alone(target, tmp_path):
    """Settings of a process that sees the wheel before any other vigc, and runs somewhere else."""
    environment = {**os.environ, "PYTHONPATH": str(target)}
    return {"cwd": tmp_path, "env": environment}


def test_the_wheel_holds_every_file_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        licences = [name for name in archive.namelist() if name.endswith("LICENSE")]
    assert licences
    expected = set()
    for file in all_package_files():
        package = module_of(file.parent / "__init__.py").replace(".", "/")
        expected.add(f"{package}/{file.name}")
    for package, folder in PYPROJECT["tool"]["setuptools"]["package-dir"].items():
        files = [file for file in (ROOT / folder).rglob("*") if file.is_file() and file.suffix != ".pyc"]
        data = [file for file in files if file.suffix != ".py" or file.parent.name == "vigc_tiny"]
        expected |= {f"{package.replace('.', '/')}/{file.relative_to(ROOT / folder).as_posix()}" for file in data}
    assert names == expected


def test_every_public_name_comes_from_the_wheel(target, alone):
    code = f"""
import sys, vigc
names = {PUBLIC_NAMES!r}
homes = [sys.modules[getattr(vigc, name).__module__].__file__ for name in names]
print(*homes, vigc.__file__, sep="\\n")
"""
    homes = run(sys.executable, "-c", code, **alone).splitlines()
    assert len(homes) == len(PUBLIC_NAMES) + 1
    assert all(home.startswith(f"{target}{os.sep}") for home in homes), homes


def test_the_command_runs_from_the_wheel(target, alone):
    text = run(sys.executable, "-m", "vigc", "--help", **alone)
    assert "Usage" in text and "generate" in text and "convert" in text
    entry = (next(target.glob("vigc-*.dist-info")) / "entry_points.txt").read_text(encoding="utf-8")
    assert "vigc = vigc.cli:main" in entry


def test_the_version_is_said_once(target, alone):
    code = "import importlib.metadata, vigc; print(vigc.__version__, importlib.metadata.version('vigc'))"
    said, packaged = run(sys.executable, "-c", code, **alone).split()
    assert said == packaged
    assert "version" not in PYPROJECT["project"]
