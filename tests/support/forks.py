"""Python processes that start at once: forks of one that has imported, once, what takes ten seconds to import.

As a script it is that process. It listens at a Unix socket; a request is what a process is made of (arguments as they
follow `python`, folder, environment, three open files), and the answer is the process's number and, when it ends, its
exit code. What libraries read from the environment while they are imported is the server's; all else is the request's.
`python` in such a process has the server's hash seed, and every start its own random numbers.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import random
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path
from types import ModuleType

# What a request may not set otherwise than the server, since it was read already.
READ_AT_IMPORT = ("HF_", "TRANSFORMERS_", "OMP_", "MKL_", "TOKENIZERS_", "PYTHONPATH", "PYTHONHASHSEED")
WITHOUT_VIGC = (
    "torch", "datasets", "evaluate", "huggingface_hub", "pyarrow.parquet", "PIL.Image", "transformers",
    "transformers.generation", "transformers.models.auto.modeling_auto", "transformers.models.auto.processing_auto",
    "transformers.models.instructblip.modeling_instructblip", "transformers.models.llama.modeling_llama",
    "transformers.models.instructblip.processing_instructblip", "transformers.pipelines", "transformers.trainer",
)  # fmt: skip
WITH_VIGC = (
    *WITHOUT_VIGC, "vigc.modeling_vigc.modeling_vigc", "vigc.processing.processing_vigc", "vigc.generation.generate",
    "vigc.evaluation", "vigc.trainer", "vigc.hub_cards", "vigc.scenes", "vigc.cli.jobs", "vigc.cli",
)  # fmt: skip


class Forked:
    """A started process, as `subprocess.Popen` has it; what it writes into pipes is text."""

    def __init__(self, connection: socket.socket, args: list[str], stdout, stderr):
        self.args, self.stdout, self.stderr = args, stdout, stderr
        self._connection = connection
        self.pid, self.returncode = int(_line(connection)), None

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.wait()
        for stream in (self.stdout, self.stderr):
            if stream:
                stream.close()

    def poll(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0.001)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            self._connection.settimeout(timeout)
            try:
                self.returncode = int(_line(self._connection))
            except TimeoutError:
                raise subprocess.TimeoutExpired(self.args, timeout) from None
            self._connection.close()
        return self.returncode

    def communicate(self) -> tuple[str | None, str | None]:
        """All that it writes into pipes, once it has ended; of two pipes neither may fill while the other is read."""
        texts = [stream.read() if stream else None for stream in (self.stdout, self.stderr)]
        self.__exit__()
        return texts[0], texts[1]

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Starter:
    """Starts processes; the server itself starts with it, and imports while the first request waits.

    Args:
        imports: What every process finds imported.
        site: Whether `vigc`, which the virtual environment's `.pth` files bring, is seen; a request may say otherwise
            where the server does not see it.
        environment: The server's, and that of all processes which are not given another; by default that of the
            moment, for each.
    """

    def __init__(self, imports=WITH_VIGC, site=True, environment=None):
        self.folder = tempfile.mkdtemp(prefix="forks-")  # of a short name: it holds a socket
        self.address = os.path.join(self.folder, "socket")
        self.given = environment
        self.imported_with = dict(self.environment)
        command = [sys.executable, *([] if site else ["-S"]), __file__, self.address, *imports]
        self.log = open(os.path.join(self.folder, "log"), "w+")  # noqa: SIM115 - as long as the server
        # The pipe ends with this process, however it ends, and the server with the pipe.
        streams = {"stdin": subprocess.PIPE, "stdout": self.log, "stderr": self.log}
        self.server = subprocess.Popen(command, env=self.imported_with, **streams)

    @property
    def environment(self) -> dict[str, str]:
        return dict(os.environ) if self.given is None else self.given

    def popen(self, *arguments, cwd=None, env=None, stdin=None, stdout=None, stderr=None, site=False) -> Forked:
        """What `python ARGUMENTS` starts: `-c`, `-m` or a script. Files are open ones, PIPE, DEVNULL, or None: ours."""
        environment = self.environment if env is None else env
        for name in {*environment, *self.imported_with}:
            if name.startswith(READ_AT_IMPORT) and environment.get(name) != self.imported_with.get(name):
                raise ValueError(f"{name} is read while libraries are imported: start a fresh process, or a server")
        words = [str(one) for one in arguments]
        request = {"arguments": words, "cwd": str(cwd or os.getcwd()), "environment": environment, "site": site}
        ours, theirs = [], []
        with open(os.devnull, "r+b") as null:
            for place, file in enumerate((stdin, stdout, stderr)):
                read, write = os.pipe() if file == subprocess.PIPE else (None, None)
                ours.append(None if read is None else open(read, encoding="utf-8", errors="replace"))  # noqa: SIM115
                number = place if file is None else null.fileno() if file == subprocess.DEVNULL else write
                theirs.append(file.fileno() if number is None else number)
            connection = self._connect()
            ask(connection, request, theirs)
        for stream, number in zip(ours, theirs, strict=True):
            if stream:
                os.close(number)
        try:
            return Forked(connection, words, *ours[1:])
        except (ValueError, ConnectionError):  # no number came: it ended while it imported
            self.server.wait(timeout=60)
            raise RuntimeError(f"no process can be started: {Path(self.log.name).read_text()[-3000:]}") from None

    def run(self, *arguments, **given) -> subprocess.CompletedProcess:
        """What `subprocess.run(["python", *arguments], capture_output=True, text=True)` gives."""
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            process = self.popen(*arguments, stdin=subprocess.DEVNULL, stdout=out, stderr=err, **given)
            code, texts = process.wait(), []
            for file in (out, err):
                file.seek(0)
                texts.append(file.read())
        return subprocess.CompletedProcess(process.args, code, *texts)

    def close(self) -> None:
        self.server.stdin.close()
        self.server.terminate()
        self.server.wait()
        self.log.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _connect(self) -> socket.socket:
        while not os.path.exists(self.address) and self.server.poll() is None:
            time.sleep(0.01)
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(self.address)
        return connection


@functools.cache
def everything() -> Starter:
    """The one of this test process: it has imported vigc, and lives as long."""
    found = Starter()
    atexit.register(found.close)
    return found


def popen(*arguments, **given) -> Forked:
    """`Starter.popen` where all is imported."""
    return everything().popen(*arguments, **given)


def run(*arguments, **given) -> subprocess.CompletedProcess:
    """`Starter.run` where all is imported."""
    return everything().run(*arguments, **given)


def _line(connection: socket.socket) -> str:
    text = b""
    while not text.endswith(b"\n") and (part := connection.recv(1)):
        text += part
    return text.decode()


def ask(connection: socket.socket, request: dict, files: list[int]) -> None:
    data = json.dumps(request).encode()
    socket.send_fds(connection, [len(data).to_bytes(4, "big")], files)
    connection.sendall(data)


# A command of its own: a program that a shell finds on its PATH.

PROGRAM = """#!{python} -IS
import json, os, signal, socket, sys
connection = socket.socket(socket.AF_UNIX)
connection.connect({address!r})
arguments = [*{arguments!r}, *sys.argv[1:]]
request = {{"arguments": arguments, "cwd": os.getcwd(), "environment": dict(os.environ), "site": True}}
data = json.dumps(request).encode()
socket.send_fds(connection, [len(data).to_bytes(4, "big")], [0, 1, 2])
connection.sendall(data)
answers = connection.makefile("r")
answers.readline()
code = int(answers.readline())
if code < 0:
    os.kill(os.getpid(), -code)
