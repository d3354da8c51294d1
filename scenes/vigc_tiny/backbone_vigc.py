"""The model up to the head of its language model, which is what TRL calls, and the loss of a part of its output."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch.utils.checkpoint import checkpoint
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.models.instructblip.modeling_instructblip import InstructBlipForConditionalGenerationModelOutput

from .generation_vigc import PROCESSOR_ENTRIES

# With checkpointing, labels whose scores of the vocabulary are held at a time.
_AT_A_TIME = 512


class Backbone:
    """The model up to the head of its language model, as a callable; in all else the model itself.

    Args:
        model: A VIGC model.
    """

    def __init__(self, model: Any) -> None:
        self._model = model

    def __call__(
        self,
        pixel_values: torch.Tensor | None = None,
        qformer_input_ids: torch.LongTensor | None = None,
        qformer_attention_mask: torch.LongTensor | None = None,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.LongTensor | None = None,
        image_embeds: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """As `forward` of the model; returns `last_hidden_state`, float (B, T, text width)."""
        model = self._model
        kwargs = {name: value for name, value in kwargs.items() if name not in PROCESSOR_ENTRIES}
        model._check_places(input_ids)
        features = model._image_outputs(pixel_values, image_embeds, qformer_input_ids, qformer_attention_mask, False)
        return hidden_states(model, features, input_ids, attention_mask, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name == "_model" or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._model, name)


def hidden_states(
    model: Any, features: Any, input_ids: Any, attention_mask: torch.LongTensor | None, **kwargs: Any
) -> BaseModelOutputWithPast:
    """The language model's output before its head, with the visual tokens (`pooler_output`) in their places."""
    embeds = model.get_input_embeddings()(input_ids)
    places = model.get_placeholder_mask(input_ids, embeds)
    embeds = embeds.masked_scatter(places, features.pooler_output.to(embeds.device, embeds.dtype))
    return model.language_model.get_decoder()(inputs_embeds=embeds, attention_mask=attention_mask, **kwargs)


def loss_alone(
    model: Any,
    features: Any,
    input_ids: torch.LongTensor | None,
    attention_mask: torch.LongTensor | None,
    labels: torch.LongTensor | None,
    num_items_in_batch: torch.Tensor | int | None,
    **kwargs: Any,
) -> InstructBlipForConditionalGenerationModelOutput:
    """The loss of the model's `forward`, from scores of the vocabulary at the labels' places alone.

    With activation checkpointing those are made a part at a time, and again for the backward pass.
    """
    if labels is None or input_ids is None:
        raise ValueError("skip_logits=True returns the loss alone: give labels and input_ids.")
    hidden: Any = hidden_states(model, features, input_ids, attention_mask, use_cache=False, **kwargs).last_hidden_state
    targets = torch.nn.functional.pad(labels, (0, 1), value=-100)[:, 1:].to(hidden.device)
    hidden, targets = hidden[targets != -100], targets[targets != -100]

    def loss_of(hidden: torch.Tensor, targets: torch.Tensor, count: torch.Tensor | int | None) -> torch.Tensor:
        logits = model.language_model.lm_head(hidden)
        forbid_image(model, logits)
        return model.loss_function(logits, None, logits.shape[-1], count, shift_labels=targets)

    checkpointed = getattr(model.language_model.get_decoder(), "gradient_checkpointing", False)
    if not (model.training and checkpointed):
        loss = loss_of(hidden, targets, num_items_in_batch)
    else:
        count = len(targets) if num_items_in_batch is None else num_items_in_batch
        parts = zip(hidden.split(_AT_A_TIME), targets.split(_AT_A_TIME), strict=True)
        losses = [checkpoint(loss_of, *part, count, use_reentrant=False) for part in parts]
        loss = torch.stack(losses).sum()
    return InstructBlipForConditionalGenerationModelOutput(loss=cast(Any, loss))


def forbid_image(model: Any, logits: torch.Tensor) -> None:
    """Gives `<image>`, which the released vocabulary does not have, no chance; in place."""
    if model.config.image_token_index is not None:
        logits[..., model.config.image_token_index] = torch.finfo(logits.dtype).min
