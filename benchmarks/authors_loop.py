"""The released loop (`valid_step` in `vigc/tasks/llava_150k_gen.py`) on our model class, as a baseline.

What it does at every step is what the release does: pictures through the ViT again, prompts through the Q-Former and
the language model again, the rest of the answer decoded to its end by transformers' `generate`, one sentence of it
kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, RepetitionPenaltyLogitsProcessor

from vigc.modeling_vigc.decoding_vigc import image_features


@dataclass
class Record:
    """A row of the loop: what it wrote, whole and kept."""

    prompt: str
    question: str | None = None
    draft: str | None = None
    answer: str = ""
    kept: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)


class _WithoutImage(LogitsProcessor):
    """The released vocabulary has no `<image>`: its share goes to the rest, as if the softmax had not seen it."""

    def __init__(self, token: int, logprobs: bool) -> None:
        self.token, self.logprobs = token, logprobs  # a beam search hands in log-probabilities, a greedy one logits

    def __call__(self, input_ids: torch.LongTensor, scores: torch.Tensor) -> torch.Tensor:
        taken = torch.log1p(-scores[:, self.token : self.token + 1].exp()) if self.logprobs else 0.0
        scores = scores - taken
        scores[:, self.token] = -torch.inf
        return scores


class AuthorsLoop:
    """The loop with one model.

    Args:
        model: A VIGC model.
        processor: Belongs to it.
        beams: 5 as released, or 1 for greedy search.
        penalty: Repetition penalty over generated tokens (released with 5 beams: 1.5).
        steps: VIC calls after VIG (`answer_length`).
        prompt: "instruction", as released for pairs it wrote, or "question".
        max_new_tokens: Of each call.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        *,
        beams: int = 1,
        penalty: float = 1.0,
        steps: int = 4,
        prompt: str = "instruction",
        max_new_tokens: int = 249,
    ) -> None:
        self.model, self.processor, self.steps, self.style = model, processor, steps, prompt
        tokenizer = processor.tokenizer
        self.config = GenerationConfig(
            num_beams=beams,
            do_sample=False,
            max_new_tokens=max_new_tokens,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        repeats = [] if penalty == 1.0 else [RepetitionPenaltyLogitsProcessor(penalty)]
        self.processors = LogitsProcessorList([_WithoutImage(model.config.image_token_index, beams > 1), *repeats])

    @torch.no_grad()
    def run(self, pixel_values: torch.Tensor, tasks: Sequence[str]) -> list[Record]:
        """A record for each picture; rows whose first text is no pair go on, and come out without a question.

        Args:
            pixel_values: float (B, 3, H, W).
            tasks: B types of instruction.
        """
        rows = [Record(self.processor.instruction(task)) for task in tasks]
        for row, task, text in zip(rows, tasks, self.write(rows, pixel_values), strict=True):
            row.texts.append(text)
            pair = self.processor.parse_pair(text)
            if pair.reason is None:
                row.question, row.draft = pair.question, pair.answer
                row.prompt = self.processor.vic_prompt(pair.question, task, self.style)
        for _ in range(self.steps):
            for row, text in zip(rows, self.write(rows, pixel_values), strict=True):
                row.texts.append(text)
                if row.question is None or "." not in text:
                    continue
                sentence = text[: text.index(".")].strip() + "."
                row.kept.append(sentence)
                row.prompt = f"{row.prompt} {sentence}"
                row.answer = f"{row.answer} {sentence}".strip()
        return rows

    def write(self, rows: Sequence[Record], pixel_values: torch.Tensor) -> list[str]:
        """What the model writes to the prompts, whole."""
        model = self.model
        inputs = self.processor.encode_prompts([row.prompt for row in rows]).to(model.device)
        image_embeds = model.get_image_embeds(pixel_values)
        features, _ = image_features(model, image_embeds, inputs["qformer_input_ids"], inputs["qformer_attention_mask"])
        places = inputs["input_ids"] == model.config.image_token_index
        embeds = model.get_input_embeddings()(inputs["input_ids"])
        embeds = embeds.masked_scatter(places[..., None], features.to(embeds.dtype))
        sequences = model.language_model.generate(
            inputs_embeds=embeds,
            attention_mask=inputs["attention_mask"],
            generation_config=self.config,
            logits_processor=self.processors,
        )
        return self.processor.decode_texts(sequences)
