"""Every command, given hostile and odd inputs: one line and a code of the table, never a traceback, within bounds."""

import os
import resource
import shutil
import time

import odd_commands
import pytest
from typer.testing import CliRunner

from vigc.cli.root import app

CODES = {0, 2, 3, 4, 5, 75}  # 1 would be a bug in vigc
MOST_SECONDS, MOST_BYTES = 30, 1.5e9


@pytest.fixture(scope="module")
def parts(parity_dir, parity_config, vigc_folder):
    """What the commands name besides."""
    return {
        "model": vigc_folder,
        "llm": parity_dir / "llm",
        "tokenizer": parity_dir / "qformer_tokenizer",
        "sizes": parity_config,
        "weights": parity_dir / "official_checkpoint.safetensors",
    }


def run(folder, case, parts):
    """What is wrong with how one case ends; None where nothing is."""
    folder.mkdir()
    command = odd_commands.arrange(folder, *case, parts)
    before = time.process_time()
    done = CliRunner().invoke(app, command)
    seconds = time.process_time() - before
    finished = (folder / "out" / "_vigc" / "finished.json").exists()
    shutil.rmtree(folder)
    output = done.output
    # The code alone is not enough: an exception that the runner caught would be 1 as well.
    if done.exit_code not in CODES or "Traceback" in output or not isinstance(done.exception, SystemExit | None):
        return f"{done.exit_code}, {done.exception!r}: {output[-600:]}"
    if odd_commands.PLACES[case[0]].finishes and not (finished and done.exit_code in (0, 3)):
        return f"the rest is not done: {output[-600:]}"
    if done.exit_code == 2 and not done.stderr.strip():
        return "says nothing"
    if len(output) > 20_000 or any(ord(character) < 32 and character not in "\n\t" for character in output):
        return f"prints {len(output):,} characters: {output[:300]!r}"
    if "Errno" in output or "defect" in output:
        return output[-600:]
    return f"takes {seconds:.0f} s" if seconds > MOST_SECONDS else None


def check(cases, parts, tmp_path, monkeypatch):
    monkeypatch.setenv("ODD_MODEL", str(parts["model"]))
    monkeypatch.chdir(tmp_path)
    wrong = {}
    for number, case in enumerate(cases):
        if found := run(tmp_path / str(number), case, parts):
            wrong[case] = found
    assert wrong == {}, "\n".join(f"{case}: {found}" for case, found in wrong.items())
    assert not (tmp_path / "pwned").exists() and os.listdir(tmp_path) == []
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 < MOST_BYTES


def test_a_sample_of_odd_inputs(parts, tmp_path, monkeypatch):
    check(odd_commands.spread(40), parts, tmp_path, monkeypatch)


@pytest.mark.slow
def test_250_odd_inputs(parts, tmp_path, monkeypatch):
    check(odd_commands.spread(250), parts, tmp_path, monkeypatch)