sys.exit(code)
"""


def write_program(path: Path, starter: Starter, *arguments: str) -> None:
    """A program that does what `python ARGUMENTS`, followed by its own arguments, does, for a shell's PATH."""
    text = PROGRAM.format(python=sys.executable, address=starter.address, arguments=list(arguments))
    path.write_text(text, encoding="utf-8")
    path.chmod(0o755)


# The server


def listen(address: str) -> socket.socket:
    """Where requests wait, those of before the imports are done too."""
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(f"{address}.soon")
    listening.listen(64)
    os.rename(f"{address}.soon", address)
    return listening


def serve(listening: socket.socket) -> None:
    """Answers requests until its standard input ends; single-threaded: no fork holds the lock of another thread."""
    awake, bell = socket.socketpair()
    for end in (awake, bell, listening):
        end.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(bell.fileno(), warn_on_full_buffer=False)
    running: dict[int, socket.socket] = {}
    while True:
        ready, _, _ = select.select([listening, awake, 0], [], [])
        if 0 in ready:
            return
        if listening in ready:
            connection, _ = listening.accept()
            connection.setblocking(True)
            request, files = _asked(connection)
            if request and (pid := os.fork()) == 0:
                _become(request, files, [listening, awake, bell, connection, *running.values()])
            for file in files:
                os.close(file)
            if request:
                running[pid] = connection
                _tell(connection, pid)
        if awake in ready:
            awake.recv(4096)
        _answer_for_ended(running)


