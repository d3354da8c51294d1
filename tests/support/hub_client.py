"""Run by test_push_end_to_end.py in a process that has no vigc: a user who reads cards, runs their code, loads rows.

Prints a line of JSON; with "again" it waits for a line, loads the dataset once more, and prints another.
"""

import importlib.util
import json
import os
import re
import sys
from pathlib import Path

from datasets import load_dataset
from huggingface_hub import DatasetCard, ModelCard, constants, hf_hub_download
from transformers import pipeline

assert importlib.util.find_spec("vigc") is None, "this process should not see vigc"

model_id, dataset_id, mode = sys.argv[1:]


def run_code(repo, kind):
    """All Python of a card, in one namespace."""
    card = Path(hf_hub_download(repo, "README.md", repo_type=kind)).read_text(encoding="utf-8")
    names = {}
    blocks = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    for block in blocks:
        exec(compile(block, f"card of {repo}", "exec"), names)
    return names, len(blocks)


def rows_of(*config, **given):
    rows = load_dataset(dataset_id, *config, split="train", **given)
    return sorted(row["id"] for row in rows)


names, blocks = run_code(model_id, "model")
result = {"model_blocks": blocks, "answers": names["out"].answers}
pipe = pipeline("image-text-to-text", model=model_id, trust_remote_code=True)
corrects = {"generate_kwargs": {"processor": pipe.processor}, "return_full_text": False}
asked = pipe(images=names["images"][0], text=names["questions"][0], **corrects)
result["pipeline"] = asked[0]["generated_text"].strip()

names, result["dataset_blocks"] = run_code(dataset_id, "dataset")
result["columns"] = names["rows"].column_names
result["picture"] = names["rows"][0]["image"].size
result["all"], result["detail"] = rows_of(), rows_of("detail")
if not constants.is_offline_mode():
    result["streamed"] = rows_of(streaming=True)
    model_card, dataset_card = ModelCard.load(model_id), DatasetCard.load(dataset_id)
    result["model_data"], result["dataset_data"] = model_card.data.to_dict(), dataset_card.data.to_dict()
print(json.dumps(result, default=str), flush=True)
if mode == "again":
    sys.stdin.readline()
    print(json.dumps({"all": rows_of(), "streamed": rows_of(streaming=True)}), flush=True)
os._exit(0)  # unloading all that was imported takes seconds
