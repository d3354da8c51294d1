"""Run by test_secrets.py with tokens planted around it: every command, where it works and where the Hub refuses it."""

import json
import sys
import traceback
from pathlib import Path

import typer

from vigc.cli.root import app
from vigc.generation import generate_dataset

work, parity, pictures, llava = map(Path, sys.argv[1:])
GONE, PRIVATE = "someone/private-echo", "someone/private"

recipe = work / "in" / "recipe.yaml"
broken = work / "in" / "broken.yaml"
small = ["--model", GONE]
convert = [
    "--checkpoint",
    parity / "official_checkpoint.safetensors",
    "--checkpoint",
    parity / "llm_pad_row.safetensors",
]
convert += ["--language-model", parity / "llm", "--config", work / "in" / "sizes.json"]

# Name -> exit code and arguments. A new command is added here, once where it works and once where the Hub refuses it.
COMMANDS = {
    "generate": (3, ["generate", pictures, "--output", work / "made", "--types", "detail", "--iqf-steps", 1]),
    "correct": (0, ["correct", llava, "--output", work / "corrected", "--image-root", pictures, "--iqf-steps", 1]),
    "report": (0, ["report", work / "made"]),
    "export": (0, ["export", work / "made", "--format", "trl-sft", "--output", work / "chats"]),
    "convert": (
        0,
        ["convert", *convert, "--qformer-tokenizer", parity / "qformer_tokenizer", "--output", work / "model"],
    ),
    "train": (0, ["train", recipe]),
    "custom-generate": (0, ["custom-generate", "--output", work / "iqf"]),
    "scenes": (0, ["scenes", "--output", work / "scenes", "--rows", 3]),
    "generate, refused": (2, ["generate", pictures, "--output", work / "a", *small]),
    "generate from a dataset, refused": (2, ["generate", GONE, "--format", "dataset", "--output", work / "b"]),
    "correct, refused": (2, ["correct", GONE, "--output", work / "c"]),
    "convert, refused": (2, ["convert", *convert, "--qformer-tokenizer", GONE, "--output", work / "d"]),
    "train, refused": (2, ["train", recipe, "--model", GONE, "--output_dir", work / "e"]),
    "train, wrong recipe": (2, ["train", broken]),
    "push, refused": (2, ["push", work / "made", GONE, "--allow-unknown-licence"]),
    "report, nothing there": (2, ["report", work / "nothing"]),
}

codes = {}
for name, (expected, arguments) in COMMANDS.items():
    try:
        code = app([str(part) for part in arguments], standalone_mode=False) or 0
    except typer.Exit as error:
        code = error.exit_code
    except Exception:
        traceback.print_exc()
        code = 1
    codes[name] = [code, expected]
try:
    generate_dataset(pictures, work / "f", model=PRIVATE)
except Exception:
    traceback.print_exc()
print(json.dumps(codes))
