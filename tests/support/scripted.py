"""A stand-in for a model: it writes by rule, at once, and the same in every process."""

import hashlib
import os
import time
from types import SimpleNamespace

import numpy as np
import torch
from transformers import GenerationConfig

from vigc.inference.scheduling import run_in_batches
from vigc.modeling_vigc import VigcGenerateOutput
from vigc.modeling_vigc.requests_vigc import Completion
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

    def engine(self, processor, max_slots):
        return ScriptedEngine(self, processor, max_slots)

    def finish(self, sample):
        """A scripted answer has one step, without the empty one that says there is no more."""
        del sample.trace[1:]

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


class ScriptedEngine:
    """Runs the rollouts of a schedule in batches; a call of `generate` for those that are alike.

    A sample is made at once: VIG's text, then VIC's answer in one completion, and nothing behind it.
    """

    def __init__(self, model, processor, max_slots):
        self.model, self.processor, self.max_slots = model, processor, max_slots

    def run_schedule(self, schedule):
        for _ in run_in_batches(self._rollouts(schedule), self._complete, self.max_slots):
            yield from self._results(schedule)
        yield from self._results(schedule)  # of rollouts that asked nothing

    def _rollouts(self, schedule):
        """Those that begin or resume, as `run_in_batches` takes them; None where the schedule has none ready."""
        running = True  # what was taken since the last None, and may yet defer a further attempt
        while running or not schedule.finished:
            task = schedule.take()
            running = task is not None
            yield _sample(schedule, *task) if running else None

    def _results(self, schedule):
        for batch, key, samples in schedule.results():
            for sample in samples:
                self.model.finish(sample)
            yield batch, key, samples

    def _complete(self, requests):
        """For each request, the completions of its whole sample, in their order."""
        groups, found = {}, {}
        for request in requests:
            mode = "vig" if request.prompt.kind else "vic"
            groups.setdefault((mode, repr(request.sampling.settings)), []).append(request)
        for (mode, _), group in groups.items():
            found |= zip(group, self._made(mode, group), strict=True)
        return [found[request] for request in requests]

    def _made(self, mode, requests):
        out = self.model.generate(
            torch.stack([request.images[0] for request in requests]),
            self.processor,
            mode,
            task=[request.prompt.kind or request.prompt.task for request in requests],
            questions=[None if mode == "vig" else str(request.prompt) for request in requests],
            row_seeds=[request.sampling.seed for request in requests],
            **requests[0].sampling.settings,
        )
        for row in range(len(requests)):
            vig = [completion(out.vig_texts[row], out.draft_logprobs[row])] if mode == "vig" else []
            vic = [completion(out.answers[row], out.answer_logprobs[row]), completion("", -0.5)]
            yield vig if out.answers[row] is None else vig + vic


def _sample(schedule, rollout, request):
    """A rollout of the schedule that asks once for all completions of a sample."""
    for found in (yield request):
        request = schedule.send(rollout, found)
        if request is None:
            return
        if request.prompt.kind:
            raise AssertionError("a further attempt is deferred")
    raise AssertionError("a sample ends with its completions")


def completion(text, logprob):
    return Completion(text, "eos", [0], [logprob])


class Prompt(str):
    """A prompt that knows what it asks for: a pair of a kind, or the answer to a question of a type."""

    kind = task = None


class ScriptedProcessor:
    """Pictures as four by four pixels, and prompts as they are."""

    def __call__(self, images, return_tensors):
        arrays = [np.asarray(image.resize((4, 4)), dtype=np.float32) for image in images]
        return {"pixel_values": torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2)}

    answer_mark = "Answer:"

    def instruction(self, kind):
        prompt = Prompt(f"write {kind}")
        prompt.kind = kind
        return prompt

    def vic_prompt(self, question, task=None, style="question"):
        prompt = Prompt(question)
        prompt.task = task
        return prompt

    def parse_pair(self, text):
        return parse_pair(text)
