"""A stand-in for a model: it writes by rule, at once, and the same in every process."""

import hashlib
import os
import time
from types import SimpleNamespace

import numpy as np
import torch
from transformers import GenerationConfig

from vigc.modeling_vigc import VigcGenerateOutput
from vigc.modeling_vigc.requests_vigc import Sample
from vigc.processing import parse_pair

WORDS = ("red", "green", "blue", "cat", "dog", "tree", "house", "river", "small", "large", "bright", "dark", "under")


def words(key, count):
    digest = hashlib.sha256(key.encode()).digest()
    return " ".join(WORDS[byte % len(WORDS)] for byte in digest[:count])


class ScriptedModel:
    """Takes pixels as they are for what the ViT saw, and the bytes of those for its inspiration.

    Args:
        log: A file to which a line is added for each call of `generate`, with the process and the number of rows.
        delay: Seconds that a call takes.
        fits: Rows that memory suffices for.
        full: The error where it does not.
        malformed: Of so many texts one is no pair; 0 for none.
        hold: A file that every call waits for; one of the same name with ".waiting" behind it says that a call does.
        free: So many calls before it do not.
    """

    def __init__(self, log=None, delay=0.0, fits=None, malformed=9, hold=None, full=None, free=0):
        vision = SimpleNamespace(image_size=4)
        self.config = SimpleNamespace(_name_or_path="scripted", vision_config=vision, image_token_index=None)
        self.generation_config = GenerationConfig()
        self.dtype, self.device = torch.float32, torch.device("cpu")
        self.log, self.delay, self.fits, self.malformed, self.hold = log, delay, fits, malformed, hold
        self.free = free
        self.full = full or torch.OutOfMemoryError("scripted")

    def eval(self):
        return self

    def get_image_embeds(self, pixels):
        return pixels.flatten(1)[:, None]

    def generate_stream(self, requests, processor, max_slots):
        """As many at a time as there are slots; a call of `generate` for those that are alike."""
        requests = iter(requests)
        while True:
            groups = {}
            for count, request in enumerate(requests, 1):
                if request is None:
                    break
                groups.setdefault((request.mode, repr(request.settings)), []).append(request)
                if count == max_slots:
                    break
            if not groups:
                return
            for group in groups.values():
                yield from zip(group, self._rows(group, processor), strict=True)

    def _rows(self, group, processor):
        out = self.generate(
            torch.stack([request.image_embeds for request in group]),
            processor,
            group[0].mode,
            task=[request.task for request in group],
            questions=[request.question for request in group],
            row_seeds=[request.seed for request in group],
            **group[0].settings,
        )
        for row, request in enumerate(group):
            yield Sample(
                request.task,
                out.questions[row],
                draft=out.drafts[row],
                answer=out.answers[row],
                reason=out.reasons[row],
                vig_text=out.vig_texts[row],
                draft_logprob=out.draft_logprobs[row],
                logprobs=[out.answer_logprobs[row]],
                trace=out.trace[row],
            )

    def _wait(self):
        self.free -= 1
        if not self.hold or self.free >= 0:
            return
        open(f"{self.hold}.waiting", "w").close()
        while not os.path.exists(self.hold):
            time.sleep(0.005)

    def generate(self, image_embeds, processor, mode, task=None, questions=None, row_seeds=None, **settings):
        count = len(image_embeds)
        if self.log:
            with open(self.log, "a") as file:
                file.write(f"{os.getpid()} {count}\n")
        if self.fits is not None and count > self.fits:
            raise self.full
        time.sleep(self.delay)
        self._wait()
        columns = {name: [] for name in VigcGenerateOutput.__dataclass_fields__}
        for row in range(count):
            kind = task[row] if task else None
            key = f"{hashlib.sha256(image_embeds[row].numpy().tobytes()).hexdigest()} {kind}"
            if settings.get("do_sample"):
                key += f" {row_seeds[row]}"
            text = f"Question: What is {words(key + 'q', 5)}? Answer: It is {words(key + 'd', 6)}."
            if self.malformed and hashlib.sha256(key.encode()).digest()[0] % self.malformed == 0:
                text = f"{words(key, 8)} and no mark at all"
            pair = parse_pair(text)
            question, draft = (questions[row], None) if mode == "vic" else (pair.question, pair.answer)
            answer = None if question is None else f"It is {words(key + question, 6)}."
            step = {"sentence": answer, "changed": answer != draft, "logprob": -0.5, "stop": "eos"}
            values = {
                "questions": question,
                "drafts": draft,
                "answers": answer,
                "reasons": pair.reason if mode == "vig" else None,
                "vig_texts": text,
                "trace": [step],
                "draft_logprobs": -0.75 if mode == "vig" else None,
                "answer_logprobs": -0.5,
                "answers_given_question": None,
            }
            for name, value in values.items():
                columns[name].append(value)
        return VigcGenerateOutput(**{name: column for name, column in columns.items() if column})


class ScriptedProcessor:
    """Pictures as four by four pixels, and prompts as they are."""

    def __call__(self, images, return_tensors):
        arrays = [np.asarray(image.resize((4, 4)), dtype=np.float32) for image in images]
        return {"pixel_values": torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2)}

    def instruction(self, kind):
        return f"write {kind}"
