"""Help and mistakes are answered at once: before torch and its like are imported."""

import subprocess
import sys

import pytest

HEAVY = {"torch", "transformers", "datasets", "pyarrow"}

PROGRAM = """
import sys
from vigc.cli.root import app
try:
    app(sys.argv[1:], prog_name="vigc")
finally:
    print("imported:", *sorted(set(sys.modules) & {heavy}), file=sys.stderr)
"""


def call(*words, cwd):
    """A command in a fresh interpreter, and what it has imported at its end."""
    program = PROGRAM.format(heavy=HEAVY)
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, words)], cwd=cwd, capture_output=True, text=True, check=False
    )
    said, _, imported = done.stderr.rpartition("imported:")
    return done.returncode, done.stdout, said, imported.split()


def test_packages_are_imported_without_torch():
    names = "vigc, vigc.generation, vigc.inference, vigc.processing, vigc.formats, vigc.exports, vigc.evaluation"
    code = f"import sys, {names}; print(*sorted(set(sys.modules) & {HEAVY}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize(
    "words",
    [
        ("--help",),
        ("generate", "--help"),
        ("generate", "--help-all"),
        ("correct", "--help"),
        ("export", "--help"),
        ("--version",),
    ],
    ids=" ".join,
)
def test_help_needs_no_torch(words, tmp_path):
    code, text, _, imported = call(*words, cwd=tmp_path)
    assert code == 0 and text and imported == []


MISTAKES = [
    (("generate", "pictures", "-o", "out", "--format", "fodler"), "use one of folder, coco, .* Did you mean 'folder'"),
    (("generate", "picture", "-o", "out"), "'picture' is neither a folder nor a file.* Did you mean 'pictures'"),
    (("generate", "pictures", "-o", "out", "--iqf-unit", "sentense"), "sentence, paragraph. Did you mean 'sentence'"),
    (("generate", "pictures", "-o", "out", "--types", "detial"), "use one or more of .* Did you mean 'detail'"),
    (("generate", "pictures", "-o", "out", "--engine", "rai"), "use one of local, ray. Did you mean 'ray'"),
    (("generate", "pictures", "-o", "out", "--batch-size", "0"), "batch_size=0 is too small: give at least 1"),
    (("generate", "pictures", "-o", "out", "--exclude-ids", "ids.tx"), "no file.* Did you mean 'ids.txt'"),
    (("generate", "pictures", "-o", "out", "-m", "/no/model"), "'/no/model' is not a folder"),
    (("generate", "pictures", "-o", "out", "--config", "job.yaml"), "'batch_sise' is not .* Did you mean 'batch_size'"),
    (("generate", "pictures", "-o", "out", "--log-level", "loud"), "use one of debug, info, warning, error"),
    (("correct", "data.jsonl", "-o", "out"), "'data.jsonl' is neither a folder nor a file.* Did you mean 'data.json'"),
    (("export", "pictures", "-o", "out", "-f", "trl-spt"), "use one of trl-sft, .* Did you mean 'trl-sft'"),
    (("export", "picture", "-o", "out", "-f", "trl-sft"), "'picture' is no folder.* Did you mean 'pictures'"),
    (("export", "pictures", "-o", "out", "-f", "trl-dpo", "--score", "logpro"), "Did you mean 'logprob'"),
]


@pytest.mark.parametrize(("words", "reason"), MISTAKES, ids=[" ".join(words[:1] + words[-2:]) for words, _ in MISTAKES])
def test_a_mistake_needs_no_torch_and_costs_one_sentence(words, reason, tmp_path):
    import re

    (tmp_path / "pictures").mkdir()
    (tmp_path / "ids.txt").write_text("1\n")
    (tmp_path / "data.json").write_text("[]")
    (tmp_path / "job.yaml").write_text("batch_sise: 4\n")
    code, _, said, imported = call(*words, cwd=tmp_path)
    assert code == 2 and said.count("\n") == 1 and re.search(reason, said), said
    assert said.startswith(f"vigc {words[0]}: ")
    assert imported == [] and not (tmp_path / "out").exists()
