"""Run by test_custom_generate.py in a process that has no vigc: IQF on a stock InstructBLIP. Prints JSON."""

import importlib.util
import json
import re
import sys
from pathlib import Path

import torch
from PIL import Image
from transformers import InstructBlipForConditionalGeneration, InstructBlipProcessor

assert importlib.util.find_spec("vigc") is None, "this process should not see vigc"

checkpoint, pictures, iqf_folder, own_folder, runs = sys.argv[1:]
images = [Image.open(path) for path in sorted(Path(pictures).glob("*.png"))]
model = InstructBlipForConditionalGeneration.from_pretrained(checkpoint).eval()
processor = InstructBlipProcessor.from_pretrained(checkpoint)
before = processor.qformer_tokenizer.truncation_side
prompts = ["What is there?"] * len(images)
inputs = processor(images=images, text=prompts, padding=True, return_tensors="pt")
iqf = {"custom_generate": iqf_folder, "trust_remote_code": True, "processor": processor}


as_dict = {"return_dict_in_generate": True}


def told(out):
    """All that was written; of `sequences` what follows the prompt."""
    fields = {name: value for name, value in out.items() if name != "sequences"}
    return {**fields, "ids": out.sequences[:, inputs["input_ids"].shape[1] :].tolist()}


def refusal(generate, **given):
    try:
        generate(**given)
    except ValueError as error:
        return str(error)
    return None


result = {"runs": {}}
for name, given in json.loads(runs).items():
    torch.manual_seed(5)
    result["runs"][name] = told(model.generate(**inputs, **iqf, **given, **as_dict))

short = {"task": "detail", "iqf_steps": 1}
bare = model.generate(**inputs, **iqf, **short)
result["bare"] = bare[:, inputs["input_ids"].shape[1] :].tolist()
result["prompt_kept"] = bare[:, : inputs["input_ids"].shape[1]].equal(inputs["input_ids"])

# The card's example, with these folders for the names in it.
card = (Path(iqf_folder) / "README.md").read_text(encoding="utf-8")
code = re.search(r"```python\n(.*?)```", card, flags=re.DOTALL)[1]
for written, here in (("Salesforce/instructblip-vicuna-7b", checkpoint), ("vigc-iqf", iqf_folder)):
    assert f'"{written}"' in code
    code = code.replace(f'"{written}"', json.dumps(here))
seen = {"images": images, "questions": prompts}
exec(code, seen)
result["card"] = [list(seen["out"].answers), model.generate(**inputs, **iqf, task="detail", **as_dict).answers]

# A repository on the Hub, as its cache keeps it, at a commit.
named = {**iqf, "custom_generate": "someone/vigc-iqf", "revision": "0123456789abcdef0123456789abcdef01234567"}
result["named"] = model.generate(**inputs, **named, **short)[:, inputs["input_ids"].shape[1] :].tolist()

# The checkpoint's own folder holds the code: it is the model's own generate.
own = InstructBlipForConditionalGeneration.from_pretrained(own_folder, trust_remote_code=True).eval()
result["own"] = own.generate(**inputs, processor=processor, **short)[:, inputs["input_ids"].shape[1] :].tolist()

settings = {"max_new_tokens": 20}
stock = model.generate(**inputs, **settings).tolist()
result["plain"] = [
    model.generate(**inputs, **iqf, **settings, correct=False).tolist() == stock,
    own.generate(**inputs, **settings).tolist() == stock,
]
result["refused"] = {
    "no trust": refusal(model.generate, **inputs, **{**iqf, "trust_remote_code": False}, **short),
    "nothing said": refusal(model.generate, **inputs, **iqf),
    "no processor": refusal(model.generate, **inputs, **{**iqf, "processor": None}, **short),
    "no InstructBLIP": refusal(model.language_model.generate, input_ids=inputs["input_ids"], **iqf, **short),
}
result["untouched"] = [
    type(model).__module__.startswith("transformers.models.instructblip."),
    processor.qformer_tokenizer.truncation_side == before,
    model.generate(**inputs, **settings).tolist() == stock,
]
print(json.dumps(result))
