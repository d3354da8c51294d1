"""A run of pytest in a fork of the warm process: `child.py REQUEST`, a JSON file which says what it runs and records.

With `measure`, a folder, it records which lines of `include` each test runs, how long the test takes, and whether it
starts processes, whose lines are not seen. It answers in the file `answer`.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from pathlib import Path
from typing import Any

import pytest

MEMORY = 8 << 30  # a mutant may want all there is
STARTS = ("subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.system", "os.exec")


class Recorder:
    """A plugin of pytest: each test's time and outcome, the first failure, and the lines, if they are measured."""

    def __init__(self, coverage: Any = None):
        self.coverage, self.current = coverage, ""
        self.tests: dict[str, dict[str, Any]] = {}
        self.failure: dict[str, str] | None = None
        if coverage:
            sys.addaudithook(self._note_process)

    def _note_process(self, event: str, arguments: tuple) -> None:
        # tests/support/forks.py asks for a process at a Unix socket, whose address is a path.
        is_asked = event == "socket.connect" and isinstance(arguments[1], str)
        if self.current and (is_asked or event in STARTS):
            self.tests[self.current]["processes"] = True

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item):
        """A context of coverage for each test."""
        self.current = item.nodeid
        self.tests[item.nodeid] = {"seconds": 0.0, "outcome": "passed", "processes": False}
        if self.coverage:
            self.coverage.switch_context(item.nodeid)
        try:
            return (yield)
        finally:
            self.current = ""
            if self.coverage:
                self.coverage.switch_context("")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Adds up the phases of a test."""
        test = self.tests[report.nodeid]
        test["seconds"] = round(test["seconds"] + report.duration, 3)
        if report.outcome != "passed":
            test["outcome"] = report.outcome
        if report.failed:
            self._note_failure(report.nodeid, report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A module of tests that cannot be imported."""
        if report.failed:
            self._note_failure(report.nodeid, report)

    def _note_failure(self, name: str, report: Any) -> None:
        crash = getattr(report.longrepr, "reprcrash", None)
        text = crash.message if crash else str(report.longrepr).strip().rsplit("\n", 1)[-1]
        self.failure = self.failure or {"test": name, "message": text.strip().split("\n")[0][:300]}


def main() -> int:
    """Runs what is asked, and answers."""
    os.setsid()  # one group, which can be killed with all that the tests started
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    request = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    sys.path.pop(0)  # this folder, whose modules no test means
    coverage = None
    if request.get("measure"):
        sys.path.append(request["tools"])
        from coverage import Coverage

        settings = {"config_file": False, "data_file": request["measure"], "messages": False}
        coverage = Coverage(include=request["include"], **settings)
        coverage.start()
    recorder = Recorder(coverage)
    code = int(pytest.main(request["arguments"], plugins=[recorder]))
    if coverage:
        coverage.stop()
        coverage.save()
    answer = {"code": code, "failure": recorder.failure, "tests": recorder.tests}
    Path(request["answer"]).write_text(json.dumps(answer), encoding="utf-8")
    return code


if __name__ == "__main__":
    sys.exit(main())
