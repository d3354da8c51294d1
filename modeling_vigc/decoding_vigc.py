"""Text from pictures and prompts: one batch, every row with its own stop."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import (
    DynamicCache,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
)

from .sentences_vigc import UnitRule


@dataclass
class Written:
    """What one row wrote in one step.

    Args:
        ids: The generated ids, up to the end of sequence (not included) or the row's stop.
        logprobs: Log-probability of each id under the model (before penalties and temperature), natural logarithm.
        text: The decoded text, stripped.
        stop: "unit" (the sentence or paragraph is complete), "eos" or "length".
    """

    ids: list[int]
    logprobs: list[float]
    text: str
    stop: str


class _OnlyWords(LogitsProcessor):
    """Takes `<image>`, which the released vocabulary does not have, out of beam search's log-probabilities."""

    def __init__(self, token_id: int) -> None:
        self.token_id = token_id

    def __call__(self, input_ids: torch.LongTensor, scores: torch.Tensor) -> torch.Tensor:
        # Shared out to the rest as if the softmax had never seen it; what other processors forbade stays forbidden.
        if self.token_id >= scores.shape[-1]:
            return scores
        taken = scores[:, self.token_id : self.token_id + 1].exp()
        scores = scores - torch.log1p(-taken)
        scores[:, self.token_id] = -torch.inf
        return scores


