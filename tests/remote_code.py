"""Run by test_remote_code.py in a process that has no vigc: what a user of the Hub does. Prints JSON."""

import importlib.util
import json
import sys
from pathlib import Path

import torch
from PIL import Image
from transformers import AutoModel, AutoModelForImageTextToText, AutoProcessor, pipeline

assert importlib.util.find_spec("vigc") is None, "this process should not see vigc"

folder, pictures, again = sys.argv[1:]
images = [Image.open(path) for path in sorted(Path(pictures).glob("*.png"))]
question = "What can you see?"
chat = [{"role": "user", "content": [{"type": "image", "image": images[0]}, {"type": "text", "text": question}]}]
trust = {"trust_remote_code": True}


def rows(model, processor, dtype=torch.float32):
    """VIG and IQF on all pictures: ids and answers."""
    inputs = processor(images=images, task="detail", return_tensors="pt").to(dtype)
    out = model.generate(**inputs, processor=processor, return_dict_in_generate=True)
    return {"ids": out.sequences.tolist(), "answers": out.answers}


model = AutoModel.from_pretrained(folder, **trust)
processor = AutoProcessor.from_pretrained(folder, **trust)
result = {"loaded": rows(model, processor)}

embeds = model.get_image_embeds(processor(images=images, return_tensors="pt")["pixel_values"])
requests = [
    {"image_embeds": row, "mode": "vig", "task": "detail", "key": place} for place, row in enumerate(embeds.detach())
]
written = dict(model.generate_stream(requests, processor, max_slots=2, iqf_verify_drafts=True))
answers = {request.key: row.answer for request, row in written.items()}
result["streamed"] = [answers[place] for place in range(len(requests))]

pipe = pipeline("image-text-to-text", model=folder, **trust)
corrects = {"generate_kwargs": {"processor": pipe.processor}, "return_full_text": False}
result["pipeline"] = pipe(images=images[0], text=question, **corrects)[0]["generated_text"]
two = pipe(images=images[:2], text=[question, "What does the image show?"], **corrects)
result["pipeline_of_two"] = two[0]["generated_text"]
result["pipeline_chat"] = pipe(text=chat, **corrects)[0]["generated_text"]
listed = pipe([chat, chat], batch_size=2, **corrects)
result["pipeline_batch"] = [item[0]["generated_text"] for item in listed]
result["pipeline_plain"] = pipe(text=chat, return_full_text=False)[0]["generated_text"]

model.save_pretrained(again)
processor.save_pretrained(again)
reloaded = AutoModelForImageTextToText.from_pretrained(again, **trust)
result["reloaded"] = rows(reloaded, AutoProcessor.from_pretrained(again, **trust))
for name, place in (("bf16_loaded", folder), ("bf16_reloaded", again)):
    half = AutoModel.from_pretrained(place, dtype=torch.bfloat16, attn_implementation="sdpa", **trust)
    result[name] = rows(half, processor, torch.bfloat16)
print(json.dumps(result))
