"""Forked processes are what a fresh interpreter would be, but for the time they take to start."""

import os
import signal
import subprocess
import sys

import forks
import pytest


@pytest.mark.parametrize(
    ("code", "returncode", "said"),
    [
        ("import sys; print(sys.argv[1:], __name__); sys.exit(3)", 3, "['a', 'b c'] __main__"),
        ("import sys; sys.exit('no')", 1, ""),
        ("1 / 0", 1, ""),
        ("import atexit; atexit.register(print, 'late')", 0, "late"),
        ("import os; print(os.getcwd(), os.environ['ONE'], 'TWO' in os.environ)", 0, "{cwd} 1 False"),
        ("import os; os.kill(os.getpid(), 9)", -9, ""),
        ("import sys; print(sys.stdin.read() == '', sys.stdout.isatty())", 0, "True False"),
        ("import threading; threading.Thread(target=print, args=('ended',)).start()", 0, "ended"),
    ],
)
def test_a_process_ends_as_python_would(code, returncode, said, tmp_path, monkeypatch):
    monkeypatch.setenv("TWO", "")
    environment = {name: value for name, value in os.environ.items() if name != "TWO"} | {"ONE": "1"}
    done = forks.run("-c", code, "a", "b c", cwd=tmp_path, env=environment)
    assert (done.returncode, done.stdout.strip()) == (returncode, said.format(cwd=tmp_path)), done.stderr
    fresh = subprocess.run([sys.executable, "-c", code, "a", "b c"], cwd=tmp_path, env=environment, capture_output=True)
    assert (fresh.returncode, fresh.stdout.decode()) == (done.returncode, done.stdout)
    assert bool(fresh.stderr) == bool(done.stderr)


def test_a_process_can_be_waited_for_and_killed():
    with forks.popen("-c", "import signal; print('up', flush=True); signal.pause()", stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == "up\n" and process.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.01)
        os.kill(process.pid, 0)
        process.kill()
        assert process.wait() == process.poll() == -signal.SIGKILL


def test_a_shell_starts_one_as_a_program(tmp_path):
    forks.write_program(tmp_path / "counts", forks.everything(), "-c", "import sys; sys.exit(len(sys.stdin.read()))")
    done = subprocess.run(["bash", "-c", f"printf 12345 | {tmp_path}/counts"], env={**os.environ})
    assert done.returncode == 5


def test_what_libraries_have_read_already_cannot_be_changed():
    with pytest.raises(ValueError, match="HF_ENDPOINT is read while libraries are imported"):
        forks.run("-c", "", env={**os.environ, "HF_ENDPOINT": "http://127.0.0.1"})
