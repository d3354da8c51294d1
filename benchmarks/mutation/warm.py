"""Runs of pytest on a copy of the tree, as forks of a process that has imported all libraries, but not vigc."""

from __future__ import annotations

import compileall
import contextlib
import json
import os
import py_compile
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mutants import ROOT, TOOLS, WORK

sys.path.append(str(ROOT / "tests" / "support"))

import forks

CHILD = Path(__file__).with_name("child.py")
LIBRARIES = (*forks.WITHOUT_VIGC, "pytest", "_pytest.assertion.rewrite", "pytest_timeout", "numpy", "typer")
# As tests/conftest.py sets them, which comes too late for libraries that are imported already.
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false",
}  # fmt: skip
HOMES = {"HF_HOME": "", "HF_HUB_CACHE": "hub", "HF_MODULES_CACHE": "modules", "HF_DATASETS_CACHE": "datasets"}


@dataclass(frozen=True)
class Run:
    """How a run of pytest ended.

    Attributes:
        code: pytest's exit code; None: it was killed at the limit of time.
        failure: The first test that failed, or module that could not be imported, and its message.
        tests: Of each test that ran: seconds, outcome, and whether it started processes.
    """

    code: int | None
    failure: dict[str, str] | None
    tests: dict[str, dict[str, Any]]


class WarmTests:
    """A copy of the tree, and the process whose forks run its tests. A context; one at a time for each `name`.

    The package is imported from the copy by this process's forks and by all Python processes that tests start:
    its folder comes first in PYTHONPATH. Compiled files carry the hash of their source, since a mutant may have the
    size and the time of the original.
    """

    def __init__(self, name: str):
        self.tree = WORK / "trees" / name
        self.temporary = Path(tempfile.mkdtemp(prefix="mutation-"))  # of a short name: tests make sockets there
        self.home = self.temporary / "tmp" / "hf"
        self.log = WORK / f"{name}.log"
        self._copy()
        homes = {name: str(self.home / place) for name, place in HOMES.items()}
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "VIGC_", "PYTEST_"))}
        self._clear()
        self.starter = forks.Starter(
            imports=LIBRARIES,
            environment={
                **kept, **ENVIRONMENT, **homes, "TMPDIR": str(self.temporary / "tmp"), "PYTHONPATH": str(self.package)
            },
        )  # fmt: skip

    @property
    def package(self) -> Path:
        """The folder whose `vigc` is the copy's, links to its files as in a strict editable installation."""
        return self.tree / "build" / "editable"

    def __enter__(self) -> WarmTests:
        return self

    def __exit__(self, *_: object) -> None:
        self.starter.close()
        shutil.rmtree(self.temporary, ignore_errors=True)

    def _copy(self) -> None:
        shutil.rmtree(self.tree, ignore_errors=True)
        listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
        for name in filter(None, names):
            if (ROOT / name).is_file():
                (self.tree / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, self.tree / name)
        (installed,) = ROOT.glob("build/__editable__.vigc-*")
        for link in (path for path in installed.rglob("*") if path.is_symlink()):
            place = self.package / link.relative_to(installed)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(self.tree / link.resolve().relative_to(ROOT))
        hashed = py_compile.PycInvalidationMode.CHECKED_HASH
        if not compileall.compile_dir(self.package, quiet=2, invalidation_mode=hashed):
            raise RuntimeError(f"{self.package} cannot be compiled: run `make install` first")

    def _clear(self) -> None:
        """Nothing that one mutant left, in caches least of all, decides the next."""
        shutil.rmtree(self.temporary / "tmp", ignore_errors=True)
        for place in HOMES.values():
            (self.home / place).mkdir(parents=True, exist_ok=True)

    def write(self, path: str, source: str | None = None) -> None:
        """Replaces a file of the copy; None: by the original."""
        text = (ROOT / path).read_text(encoding="utf-8") if source is None else source
        (self.tree / path).write_text(text, encoding="utf-8")

    def run(self, arguments: list[str], limit: float, **request: Any) -> Run:
        """Runs pytest in a fork.

        Args:
            arguments: pytest's own.
            limit: Seconds until it is killed, with all that it started.
            **request: More for `child.py`.
        """
        self._clear()
        asked, answer = self.temporary / "request.json", self.temporary / "answer.json"
        answer.unlink(missing_ok=True)
        arguments = ["-q", "-p", "no:cacheprovider", f"--basetemp={self.temporary / 'tmp' / 'pytest'}", *arguments]
        request |= {"arguments": arguments, "answer": str(answer), "tools": str(TOOLS)}
        asked.write_text(json.dumps(request), encoding="utf-8")
        code = None
        with self.log.open("w", encoding="utf-8") as log:
            process = self.starter.popen(CHILD, asked, cwd=self.tree, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = process.wait(limit)
            with contextlib.suppress(ProcessLookupError):  # what the tests started may be there still
                os.killpg(process.pid, signal.SIGKILL)
            process.kill()
            process.wait()
        found = json.loads(answer.read_text(encoding="utf-8")) if answer.exists() else {}
        return Run(code, found.get("failure"), found.get("tests", {}))
