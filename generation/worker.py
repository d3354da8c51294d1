"""Pictures to rows: the part of the job that a model does."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from vigc.modeling_vigc.generation_vigc import IQF_SETTINGS
from vigc.processing.images import Picture
from vigc.processing.rows import row_id, to_messages

from .sources import Source


@dataclass(frozen=True, slots=True)
class Written:
    """What was written about one picture, before it is known to be a pair."""

    question: str | None
    draft: str | None
    answer: str | None
    reason: str | None
    text: str
    trace: list[dict[str, Any]] = field(default_factory=list)
    draft_logprob: float | None = None
    answer_logprob: float | None = None
    full_answer: str | None = None


class Worker:
    """Writes the rows of a batch of pictures, one type after the other.

    Args:
        model: A VIGC model.
        processor: Belongs to it.
        types: The types of instruction.
        settings: Decoding and `iqf_*` settings that are not the model's own.
        correct: Whether VIC corrects the drafts; without it the answer is the draft.
        seed: With a row's id, decides what is drawn where decoding samples.
        constants: Columns that are the same in every row: `source`, `license`, `model`, `config_hash`.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        *,
        types: Sequence[str],
        settings: dict[str, Any],
        correct: bool,
        seed: int,
        constants: dict[str, str],
    ) -> None:
        self.model, self.processor = model, processor
        self.types, self.correct, self.seed = tuple(types), correct, seed
        self.settings = settings if correct else {name: settings[name] for name in settings if name not in IQF_SETTINGS}
        self.constants = constants

    def write(self, batch: Sequence[tuple[Source, Picture]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Rows of `GENERATED_FEATURES`, and records of the texts that are no pairs."""
        pixels = self.processor(images=[picture.image for _, picture in batch], return_tensors="pt")["pixel_values"]
        pixels = pixels.to(self.model.device, self.model.dtype)
        with torch.inference_mode():
            # All that depends on the picture alone, once for all types.
            embeds = self.model.get_image_embeds(pixels) if self.correct else None
            rows, rejects = [], []
            for kind in self.types:
                ids = [row_id(picture.original, kind, self.constants["config_hash"], 0) for _, picture in batch]
                seeds = [_seed(self.seed, id_) for id_ in ids]
                if embeds is not None:
                    written = self._write_and_correct(kind, embeds, seeds)
                else:
                    written = self._write_only(kind, pixels, seeds)
                for id_, (source, picture), text in zip(ids, batch, written, strict=True):
                    reason = text.reason or _emptiness(text)
                    if reason is None:
                        rows.append(self._row(id_, kind, source, picture, text))
                    else:
                        rejects.append(self._reject(id_, kind, source, picture, text, reason))
        return rows, rejects

    def _write_and_correct(self, kind: str, embeds: torch.Tensor, seeds: list[int]) -> list[Written]:
        output = self.model.generate(
            image_embeds=embeds,
            processor=self.processor,
            mode="vig",
            task=[kind] * len(seeds),
            row_seeds=seeds,
            return_dict_in_generate=True,
            **self.settings,
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
        return [Written(*values) for values in zip(*columns, strict=True)]

    def _write_only(self, kind: str, pixels: torch.Tensor, seeds: list[int]) -> list[Written]:
        """VIG alone, in plain decoding, which draws for a whole batch at a time."""
        inputs = self.processor.encode_prompts([self.processor.instruction(kind)] * len(seeds)).to(pixels.device)
        devices = [pixels.device] if pixels.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(_seed(self.seed, json.dumps(seeds)))
            ids = self.model.generate(pixel_values=pixels, **inputs, correct=False, **self.settings)
        texts = self.processor.decode_texts(ids[:, inputs["input_ids"].shape[1] :])
        pairs = self.processor.post_process(texts)
        return [
            Written(pair.question, pair.answer, pair.answer, pair.reason, text)
            for pair, text in zip(pairs, texts, strict=True)
        ]

    def _row(self, id_: str, kind: str, source: Source, picture: Picture, text: Written) -> dict[str, Any]:
        question, answer = str(text.question), str(text.answer)
        extra = {"answer_given_question": text.full_answer} if text.full_answer is not None else None
        return {
            "id": id_,
            "image": {"bytes": picture.data, "path": None},
            "image_id": source.image_id,
            "type": kind,
            "question_index": 0,
            "instruction": self.processor.instruction(kind),
            "question": question,
            "draft": text.draft,
            "answer": answer,
            "messages": to_messages(question, answer),
            "trace": text.trace,
            "scores": {
                "draft_logprob": text.draft_logprob,
                "answer_logprob": text.answer_logprob,
                "visual_dependency": None,
            },
            "answers": None,
            "weights": None,
            "objects": None,
            "conversation_id": None,
            "turn": None,
            "extra": None if extra is None else json.dumps(extra),
            **self.constants,
        }

    def _reject(
        self, id_: str, kind: str, source: Source, picture: Picture, text: Written, reason: str
    ) -> dict[str, Any]:
        return {
            "kind": "text",
            "id": id_,
            "path": source.name,
            "image_id": source.image_id,
            "sha256": hashlib.sha256(picture.original).hexdigest(),
            "type": kind,
            "instruction": self.processor.instruction(kind),
            "text": text.text,
            "reason": reason,
        }


def _emptiness(text: Written) -> str | None:
    """Why a pair by the letter is none to train on."""
    if not text.question:
        return "the question is empty"
    return None if text.answer else "the answer is empty"


def _seed(seed: int, id_: str) -> int:
    """32 bits that depend on the run's seed and the row alone."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{id_}".encode()).digest()[:4], "big")
