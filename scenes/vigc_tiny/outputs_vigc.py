"""The output of `generate` for a batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers.utils.generic import ModelOutput

from .generation_vigc import IqfSettings
from .requests_vigc import Sample


@dataclass
class VigcGenerateOutput(ModelOutput):
    """The output of `generate`; lists have one entry per row.

    Args:
        sequences: int64 (B, T), the ids of the prompt and of the final text: "Question: ... Answer: ..." if the
            question was generated too, else the answer.
        questions: The generated or given question; None if VIG's text has no valid pair.
        drafts: VIG's answer; None if the question was given, VIG's text has no answer, or `iqf_draft` is off.
        answers: The answer after VIC; None if VIG's text has no valid pair.
        trace: For each VIC request `{"sentence", "changed", "logprob", "stop"}`: the kept text; whether it differs from
            the draft at this position (None without a draft); the mean log-probability of its tokens, natural
            logarithm (None for an empty text); and why generation stopped: "unit", "eos" or "length".
        valid: Whether VIG's text has a valid pair; True if the question was given.
        reasons: Why the pair is invalid, else None.
        instructions: VIG's prompt, else None.
        vig_texts: VIG's raw text, else None.
        whole_texts: The last prompt with its completion.
        answer_lists: With `iqf_unit="paragraph"` the text that each request kept, and "" for requests that were not
            needed, as in the release; else empty.
        answers_given_question: The whole text of the first VIC request, with `iqf_full_record`, else None.
        draft_logprobs: Mean log-probability of the tokens of VIG's text (question and, if generated, draft).
        answer_logprobs: Mean log-probability of the tokens of the answer, each under the request that generated it.
    """

    sequences: torch.Tensor | None = None
    questions: list[str | None] | None = None
    drafts: list[str | None] | None = None
    answers: list[str | None] | None = None
    trace: list[list[dict[str, Any]]] | None = None
    valid: list[bool] | None = None
    reasons: list[str | None] | None = None
    instructions: list[str | None] | None = None
    vig_texts: list[str | None] | None = None
    whole_texts: list[str] | None = None
    answer_lists: list[list[str]] | None = None
    answers_given_question: list[str | None] | None = None
    draft_logprobs: list[float | None] | None = None
    answer_logprobs: list[float | None] | None = None


def to_output(
    rows: list[Sample], processor: Any, settings: IqfSettings, mode: str, input_ids: torch.Tensor
) -> VigcGenerateOutput:
    """Converts samples to the output of `generate`."""

    def column(name: str) -> list[Any]:
        return [getattr(row, name) for row in rows]

    reasons = column("reason")
    return VigcGenerateOutput(
        sequences=_sequences(processor.tokenizer, [_final_text(row, mode) for row in rows], input_ids),
        questions=column("question"),
        drafts=column("draft"),
        answers=column("answer"),
        trace=column("trace"),
        valid=[reason is None for reason in reasons],
        reasons=reasons,
        instructions=column("instruction"),
        vig_texts=column("vig_text"),
        whole_texts=column("prompt"),
        answer_lists=[_answer_list(row, settings) for row in rows],
        answers_given_question=column("full_answer"),
        draft_logprobs=column("draft_logprob"),
        answer_logprobs=column("answer_logprob"),
    )


def _final_text(row: Sample, mode: str) -> str:
    """The pair if the question was generated too, else the answer."""
    if mode == "vig":
        return f"Question: {row.question} Answer: {row.answer}" if row.reason is None else row.vig_text or ""
    return row.answer or ""


def _answer_list(row: Sample, settings: IqfSettings) -> list[str]:
    if settings.iqf_unit == "sentence":
        return []
    kept = [step["sentence"] for step in row.trace]
    return kept + [""] * (settings.iqf_steps - len(kept))


def _sequences(tokenizer: Any, texts: list[str], input_ids: torch.Tensor) -> torch.Tensor:
    """The prompt's ids, the text's ids and an end of sequence, padded on the right."""
    pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    ids = tokenizer(texts, add_special_tokens=False, return_attention_mask=False)["input_ids"]
    rows = [torch.tensor([*row, tokenizer.eos_token_id], dtype=torch.long) for row in ids]
    output = torch.nn.utils.rnn.pad_sequence(rows, True, pad)
    return torch.cat([input_ids, output.to(input_ids.device)], dim=1)
