"""Token selection and end of generation, with decoding settings applied to a batch of texts of different lengths."""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from .placement_vigc import execution_device, loaded
from .requests_vigc import Completion, StopRule

# These processors depend on the set of earlier ids, or on none, but not on their number. So texts of different lengths
# are processed together, and shorter ones are padded with one of their own ids.
_ANY_LENGTH = (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)


@dataclass(slots=True)
class Text:
    """The text of one request during generation.

    Args:
        until: The rule of the first segment.
        whole: Whether generation continues after the first segment.
        seed: Sampling is determined by the seed and the position in the text.
        prompt: Ids of the prompt, if decoding is plain; processors treat them as earlier tokens.
        unit: The first segment, as soon as it cannot change any more.
        ids: The generated ids.
        logprobs: Their log-probabilities.
        stop: Why the text ended: "eos", "unit" or "length"; "" while it is generated.
        undecided: Whether the next character may end the first segment.
        accepted: Number of accepted draft tokens; None if no draft was verified.
    """

    until: StopRule | None = None
    whole: bool = False
    seed: int = 0
    prompt: list[int] = field(default_factory=list)
    unit: str | None = None
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    stop: str = ""
    undecided: bool = False
    accepted: int | None = None


class Decoding:
    """Applies decoding settings.

    Args:
        model: A VIGC or InstructBLIP model with a decoder-only language model.
        processor: Has the language model's `tokenizer`.
        config: The complete settings (see `GenerationMixin._prepare_generation_config`).
        logits_processor: Additional processors, applied after those of `config`.
        plain: See [`SamplingParams`].

    Raises:
        ValueError: The language model has an encoder.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        config: GenerationConfig,
        logits_processor: Sequence[LogitsProcessor] = (),
        plain: bool = False,
    ) -> None:
        if model.language_model.config.is_encoder_decoder:
            kind = model.language_model.config.model_type
            raise ValueError(
                f"VIG and VIC need a decoder-only language model, but this model has {kind!r}: use a model such as "
                "InstructBLIP with Vicuna, or plain decoding with correct=False."
            )
        self.model, self.tokenizer, self.plain = model, processor.tokenizer, plain
        self.config = copy.deepcopy(config)
        # From the tokenizer, because older stock configurations do not have it.
        self.image_token_id = self.tokenizer.convert_tokens_to_ids("<image>")
        self.max_new_tokens: int = config.max_new_tokens or 249
        self.beams: int = config.num_beams or 1
        eos = config.eos_token_id if config.eos_token_id is not None else self.tokenizer.eos_token_id
        self.stop_ids = set(eos if isinstance(eos, list) else [eos])
        # transformers' penalty would skip as many generated ids as the prompt has padding. This one counts the ids
        # that it receives, which include the prompt only in plain decoding.
        penalty, self.config.repetition_penalty = self.config.repetition_penalty, 1.0
        repeats = [] if penalty in (None, 1.0) else [RepetitionPenaltyLogitsProcessor(penalty)]
        self._added = [*repeats, *logits_processor]
        self._known: dict[int, LogitsProcessorList] = {}
        model._prepare_special_tokens(self.config, True, device=execution_device(model))
        self.any_length = all(isinstance(item, _ANY_LENGTH) for item in self.processors(0))

    def processors(self, prompt_length: int) -> LogitsProcessorList:
        """The logits processors for texts whose first `prompt_length` ids are the prompt."""
        if prompt_length not in self._known:
            self._known[prompt_length] = self.model._get_logits_processor(
                self.config,
                input_ids_seq_length=prompt_length,
                logits_processor=LogitsProcessorList(self._added),
                device=execution_device(self.model),
            )
        return self._known[prompt_length]

    def choose(self, texts: Sequence[Text], logits: torch.Tensor) -> None:
        """Chooses the next id of each text and appends it.

        Args:
            texts: N texts of different lengths.
            logits: float32 (N, vocabulary).
        """
        logits = self.without_image(logits)
        scores = self._processed(texts, logits)
        tokens = self._drawn(texts, scores) if self.config.do_sample else scores.argmax(-1)
        logprobs = logits.log_softmax(-1).gather(-1, tokens[:, None])[:, 0]
        for text, token, logprob in zip(texts, tokens.tolist(), logprobs.tolist(), strict=True):
            text.ids.append(token)
            text.logprobs.append(logprob)

    def without_image(self, logits: torch.Tensor) -> torch.Tensor:
        """Masks `<image>`, which the released vocabulary does not have, in place; unchanged if `plain`."""
        if not self.plain and self.image_token_id < logits.shape[-1]:
            logits[..., self.image_token_id] = -torch.inf
        return logits

    def _processed(self, texts: Sequence[Text], logits: torch.Tensor) -> torch.Tensor:
        """Applies the processors to the logits; texts that can be processed together are grouped."""
        if not self.processors(0):
            return logits
        groups: dict[tuple[int, int], list[int]] = {}
        seen = [text.prompt + text.ids for text in texts]
        for row, text in enumerate(texts):
            alike = (0, min(len(seen[row]), 1)) if self.any_length else (len(text.prompt), len(text.ids))
            groups.setdefault(alike, []).append(row)
        scores = torch.empty_like(logits)
        for (prompt_length, _), rows in groups.items():
            longest = max(len(seen[row]) for row in rows)
            ids = [seen[row] + seen[row][:1] * (longest - len(seen[row])) for row in rows]
            known: Any = torch.tensor(ids, dtype=torch.long, device=logits.device).reshape(len(rows), longest)
            scores[rows] = self.processors(prompt_length)(known, logits[rows])
        return scores

    def _drawn(self, texts: Sequence[Text], scores: torch.Tensor) -> torch.Tensor:
        """Samples an id per row, int64 (N,), by inverse CDF with a random number seeded by (seed, position)."""
        numbers = [_number(text.seed, len(text.ids)) for text in texts]
        sums = scores.softmax(-1).cumsum(-1)
        points = torch.tensor(numbers, dtype=sums.dtype, device=sums.device)[:, None] * sums[:, -1:]
        return torch.searchsorted(sums, points, right=True)[:, 0].clamp(max=sums.shape[-1] - 1)

    def finished(self, text: Text) -> bool:
        """Whether the last id ends the text; an end of sequence is removed from it."""
        token = text.ids[-1]
        self.note_unit(text)
        if token in self.stop_ids:
            text.ids.pop()
            if math.isfinite(text.logprobs[-1]):  # a NaN stays, as the reason of the end
                text.logprobs.pop()
            text.stop = "eos"
        elif text.unit is not None and not text.whole:
            text.stop = "unit"
        elif len(text.ids) >= self.max_new_tokens:
            text.stop = "length"
        return bool(text.stop)

    def note_unit(self, text: Text) -> None:
        """Sets the text's first segment if the last id ends it, whatever follows."""
        if text.until is None or text.unit is not None:
            return
        if not text.undecided and text.ids[-1] not in _enders(self.tokenizer, text.until):
            return
        decoded = self.decode(text.ids).lstrip()
        text.undecided = text.until.undecided(decoded)
        end = text.until.end(decoded, complete=False)
        text.unit = None if end is None else decoded[:end].strip()

    def completion(self, text: Text) -> Completion:
        """The completion of a text; a text that has not ended gives a partial one without finish reason."""
        decoded = self.decode(text.ids).strip()
        return Completion(decoded, text.stop, text.ids, text.logprobs, accepted=text.accepted)

    def decode(self, ids: Sequence[int]) -> str:
        """Decodes ids to text, without special tokens."""
        return self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


