"""What `generate` returns for a batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers.utils.generic import ModelOutput

from .generation_vigc import IqfSettings
from .requests_vigc import Sample


@dataclass
class VigcGenerateOutput(ModelOutput):
    """What `generate` wrote, a list entry per row.

    Args:
        sequences: int64 (B, T), the prompt's ids and those of the final text: "Question: ... Answer: ..." where the
            question was written too, else the answer.
        questions: The question, written or given; None where VIG's text is not a pair.
        drafts: VIG's answer; None where the question was given, there is none, or `iqf_draft` is off.
        answers: The answer after VIC; None where VIG's text is not a pair.
        trace: For each VIC call `{"sentence", "changed", "logprob", "stop"}`: the text it kept; whether that differs
            from the draft's text at this place (None without a draft); the mean log-probability of its tokens, natural
            logarithm (None if it kept nothing); and why it stopped: "unit", "eos" or "length".
        valid: Whether VIG's text was a pair; always where the question was given.
        reasons: Why not, else None.
        instructions: What VIG was asked, else None.
        vig_texts: What VIG wrote, well-formed or not, else None.
        whole_texts: The last prompt with what was written to it.
        answer_lists: With `iqf_unit="paragraph"` what each call kept, and "" for calls that were not needed any more,
            as the release records it; else empty.
        answers_given_question: The first VIC call's whole text, with `iqf_full_record`, else None.
        draft_logprobs: Mean log-probability of the tokens of VIG's text (question and draft, as far as written).
        answer_logprobs: Mean log-probability of the tokens of the answer, each under the call that wrote it.
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
    """The samples as `generate` returns them."""

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
    """The pair where the question was generated too, else the answer."""
    if mode == "vig":
        return f"Question: {row.question} Answer: {row.answer}" if row.reason is None else row.vig_text or ""
    return row.answer or ""


def _answer_list(row: Sample, settings: IqfSettings) -> list[str]:
    if settings.iqf_unit == "sentence":
        return []
    kept = [step["sentence"] for step in row.trace]
    return kept + [""] * (settings.iqf_steps - len(kept))


def _sequences(tokenizer: Any, texts: list[str], input_ids: torch.Tensor) -> torch.Tensor:
    """Prompt ids followed by the texts' ids and an end of sequence, padded on the right."""
    pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    ids = tokenizer(texts, add_special_tokens=False, return_attention_mask=False)["input_ids"]
    rows = [torch.tensor([*row, tokenizer.eos_token_id], dtype=torch.long) for row in ids]
    output = torch.nn.utils.rnn.pad_sequence(rows, True, pad)
    return torch.cat([input_ids, output.to(input_ids.device)], dim=1)
