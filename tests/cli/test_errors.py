"""How commands end: every error is one line and one exit code, and a traceback is shown only when asked for."""

import errno
import os
import signal

import pytest
import typer
from typer.testing import CliRunner

from vigc.cli.command import add_command
from vigc.errors import BusyError, ConflictError, ImageDataError, PushError, TransientError, VigcError

FULL = OSError(errno.ENOSPC, "No space left on device", "out/rows.parquet")

ENDINGS = [
    (VigcError("'x' is not known: use y."), 2, "'x' is not known: use y."),
    (ConflictError("another job"), 4, "another job"),
    (BusyError("another process"), 5, "another process"),
    (TransientError("the Hub does not answer"), 75, "the Hub does not answer"),
    (PushError("no card"), 2, "no card"),
    (ImageDataError("a.png", "is truncated"), 2, "'a.png' is truncated"),
    (FULL, 75, "No space left on device: 'out/rows.parquet'. Run the same command later to resume."),
    (MemoryError(), 75, "Out of memory (MemoryError): free some memory, or give a smaller --batch-size"),
    (
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
        75,
        "Out of memory ([enforce fail] DefaultCPUAllocator",
    ),
    (RuntimeError("could not create a primitive"), 75, "Out of memory (could not create a primitive)"),
    (RuntimeError("could not create a primitive descriptor"), 1, "this is a bug in vigc (RuntimeError: could not"),
    (
        PermissionError(errno.EACCES, "Permission denied", "out"),
        2,
        "'out' cannot be used: permission denied: change the rights",
    ),
    (ValueError("lr_scheduler_type='x' is not known"), 2, "lr_scheduler_type='x' is not known"),
    (ImportError("needs sentencepiece: pip install 'vigc[convert]'."), 2, "needs sentencepiece"),
    (KeyError("image"), 1, "this is a bug in vigc (KeyError: 'image'). Run the command again with --debug"),
    (AssertionError(), 1, "this is a bug in vigc (AssertionError)."),
    (KeyboardInterrupt(), 130, "interrupted. Run the same command again to resume."),
]


def call(function, *arguments):
    app = typer.Typer(name="vigc")
    app.callback()(lambda: None)
    add_command(app, function, "work")
    return CliRunner().invoke(app, ["work", *arguments])


@pytest.mark.parametrize(("error", "code", "text"), ENDINGS, ids=[type(error).__name__ for error, *_ in ENDINGS])
def test_an_error_is_one_line_and_its_exit_code(error, code, text):
    def work():
        raise error

    done = call(work)
    assert done.exit_code == code and done.stdout == ""
    assert done.stderr.startswith(f"vigc work: {text}" if not isinstance(error, ImageDataError) else "vigc work: ")
    assert text in done.stderr and done.stderr.count("\n") == 1


def test_a_traceback_is_shown_when_asked_for():
    def work(number: int = 1):
        raise KeyError(number)

    quiet, loud = call(work, "--number", "7"), call(work, "--number", "7", "--debug")
    assert "Traceback" not in quiet.output and "KeyError: 7" in quiet.stderr
    assert "Traceback" in loud.stderr and "raise KeyError(number)" in loud.stderr and loud.exit_code == 1


def test_a_message_of_megabytes_is_cut_and_inert():
    def work():
        raise VigcError("\x1b[31m" + "A" * 5_000_000 + "\n the end")

    done = call(work)
    assert len(done.stderr) < 3_000 and "\x1b" not in done.stderr and "\\x1b" in done.stderr
    assert "characters ...]" in done.stderr and done.stderr.endswith("the end\n")


def test_exits_of_a_command_and_bad_usage_pass_through():
    def work(number: int = 1):
        raise typer.Exit(number)

    assert call(work, "--number", "3").exit_code == 3
    assert call(work, "--number", "three").exit_code == 2


def test_sigterm_ends_a_command_as_ctrl_c_does():
    before = signal.getsignal(signal.SIGTERM)

    def work():
        os.kill(os.getpid(), signal.SIGTERM)
        signal.pause()

    done = call(work)
    assert done.exit_code == 130 and "interrupted" in done.stderr
    assert signal.getsignal(signal.SIGTERM) is before