class Writer:
    """Writes texts with one model, processor and decoding configuration.

    Args:
        model: A VIGC model or a stock InstructBLIP with a decoder-only language model.
        processor: Makes prompts into ids (`encode_prompts`) and holds the language model's `tokenizer`.
        config: The decoding settings, complete (see `GenerationMixin._prepare_generation_config`).
        rule: Where a unit ends.
        logits_processor: The caller's own, after those that `config` asks for.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        config: GenerationConfig,
        rule: UnitRule,
        logits_processor: Sequence[LogitsProcessor] = (),
    ) -> None:
        self.model, self.processor, self.rule = model, processor, rule
        self.config = copy.deepcopy(config)
        self.tokenizer = processor.tokenizer
        # Older stock configurations do not say it.
        named = model.config.image_token_index
        self.image_token_id = self.tokenizer.convert_tokens_to_ids("<image>") if named is None else named
        pad = self.tokenizer.pad_token_id
        self.pad_token_id: int = self.tokenizer.eos_token_id if pad is None else pad
        self.max_new_tokens: int = config.max_new_tokens or 249
        # transformers' own penalty would count prompts, or spare as many generated ids as a prompt has padding; as in
        # the release it counts what this call wrote.
        penalty, self.config.repetition_penalty = self.config.repetition_penalty, 1.0
        repeats = [] if penalty in (None, 1.0) else [RepetitionPenaltyLogitsProcessor(penalty)]
        self.custom_processors = LogitsProcessorList([*repeats, *logits_processor])
        eos = config.eos_token_id if config.eos_token_id is not None else self.tokenizer.eos_token_id
        self.stop_ids = set(eos if isinstance(eos, list) else [eos])
        pieces = self.tokenizer.convert_ids_to_tokens(list(range(len(self.tokenizer))))
        self.enders = {index for index, piece in enumerate(pieces) if piece and rule.may_end(piece)}

    @torch.no_grad()
    def write(
        self, prompts: list[str], image_embeds: torch.Tensor, until_unit: list[bool], seeds: list[int]
    ) -> list[Written]:
        """Continues each prompt.

        Args:
            prompts: B texts, for the Q-Former and the language model alike.
            image_embeds: float (B, patches + 1, vision width), the ViT's output.
            until_unit: Whether a row is over at the end of its first unit. Beam search writes on to the end.
            seeds: One for each row, for sampling: a row's text does not depend on its neighbours.
        """
        inputs = self.processor.encode_prompts(prompts).to(self.model.device)
        features, _ = image_features(
            self.model, image_embeds, inputs["qformer_input_ids"], inputs["qformer_attention_mask"]
        )
        places = inputs["input_ids"] == self.image_token_id
        embeds = self.model.get_input_embeddings()(inputs["input_ids"].masked_fill(places, 0))
        places, mask = places.to(embeds.device), inputs["attention_mask"].to(embeds.device)
        embeds = embeds.masked_scatter(places.unsqueeze(-1), features.to(embeds.device, embeds.dtype))
        if (self.config.num_beams or 1) > 1:
            return self._beams(embeds, mask)
        return self._one_by_one(embeds, mask, until_unit, seeds)

    def _one_by_one(
        self, embeds: torch.Tensor, mask: torch.Tensor, until_unit: list[bool], seeds: list[int]
    ) -> list[Written]:
        """Greedy search and sampling. Rows that are done leave the batch."""
        processors = self._processors()
        rows = [_Text(until) for until in until_unit]
        if self.config.do_sample:
            for row, seed in zip(rows, seeds, strict=True):
                row.generator = torch.Generator(embeds.device).manual_seed(seed)
        done = list(rows)
        cache = DynamicCache(config=self.model.language_model.config)
        step: dict[str, Any] = {"inputs_embeds": embeds}
        positions = position_ids(mask)
        while rows:
            logits = (
                self.model.language_model(
                    **step,
                    attention_mask=mask,
                    position_ids=positions,
                    past_key_values=cache,
                    use_cache=True,
                    logits_to_keep=1,
                )
                .logits[:, -1]
                .float()
            )
            tokens = self._choose(rows, logits, processors).to(mask.device)
            kept = [index for index, row in enumerate(rows) if not self._finished(row)]
            if len(kept) < len(rows):
                rows = [rows[index] for index in kept]
                where = torch.tensor(kept, device=mask.device, dtype=torch.long)
                tokens, mask, positions = tokens[where], mask[where], positions[where]
                if rows:
                    cache.batch_select_indices(where)
            mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
            positions = positions[:, -1:] + 1
            step = {"input_ids": tokens[:, None]}
        return [Written(row.ids, row.logprobs, self._text(row.ids).strip(), row.stop) for row in done]

    def _choose(self, rows: list[_Text], logits: torch.Tensor, processors: LogitsProcessorList) -> torch.Tensor:
        """Adds one id to each row; returns them, int64 (rows,)."""
        self._exclude_image_token(logits)
        written: Any = torch.tensor([row.ids for row in rows], dtype=torch.long, device=logits.device)
        scores = processors(written, logits)
        if self.config.do_sample:
            chances = scores.softmax(-1).nan_to_num(1.0)  # what is no number shows in the log-probability
            tokens = torch.cat(
                [
                    torch.multinomial(chance, 1, generator=row.generator)
                    for chance, row in zip(chances, rows, strict=True)
                ]
            )
        else:
            tokens = scores.argmax(-1)
        logprobs = logits.log_softmax(-1).gather(-1, tokens[:, None])[:, 0]
        for row, token, logprob in zip(rows, tokens.tolist(), logprobs.tolist(), strict=True):
            row.ids.append(token)
            row.logprobs.append(logprob)
        return tokens

    def _finished(self, row: _Text) -> bool:
        token = row.ids[-1]
        if token in self.stop_ids:
            row.ids.pop()
            if math.isfinite(row.logprobs[-1]):  # else it tells why this is the end
                row.logprobs.pop()
            row.stop = "eos"
        elif row.until_unit and (row.undecided or token in self.enders) and self._unit_ended(row):
            row.stop = "unit"
        elif len(row.ids) >= self.max_new_tokens:
            row.stop = "length"
        return bool(row.stop)

    def _unit_ended(self, row: _Text) -> bool:
        text = self._text(row.ids).lstrip()
        row.undecided = self.rule.undecided(text)
        return self.rule.end(text, complete=False) is not None

    def _beams(self, embeds: torch.Tensor, mask: torch.Tensor) -> list[Written]:
        """Beam search by transformers, as the released code runs it: each row to its end."""
        config = copy.deepcopy(self.config)
        config.max_length, config.max_new_tokens = None, self.max_new_tokens
        config.return_dict_in_generate = False
        config.eos_token_id = sorted(self.stop_ids)
        config.pad_token_id = self.pad_token_id
        processors = LogitsProcessorList([_OnlyWords(self.image_token_id), *self.custom_processors])
        sequences = self.model.language_model.generate(
            inputs_embeds=embeds, attention_mask=mask, generation_config=config, logits_processor=processors
        )
        ids = [self._until_stop(row) for row in sequences.tolist()]
        return [
            Written(row, logprobs, self._text(row).strip(), "eos" if len(row) < sequences.shape[1] else "length")
            for row, logprobs in zip(ids, self._score(embeds, mask, ids), strict=True)
        ]

    def _score(self, embeds: torch.Tensor, mask: torch.Tensor, ids: list[list[int]]) -> list[list[float]]:
        """Log-probabilities of the given ids behind their prompts, in one pass."""
        rows = [torch.tensor(row, dtype=torch.long) for row in ids]
        targets = torch.nn.utils.rnn.pad_sequence(rows, True, self.pad_token_id).to(embeds.device)
        mask = torch.cat([mask, torch.ones_like(targets)], dim=1)
        logits = self.model.language_model(
            inputs_embeds=torch.cat([embeds, self.model.get_input_embeddings()(targets)], dim=1),
            attention_mask=mask,
            position_ids=position_ids(mask),
            use_cache=False,
            logits_to_keep=targets.shape[1] + 1,
        ).logits[:, :-1]
        scores = []
        for row, row_logits in zip(rows, logits, strict=True):  # a row at a time: in float32 they are large
            known = row_logits[: len(row)].float()
            self._exclude_image_token(known)
            scores.append(known.log_softmax(-1).gather(-1, row.to(known.device)[:, None])[:, 0].tolist())
        return scores

    def _exclude_image_token(self, logits: torch.Tensor) -> None:
        if self.image_token_id < logits.shape[-1]:
            logits[..., self.image_token_id] = -torch.inf

    def _processors(self) -> LogitsProcessorList:
        """What the decoding settings ask for, over the generated ids alone."""
        self.model._prepare_special_tokens(self.config, True, device=self.model.device)
        return self.model._get_logits_processor(
            self.config, input_ids_seq_length=0, logits_processor=self.custom_processors, device=self.model.device
        )

    def _until_stop(self, ids: list[int]) -> list[int]:
        ends = [index for index, token in enumerate(ids) if token in self.stop_ids or token == self.pad_token_id]
        return ids[: ends[0]] if ends else ids

    def _text(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def kept_tokens(self, written: Written, kept: str) -> int:
        """How many of the ids make up `kept`, the beginning of the text, white space aside."""
        bare = "".join(kept.split())
        if bare == "".join(written.text.split()):
            return len(written.ids)
        for count in range(len(written.ids) - 1, 0, -1):
            if not "".join(self._text(written.ids[:count]).split()).startswith(bare):
                return count + 1
        return min(1, len(written.ids))


@dataclass(slots=True)
class _Text:
    """The text of one row while it is being written."""

    until_unit: bool
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    stop: str = ""
    undecided: bool = False
    generator: torch.Generator | None = None


def position_ids(attention_mask: torch.Tensor) -> torch.Tensor:
    """Places of the tokens of left-padded rows, int64 like the mask (B, T): 0, 1, 2, ...; 1 on padding."""
    return (attention_mask.cumsum(-1) - 1).masked_fill(attention_mask == 0, 1)


def image_features(
    model: Any,
    image_embeds: torch.Tensor,
    qformer_input_ids: torch.Tensor,
    qformer_attention_mask: torch.Tensor | None = None,
) -> tuple[torch.Tensor, Any]:
    """The picture as the text makes the Q-Former see it: queries and text in, visual tokens for the language model out.

    Args:
        model: A VIGC or InstructBLIP model.
        image_embeds: float (B, patches + 1, vision width), the ViT's output.
        qformer_input_ids: int64 (B, Q).
        qformer_attention_mask: int64 (B, Q).

    Returns:
        The projected query outputs, float (B, queries, text width), and the Q-Former's own outputs.
    """
    image_embeds = image_embeds.to(model.qformer.dtype)
    qformer_input_ids = qformer_input_ids.to(image_embeds.device)
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