def _answer_for_ended(running: dict[int, socket.socket]) -> None:
    while running:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        with running.pop(pid) as connection:
            _tell(connection, os.waitstatus_to_exitcode(status))


def _tell(connection: socket.socket, number: int) -> None:
    with contextlib.suppress(OSError):  # whoever asked may be gone
        connection.sendall(f"{number}\n".encode())


def _asked(connection: socket.socket) -> tuple[dict | None, list[int]]:
    """A request and its files; None if whoever asked is gone."""
    files: list[int] = []
    try:
        head, files, _, _ = socket.recv_fds(connection, 4, 3)
        count, text = int.from_bytes(head, "big"), b""
        while len(text) < count and (part := connection.recv(count - len(text))):
            text += part
        return json.loads(text), files
    except (OSError, ValueError):
        return None, files


def _become(request: dict, files: list[int], inherited: list[socket.socket]) -> None:
    """The fork: what `python` would be, from its first line to its exit."""
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for one in inherited:
            one.close()
        for place, file in enumerate(files):
            os.dup2(file, place)
            os.close(file)
        sys.stdin = sys.__stdin__ = open(0, closefd=False)  # noqa: SIM115
        sys.stdout = sys.__stdout__ = open(1, "w", buffering=1 if os.isatty(1) else -1, closefd=False)  # noqa: SIM115
        sys.stderr = sys.__stderr__ = open(2, "w", 1, errors="backslashreplace", closefd=False)  # noqa: SIM115
        os.environ.clear()
        os.environ.update(request["environment"])
        os.chdir(request["cwd"])
        if "numpy" in sys.modules:
            sys.modules["numpy"].random.seed()
        random.seed()
        if request["site"]:
            import site

            for place in [path for path in sys.path if path.endswith("site-packages")]:
                site.addsitedir(place)
        code = _run(request["arguments"])
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)


def _run(arguments: list[str]) -> int:
    """The exit code of `python ARGUMENTS`."""
    code = 0
    try:
        kind, *rest = arguments
        if kind == "-c":
            sys.argv, sys.path[0] = ["-c", *rest[1:]], ""
            main = sys.modules["__main__"] = ModuleType("__main__")
            exec(compile(rest[0], "<string>", "exec"), main.__dict__)
        elif kind == "-m":
            sys.argv, sys.path[0] = rest, os.getcwd()
            runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
        else:
            sys.argv, sys.path[0] = arguments, os.path.dirname(os.path.abspath(kind))
            runpy.run_path(kind, run_name="__main__")
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 0 if error.code is None else 1
        if not isinstance(error.code, int | None):
            print(error.code, file=sys.stderr)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:
        traceback.print_exc()
        code = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    return code & 255


def main() -> None:
    address, *imports = sys.argv[1:]
    listening = listen(address)
    for name in imports:
        importlib.import_module(name)
    importlib.import_module("templates").keep_compiled()
    gc.collect()
    gc.freeze()
    serve(listening)
    shutil.rmtree(os.path.dirname(address), ignore_errors=True)


if __name__ == "__main__":
    main()
