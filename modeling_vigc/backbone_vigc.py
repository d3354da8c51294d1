"""The model up to the head of its language model, which is what TRL calls."""

from __future__ import annotations

from typing import Any, cast

import torch
from transformers.modeling_outputs import BaseModelOutputWithPast

from .generation_vigc import PROCESSOR_ENTRIES


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
        for name in PROCESSOR_ENTRIES:
            kwargs.pop(name, None)
        outputs = model._image_outputs(pixel_values, image_embeds, qformer_input_ids, qformer_attention_mask, False)
        model._check_places(input_ids)
        embeds = model.get_input_embeddings()(input_ids)
        places = cast(Any, model).get_placeholder_mask(input_ids, embeds)
        embeds = embeds.masked_scatter(places, cast(Any, outputs.pooler_output).to(embeds.device, embeds.dtype))
        return model.language_model.get_decoder()(inputs_embeds=embeds, attention_mask=attention_mask, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name == "_model" or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._model, name)