@lru_cache(maxsize=16)
def _enders(tokenizer: Any, rule: StopRule) -> frozenset[int]:
    """The ids that can end a segment, judged by their pieces and by the pieces' text."""
    pieces = enumerate(tokenizer.convert_ids_to_tokens(list(range(len(tokenizer)))))
    known = [(index, piece) for index, piece in pieces if piece]
    return frozenset(
        index
        for index, piece in known
        if rule.may_end(piece) or rule.may_end(tokenizer.convert_tokens_to_string([piece]))
    )


def _number(seed: int, position: int) -> float:
    """A uniform number in [0, 1), also in float32. It is the same on every device and in every batch."""
    digest = hashlib.sha256(f"{seed}/{position}".encode()).digest()
    return min(int.from_bytes(digest[:4], "big") / 2**32, 1 - 2**-24)


def image_features(
    model: Any,
    image_embeds: torch.Tensor,
    qformer_input_ids: torch.Tensor,
    qformer_attention_mask: torch.Tensor | None = None,
) -> tuple[torch.Tensor, Any]:
    """The visual tokens of images for given texts: runs the Q-Former on queries and text, and projects its output.

    Args:
        model: A VIGC or InstructBLIP model.
        image_embeds: float (B, patches + 1, vision width), the ViT's output.
        qformer_input_ids: int64 (B, Q).
        qformer_attention_mask: int64 (B, Q).

    Returns:
        The projected query outputs, float (B, queries, text width), and the Q-Former's outputs.
    """
    image_embeds = image_embeds.to(model.qformer.dtype)
    qformer_input_ids = qformer_input_ids.to(image_embeds.device)
    with loaded(model):
        queries = model.query_tokens.expand(image_embeds.shape[0], -1, -1)
    if qformer_attention_mask is None:
        qformer_attention_mask = torch.ones_like(qformer_input_ids)
    query_mask = qformer_attention_mask.new_ones(queries.shape[:-1])
    outputs = model.qformer(
        input_ids=qformer_input_ids,
        attention_mask=torch.cat([query_mask, qformer_attention_mask], dim=1).to(image_embeds.device),
        query_embeds=queries,
        encoder_hidden_states=image_embeds,
        encoder_attention_mask=torch.ones(image_embeds.shape[:-1], dtype=torch.long, device=image_embeds.device),
        return_dict=True,
    )
    return model.language_projection(outputs.last_hidden_state[:, : queries.shape[1]]), outputs
