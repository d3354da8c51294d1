"""Run by test_remote_code.py in a process that has no vigc: what a user of the Hub does. Prints JSON."""

import copy
import importlib.util
import json
import pickle
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch
from accelerate import cpu_offload, disk_offload
from PIL import Image
from transformers import AutoModel, AutoModelForImageTextToText, AutoProcessor, pipeline

assert importlib.util.find_spec("vigc") is None, "this process should not see vigc"

LIMIT = {"max_new_tokens": 5, "iqf_steps": 1}
trust = {"trust_remote_code": True}


def written(model, processor, inputs):
    """VIG and IQF, a few words of each call: ids."""
    return model.generate(**inputs, processor=processor, **LIMIT).tolist()


def in_another_process(model, processor, inputs):
    """The same of a model that came here by pickle; then with its parts offloaded, the last of them twice."""
    found = {"sent": written(model, processor, inputs)}
    part = copy.deepcopy(model)
    cpu_offload(part.language_model, torch.device("cpu"))
    found["language model offloaded"] = written(part, processor, inputs)
    cpu_offload(model, torch.device("cpu"))
    assert next(model.parameters()).is_meta and model.device == torch.device("cpu")
    found["all offloaded"] = written(model, processor, inputs)
    return found


def pickled(model, processor, inputs, folder):
    """What comes out of copies of a model: by pickle, by torch.save, by deepcopy, and in a process of its own."""
    found = {"expected": written(model, processor, inputs)}
    found["pickle"] = written(pickle.loads(pickle.dumps(model)), processor, inputs)
    torch.save(model, folder / "model.pt")
    found["torch.save"] = written(torch.load(folder / "model.pt", weights_only=False), processor, inputs)
    on_disk = copy.deepcopy(model)
    found["deepcopy"] = written(on_disk, processor, inputs)
    disk_offload(on_disk.language_model, folder / "offload", torch.device("cpu"))
    found["language model on disk"] = written(on_disk, processor, inputs)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        found |= pool.submit(in_another_process, model, processor, inputs).result()
    return found


def main():
    folder, pictures, again, embedded = sys.argv[1:]
    images = [Image.open(path) for path in sorted(Path(pictures).glob("*.png"))]
    question = "What can you see?"
    chat = [{"role": "user", "content": [{"type": "image", "image": images[0]}, {"type": "text", "text": question}]}]

    def rows(model, processor, dtype=torch.float32):
        """VIG and IQF on all pictures: ids and answers."""
        inputs = processor(images=images, task="detail", return_tensors="pt").to(dtype)
        out = model.generate(**inputs, processor=processor, return_dict_in_generate=True)
        return {"ids": out.sequences.tolist(), "answers": out.answers}

    model = AutoModel.from_pretrained(folder, **trust)
    processor = AutoProcessor.from_pretrained(folder, **trust)
    result = {"loaded": rows(model, processor)}
    with tempfile.TemporaryDirectory() as made:
        inputs = processor(images=images[:1], task="detail", return_tensors="pt")
        result["pickled"] = pickled(model, processor, inputs, Path(made))

    embeds = model.get_image_embeds(processor(images=images, return_tensors="pt")["pixel_values"])
    requests = [
        {"image_embeds": row, "mode": "vig", "task": "detail", "key": place}
        for place, row in enumerate(embeds.detach())
    ]
    streamed = dict(model.generate_stream(requests, processor, max_slots=2, iqf_verify_drafts=True))
    answers = {request.key: row.answer for request, row in streamed.items()}
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
    tiny, its = AutoModel.from_pretrained(embedded, **trust), AutoProcessor.from_pretrained(embedded, **trust)
    result["embedded"] = written(tiny, its, its(images=images[:1], task="detail", return_tensors="pt"))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
