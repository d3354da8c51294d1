"""The model without the language model's head, which TRL calls, and the loss without the logits of all positions."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch.utils.checkpoint import checkpoint
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.instructblip.modeling_instructblip import (
    BaseModelOutputWithVisionQformerOutputs,
    InstructBlipForConditionalGenerationModelOutput,
)

from .decoding_vigc import image_features
from .generation_vigc import PROCESSOR_ENTRIES

# With activation checkpointing: number of labels whose logits are in memory at a time.
_AT_A_TIME = 512


class Backbone:
    """The model without the language model's head, as a callable; all other attributes are the model's.

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
        inputs_embeds: torch.Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Like the model's `forward`, but returns `last_hidden_state`, float (B, T, text width)."""
        model = self._model
        kwargs, as_dict = language_kwargs(model, kwargs)
        features = image_outputs(
            model,
            model._check_places(input_ids),
            pixel_values,
            image_embeds,
            qformer_input_ids,
            qformer_attention_mask,
            interpolate_pos_encoding,
        )
        outputs = hidden_states(model, features, input_ids, attention_mask, inputs_embeds, **kwargs)
        return outputs if as_dict else outputs.to_tuple()

    def __getattr__(self, name: str) -> Any:
        if name == "_model" or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._model, name)


def language_kwargs(model: Any, kwargs: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    """The keyword arguments of the language model, and whether to return a dict.

    Arguments that are None are dropped: wrappers such as PEFT's pass None for missing ones. A `return_dict` of None
    means the default of the model.
    """
    return_dict = kwargs.pop("return_dict", None)
    given = {name: value for name, value in kwargs.items() if value is not None and name not in PROCESSOR_ENTRIES}
    return given, bool(model.config.return_dict if return_dict is None else return_dict)


def rows_with_image(config: Any, input_ids: torch.LongTensor | None) -> torch.Tensor | None:
    """The rows that have `<image>` ids, bool (B,); None if all have.

    A row with too few or too many ids would lose its image, or get another row's.

    Raises:
        ValueError: A row has some, but not `config.num_query_tokens` ids, or `config.image_token_index` is not set.
    """
    if input_ids is None:
        return None
    if config.image_token_index is None:
        raise ValueError("config.image_token_index is not set: give it the id of the tokenizer's '<image>'.")
    counts = (input_ids == config.image_token_index).sum(-1).tolist()
    if not set(counts) <= {0, config.num_query_tokens}:
        raise ValueError(
            f"Each row of input_ids needs {config.num_query_tokens} '<image>' ids, or none if it has no image, but "
            f"they have {counts}: call the processor with images and texts together."
        )
    return None if all(counts) else torch.tensor(counts, device=input_ids.device) > 0


def image_outputs(
    model: Any,
    shown: torch.Tensor | None,
    pixel_values: torch.Tensor | None,
    image_embeds: torch.Tensor | None,
    qformer_input_ids: torch.LongTensor | None,
    qformer_attention_mask: torch.LongTensor | None,
    interpolate_pos_encoding: bool,
) -> BaseModelOutputWithVisionQformerOutputs:
    """The visual tokens (`pooler_output`) of the rows with an image, concatenated.

    Args:
        model: A VIGC model.
        shown: The rows with an image, from [`rows_with_image`].
        pixel_values: float (images, 3, H, W).
        image_embeds: Instead of `pixel_values`: float (images, patches + 1, vision width).
        qformer_input_ids: int64 (B, Q), or (images, Q).
        qformer_attention_mask: int64, of the same shape.
        interpolate_pos_encoding: As in `forward`.

    Raises:
        ValueError: Images or the Q-Former's texts are missing, images are given in both forms, or their number is not
            the number of rows with `<image>` ids.
    """
    if qformer_input_ids is None:
        raise ValueError("The Q-Former needs the text too: give the qformer_input_ids that the processor returns.")
    if pixel_values is not None and image_embeds is not None:
        raise ValueError("Give the images either as pixel_values or as image_embeds (and not both).")
    if pixel_values is not None:
        image_embeds = model.get_image_embeds(pixel_values, interpolate_pos_encoding)
    rows = len(qformer_input_ids) if shown is None else int(shown.sum())
    if image_embeds is None and (shown is None or rows):
        raise ValueError("Give the images either as pixel_values or as image_embeds (and not both).")
    if image_embeds is None:
        return _no_images(model, qformer_input_ids, qformer_attention_mask)
    if shown is not None and len(image_embeds) != rows:
        raise ValueError(
            f"{len(image_embeds)} images, but {rows} of {len(shown)} rows of input_ids have '<image>' ids: call the "
            "processor with images and texts together."
        )
    ids, mask = qformer_input_ids, qformer_attention_mask
    if shown is not None and len(ids) == len(shown):
        ids, mask = (cast(Any, None if one is None else one[shown.to(one.device)]) for one in (ids, mask))
    features, qformer_outputs = image_features(model, image_embeds, ids, mask)
    return _outputs(image_embeds, features, qformer_outputs)


def _no_images(model: Any, ids: torch.Tensor, mask: torch.Tensor | None) -> BaseModelOutputWithVisionQformerOutputs:
    """Empty visual tokens, for a batch without images.

    In training they are an empty slice of those of a blank image, so that the loss depends on all trained weights:
    otherwise a step without images would fail if only the Q-Former is trained, and DDP would wait for its gradients.
    """
    vision, text = model.config.vision_config, model.get_input_embeddings().weight
    patches = (vision.image_size // vision.patch_size) ** 2 + 1
    blank = text.new_zeros(1, patches, vision.hidden_size)
    if model.training and torch.is_grad_enabled():
        features, outputs = image_features(model, blank, ids[:1], None if mask is None else mask[:1])
        return _outputs(blank[:0], features[:0], outputs)
    return _outputs(blank[:0], text.new_zeros(0, model.config.num_query_tokens, text.shape[-1]), None)


def _outputs(
    image_embeds: torch.Tensor, features: torch.Tensor, qformer_outputs: Any
) -> BaseModelOutputWithVisionQformerOutputs:
    return BaseModelOutputWithVisionQformerOutputs(
        last_hidden_state=cast(Any, image_embeds),
        pooler_output=cast(Any, features),
        vision_outputs=BaseModelOutputWithPooling(last_hidden_state=cast(Any, image_embeds)),
        qformer_outputs=qformer_outputs,
    )


def hidden_states(
    model: Any,
    features: Any,
    input_ids: Any,
    attention_mask: torch.LongTensor | None,
    inputs_embeds: torch.Tensor | None = None,
    **kwargs: Any,
) -> Any:
    """The language model's output before its head. Visual tokens (`pooler_output`) replace `<image>` embeddings."""
    embeds = model.get_input_embeddings()(input_ids) if inputs_embeds is None else inputs_embeds
    places = model.get_placeholder_mask(input_ids, embeds)
    embeds = embeds.masked_scatter(places, features.pooler_output.to(embeds.device, embeds.dtype))
    decoder = model.language_model.get_decoder()
    return decoder(inputs_embeds=embeds, attention_mask=attention_mask, **{**kwargs, "return_dict": True})


def loss_alone(
    model: Any,
    features: Any,
    input_ids: torch.LongTensor | None,
    attention_mask: torch.LongTensor | None,
    labels: torch.LongTensor | None,
    num_items_in_batch: torch.Tensor | int | None,
    inputs_embeds: torch.Tensor | None = None,
    **kwargs: Any,
) -> InstructBlipForConditionalGenerationModelOutput:
    """The loss of the model's `forward`, with logits computed only at the positions of labels.

    With activation checkpointing, logits are computed in chunks, and again in the backward pass.
    """
    if labels is None or input_ids is None:
        raise ValueError("skip_logits=True only returns the loss: give labels and input_ids.")
    kwargs["use_cache"] = False
    hidden = hidden_states(model, features, input_ids, attention_mask, inputs_embeds, **kwargs).last_hidden_state
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
    """Sets the logit of `<image>`, which the released vocabulary does not have, to the minimum, in place."""
    if model.config.image_token_index is not None:
        logits[..., model.config.image_token_index] = torch.finfo(logits.dtype).min
