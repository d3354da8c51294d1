"""Pictures to rows: the part of the job that a model does."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from vigc.modeling_vigc.generation_vigc import IQF_SETTINGS
from vigc.processing.rows import row_id, to_messages

from .attempts import NOT_FINITE, Draft, Fitting, NumbersOnly, is_same_question
from .loading import Item
from .scoring import visual_dependencies
from .short_answers import ShortAnswers, takes_short_answers
from .sources import printable

# How a text is drawn where the settings themselves draw nothing: a second attempt stays close to the first, a second
# question does not.
AGAIN = {"do_sample": True, "num_beams": 1, "temperature": 0.7, "top_p": 0.9}
ANOTHER = {"do_sample": True, "num_beams": 1, "temperature": 1.0, "top_p": 0.95}


@dataclass
class Work:
    """What came of a batch, by picture and not by row: copies of a picture may still turn up.

    Args:
        rows: (input, row of `GENERATED_FEATURES`).
        rejects: (input, record of a text that is no pair).
        dropped: How many questions were left out because the picture had the same one already.
    """

    rows: list[tuple[Item, dict[str, Any]]] = field(default_factory=list)
    rejects: list[tuple[Item, dict[str, Any]]] = field(default_factory=list)
    dropped: int = 0


class Worker:
    """Writes the rows of a batch of pictures, one type after the other.

    Args:
        model: A VIGC model.
        processor: Belongs to it.
        configuration: All that decides what is written: `types`, `correct`, `seed`, `questions`, `retries`, `score`,
            `short_answers`, `decoding`.
        settings: Decoding and `iqf_*` settings that are not the model's own.
        constants: Columns that are the same in every row: `source`, `license`, `model`, `config_hash`.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        *,
        configuration: dict[str, Any],
        settings: dict[str, Any],
        constants: dict[str, str],
    ) -> None:
        self.model, self.processor = model, processor
        self.kinds, self.correct = tuple(configuration["types"]), configuration["correct"]
        self.seed, self.questions = configuration["seed"], configuration["questions"]
        self.retries, self.score = configuration["retries"], configuration["score"]
        self.samples = bool(configuration["decoding"].get("do_sample"))
        self.settings = (
            settings if self.correct else {name: settings[name] for name in settings if name not in IQF_SETTINGS}
        )
        self.constants = constants
        self.fitting = Fitting()
        given = configuration["short_answers"]
        self.short = ShortAnswers(model, processor, self.settings, **given) if given else None

    def prepare(self, image: Any) -> torch.Tensor:
        """A picture's pixels, float (1, 3, H, W)."""
        return self.processor(images=[image], return_tensors="pt")["pixel_values"]

    def write(self, batch: Sequence[Item]) -> Work:
        """Rows of all types about each picture, and records of the texts that are no pairs."""
        pixels = torch.cat([item.pixels for item in batch if item.pixels is not None])
        parts = self.fitting.run(len(batch), lambda rows: self._write_part(batch[rows], pixels[rows]))
        work = Work()
        for part in parts:
            work.rows += part.rows
            work.rejects += part.rejects
            work.dropped += part.dropped
        return work

    def _write_part(self, batch: Sequence[Item], pixels: torch.Tensor) -> Work:
        work = Work()
        pixels = pixels.to(self.model.device, self.model.dtype)
        with torch.inference_mode():
            # All that depends on the picture alone, once for all types.
            embeds = self.model.get_image_embeds(pixels) if self.correct or self.score else None
            for kind in self.kinds:
                asked: list[list[str]] = [[] for _ in batch]
                for index in range(self.questions):
                    drafts = self._drafts(kind, index, batch, pixels, embeds, asked)
                    self._collect(work, kind, index, batch, drafts, embeds)
        return work

    def _drafts(
        self,
        kind: str,
        index: int,
        batch: Sequence[Item],
        pixels: torch.Tensor,
        embeds: torch.Tensor | None,
        asked: list[list[str]],
    ) -> list[Draft]:
        """A draft for each picture: the first attempt that is a pair and asks something new, or else the first."""
        ids = [row_id(item.digest, kind, self.constants["config_hash"], index) for item in batch]
        drafts = self._attempt(kind, index, 0, ids, pixels, embeds)
        for attempt in range(1, self.retries + 1):
            again = [
                place
                for place, draft in enumerate(drafts)
                if (fault := draft.fault()) != NOT_FINITE  # which no other draw puts right
                and (fault or is_same_question(str(draft.question), asked[place]))
            ]
            if not again:
                break
            where = torch.tensor(again, device=pixels.device)
            others = self._attempt(
                kind,
                index,
                attempt,
                [ids[place] for place in again],
                pixels[where],
                None if embeds is None else embeds[where],
            )
            for place, draft in zip(again, others, strict=True):
                if draft.fault() is None and not is_same_question(str(draft.question), asked[place]):
                    draft.attempt = attempt
                    drafts[place] = draft
        for draft, known in zip(drafts, asked, strict=True):
            if draft.fault() is None:
                draft.repeats = is_same_question(str(draft.question), known)
                if not draft.repeats:
                    known.append(str(draft.question))
        return drafts

    def _attempt(
        self,
        kind: str,
        index: int,
        attempt: int,
        ids: list[str],
        pixels: torch.Tensor,
        embeds: torch.Tensor | None,
    ) -> list[Draft]:
        seeds = [row_seed(self.seed, f"{id_}/{attempt}" if attempt else id_) for id_ in ids]
        settings = dict(self.settings)
        if not self.samples and (attempt or index):
            settings |= ANOTHER if index else AGAIN
        if self.short is not None and takes_short_answers(kind):
            return self.short.write(kind, pixels, seeds, settings)
        if not self.correct:
            return self._write_only(kind, pixels, seeds, settings)
        return self._write_and_correct(kind, embeds, seeds, settings)

    def _write_and_correct(
        self, kind: str, embeds: torch.Tensor | None, seeds: list[int], settings: dict[str, Any]
    ) -> list[Draft]:
        output = self.model.generate(
            image_embeds=embeds,
            processor=self.processor,
            mode="vig",
            task=[kind] * len(seeds),
            row_seeds=seeds,
            return_dict_in_generate=True,
            **settings,
        )
        columns = (
            output.questions,
            output.drafts,
            output.answers,
            output.reasons,
            output.vig_texts,
            output.trace,
            output.draft_logprobs,
            output.answer_logprobs,
            output.answers_given_question,
        )
        return [Draft(*values) for values in zip(*columns, strict=True)]

    def _write_only(self, kind: str, pixels: torch.Tensor, seeds: list[int], settings: dict[str, Any]) -> list[Draft]:
        """VIG alone, in plain decoding. It draws for a whole batch at a time, so where it draws rows go alone."""
        samples = self.samples or settings.get("do_sample", False)
        parts = [slice(row, row + 1) for row in range(len(seeds))] if samples else [slice(0, len(seeds))]
        texts: list[str] = []
        logprobs: list[float | None] = []
        for part in parts:
            numbers = NumbersOnly(len(seeds[part]))
            prompts = [self.processor.instruction(kind)] * len(seeds[part])
            inputs = self.processor.encode_prompts(prompts).to(pixels.device)
            devices = [pixels.device] if pixels.device.type == "cuda" else []
            with torch.random.fork_rng(devices=devices):
                torch.manual_seed(seeds[part][0])
                ids = self.model.generate(
                    pixel_values=pixels[part], **inputs, correct=False, logits_processor=[numbers], **settings
                )
            logprobs += numbers.logprobs()
            texts += self.processor.decode_texts(ids[:, inputs["input_ids"].shape[1] :])
        pairs = self.processor.post_process(texts)
        return [
            Draft(pair.question, pair.answer, pair.answer, pair.reason, text, draft_logprob=logprob)
            for pair, text, logprob in zip(pairs, texts, logprobs, strict=True)
        ]

    def _collect(
        self,
        work: Work,
        kind: str,
        index: int,
        batch: Sequence[Item],
        drafts: list[Draft],
        embeds: torch.Tensor | None,
    ) -> None:
        """Rows, records and counts from the drafts of one question."""
        good = []
        for place, (item, draft) in enumerate(zip(batch, drafts, strict=True)):
            id_ = row_id(item.digest, kind, self.constants["config_hash"], index)
            fault = draft.fault()
            if fault is not None:
                work.rejects.append((item, self._reject(id_, kind, item, draft, fault)))
            elif draft.repeats:
                work.dropped += 1
            else:
                good.append(place)
                work.rows.append((item, self._row(id_, kind, index, item, draft)))
        if self.score and good and embeds is not None:
            questions = [str(drafts[place].question) for place in good]
            answers = [str(drafts[place].answer) for place in good]
            where = torch.tensor(good, device=embeds.device)
            scores = visual_dependencies(
                self.model, self.processor, embeds[where], questions, answers, [kind] * len(good)
            )
            for (_, row), score in zip(work.rows[-len(good) :], scores, strict=True):
                row["scores"]["visual_dependency"] = score

    def _row(self, id_: str, kind: str, index: int, item: Item, draft: Draft) -> dict[str, Any]:
        question, answer = str(draft.question), str(draft.answer)
        extra: dict[str, Any] = {}
        if draft.full_answer is not None:
            extra["answer_given_question"] = draft.full_answer
        if draft.attempt:
            extra["attempt"] = draft.attempt + 1
        return {
            "id": id_,
            "image": item.image,
            "image_id": item.source.image_id,
            "type": kind,
            "question_index": index,
            "instruction": self.processor.instruction(kind),
            "question": question,
            "draft": draft.draft,
            "answer": answer,
            "messages": to_messages(question, answer),
            "trace": draft.trace,
            "scores": {
                "draft_logprob": draft.draft_logprob,
                "answer_logprob": draft.answer_logprob,
                "visual_dependency": None,
            },
            "answers": draft.answers,
            "weights": draft.weights,
            "objects": item.source.objects,
            "conversation_id": None,
            "turn": None,
            "extra": extra or None,
            **self.constants,
            **({"license": item.source.license} if item.source.license else {}),
        }

    def _reject(self, id_: str, kind: str, item: Item, draft: Draft, reason: str) -> dict[str, Any]:
        return {
            "kind": "text",
            "id": id_,
            "path": item.source.name,
            "image_id": item.source.image_id,
            "sha256": item.digest,
            "type": kind,
            "instruction": self.processor.instruction(kind),
            "text": draft.text,
            "reason": reason,
            "attempts": 1 if reason == NOT_FINITE else self.retries + 1,
        }


def finish_row(item: Item, row: dict[str, Any]) -> dict[str, Any]:
    """A row as it is stored, with the names of all exact copies of its picture."""
    extra = dict(row["extra"] or {})
    if item.same:
        extra["same_picture"] = [printable(name) for name in item.same]
    return {**row, "extra": json.dumps(extra, ensure_ascii=True) if extra else None}


def finish_reject(item: Item, record: dict[str, Any]) -> dict[str, Any]:
    """A record as it is stored, with the names of all exact copies of its picture."""
    return {**record, "same": item.same} if item.same else record


def row_seed(seed: int, id_: str) -> int:
    """32 bits that depend on the run's seed and the row alone."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{id_}".encode()).digest()[:4], "big")
