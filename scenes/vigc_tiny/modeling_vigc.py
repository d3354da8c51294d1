"""The VIGC model: transformers' InstructBLIP with the released code's numerics, and VIG and VIC in `generate`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, cast

import torch
from torch import nn
from transformers import GenerationConfig, GenerationMixin, InstructBlipForConditionalGeneration, LogitsProcessor
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.models.instructblip.modeling_instructblip import (
    InstructBlipForConditionalGenerationModelOutput,
)

from .backbone_vigc import Backbone, forbid_image, image_outputs, language_kwargs, loss_alone, rows_with_image
from .configuration_vigc import VigcConfig
from .decoding_vigc import Decoding
from .engine_vigc import Engine
from .generation_vigc import (
    IQF_SETTINGS,
    VigcRequest,
    decoding_mode,
    given_settings,
    requests_of,
    split_settings,
)
from .outputs_vigc import VigcGenerateOutput, to_output
from .placement_vigc import Placed, loaded
from .requests_vigc import Rollout, Sample
from .rollout_vigc import RolloutSettings, iqf, vig_alone, vig_then_iqf
from .speculative_vigc import AHEAD_LANES
from .storing_vigc import Stored

# Tensors that VIG and VIC compute again at every step.
_PLAIN_INPUTS = ("attention_mask", "qformer_input_ids", "qformer_attention_mask")
# Settings of transformers' `generate` that would have no effect on VIG and VIC.
_NOT_CORRECTING = (
    "assistant_model",
    "guidance_scale",
    "max_length",
    "max_time",
    "output_attentions",
    "output_hidden_states",
    "output_logits",
    "output_scores",
    "prompt_lookup_num_tokens",
    "stop_strings",
    "stopping_criteria",
    "streamer",
)


# `GenerationMixin` is a direct base although it is inherited: otherwise the Auto classes create a subclass of the same
# name for remote code, whose objects cannot be pickled.
class VigcForConditionalGeneration(Stored, Placed, InstructBlipForConditionalGeneration, GenerationMixin):
    """ViT -> Q-Former -> projection -> language model, with VIG and VIC in `generate`.

    The weights have InstructBLIP's names and shapes, so that any InstructBLIP checkpoint of the Hub with a decoder-only
    language model can be loaded.
    """

    config_class = VigcConfig
    config: VigcConfig

    def __init__(self, config: VigcConfig) -> None:
        super().__init__(config)
        self.vision_model.post_layernorm.eps = config.vision_output_layer_norm_eps

    def freeze(self, policy: str = "paper", train_ln_vision: bool = False) -> None:
        """Sets which parameters are trained.

        Args:
            policy: "paper": Q-Former, queries and projection; the ViT and the language model are frozen (section
                "Implementation Details" of the paper). "none": all parameters.
            train_ln_vision: Also train the LayerNorm after the ViT, as the released code does unless `freeze_vit_ln`
                is set.

        Raises:
            ValueError: The policy is unknown.
        """
        if policy not in ("paper", "none"):
            raise ValueError(f"freeze policy {policy!r} is not known: use 'paper' or 'none'.")
        trained: tuple[str, ...] = ("qformer.", "query_tokens", "language_projection.")
        if train_ln_vision:
            trained += ("vision_model.post_layernorm.",)
        for name, parameter in self.named_parameters():
            parameter.requires_grad = policy == "none" or name.startswith(trained)

    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        qformer_input_ids: torch.LongTensor | None = None,
        qformer_attention_mask: torch.LongTensor | None = None,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.LongTensor | None = None,
        image_embeds: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        interpolate_pos_encoding: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
        skip_logits: bool = False,
        **kwargs: Any,
    ) -> InstructBlipForConditionalGenerationModelOutput | tuple:
        """The forward pass.

        Args:
            pixel_values: float (B, 3, H, W).
            qformer_input_ids: int64 (B, Q), the text input of the Q-Former.
            qformer_attention_mask: int64 (B, Q).
            input_ids: int64 (B, T); a row with an image has `config.num_query_tokens` `<image>` ids, other rows none.
            attention_mask: int64 (B, T).
            image_embeds: float (B, patches + 1, vision width) from [`get_image_embeds`], instead of `pixel_values`.
            inputs_embeds: float (B, T, text width), instead of the embeddings of `input_ids`.
            labels: int64 (B, T), -100 for positions without loss.
            interpolate_pos_encoding: Interpolate the ViT's position embeddings for images of another size.
            num_items_in_batch: Divisor of the summed loss (the Trainer passes it); by default the number of labels.
            skip_logits: Only return the loss, and compute logits only at labels, which needs less memory and time.
            kwargs: Arguments of the language model.

        Returns:
            `loss`, the mean negative log-likelihood over all labels of the batch, as in the release (not per row), and
            `logits`, float (B, T, vocabulary), masked at `<image>`, which the released vocabulary does not have.

        Raises:
            ValueError: Images are given twice; or images, texts, or `labels` with `skip_logits`, are missing.
        """
        kwargs, as_dict = language_kwargs(self, kwargs)
        given = (pixel_values, image_embeds, qformer_input_ids, qformer_attention_mask, interpolate_pos_encoding)
        features = image_outputs(self, self._check_places(input_ids), *given)
        if skip_logits:
            outputs: Any = loss_alone(
                self, features, input_ids, attention_mask, labels, num_items_in_batch, inputs_embeds, **kwargs
            )
            return outputs if as_dict else outputs.to_tuple()
        outputs = super().forward(
            pixel_values=None,
            qformer_input_ids=qformer_input_ids,
            input_ids=input_ids,
            attention_mask=attention_mask,
            inputs_embeds=inputs_embeds,
            mm_encoder_outputs={"image": features},
            return_dict=True,
            **kwargs,
        )
        forbid_image(self, outputs.logits)
        if labels is not None:
            outputs.loss = self.loss_function(outputs.logits, labels, outputs.logits.shape[-1], num_items_in_batch)
        return outputs if as_dict else outputs.to_tuple()

    def get_image_embeds(self, pixel_values: torch.Tensor, interpolate_pos_encoding: bool = False) -> torch.Tensor:
        """The ViT's normalised output, float (B, patches + 1, vision width), which does not depend on any text."""
        return self.vision_model(
            pixel_values, interpolate_pos_encoding=interpolate_pos_encoding, return_dict=True
        ).last_hidden_state

    def _check_places(self, input_ids: torch.LongTensor | None) -> torch.Tensor | None:
        return rows_with_image(self.config, input_ids)

    @property
    def base_model(self) -> nn.Module | Callable[..., BaseModelOutputWithPast]:
        """The model without the language model's head; TRL calls it to get `last_hidden_state`."""
        return Backbone(self)

    @torch.no_grad()
    def generate(
        self,
        pixel_values: torch.Tensor | None = None,
        input_ids: torch.LongTensor | None = None,
        image_embeds: torch.Tensor | None = None,
        processor: Any = None,
        mode: str | None = None,
        task: list[str] | None = None,
        questions: list[str] | None = None,
        correct: bool | None = None,
        row_seeds: list[int] | None = None,
        generation_config: GenerationConfig | None = None,
        logits_processor: list[LogitsProcessor] | None = None,
        **kwargs: Any,
    ) -> VigcGenerateOutput | torch.Tensor:
        """Generates questions with answers (VIG) and corrects them (VIC), answers given questions, or decodes plainly.

        Args:
            pixel_values: float (B, 3, H, W). The ViT runs once for all steps.
            input_ids: int64 (B, T), the prompt, with which `sequences` begins.
            image_embeds: float (B, patches + 1, vision width) from [`get_image_embeds`], instead of `pixel_values`.
            processor: The model's processor; needed for VIG and VIC.
            mode: "vig", "vic" or "plain". The processor returns it, and the following two.
            task: The task type of each row.
            questions: The question of each row.
            correct: True for VIG and VIC, False for plain decoding like InstructBLIP; None: True with a processor.
            row_seeds: Seeds of sampling, an integer per row; by default drawn by torch.
            generation_config: Replaces the model's generation config.
            logits_processor: Additional processors, applied after those of the decoding settings.
            kwargs: Decoding and `iqf_*` settings, and the processor's other tensors, which only plain decoding uses.

        Returns:
            `sequences`, int64 (B, T): the ids of the prompt and of the final text; with `return_dict_in_generate=True`
            a [`VigcGenerateOutput`] (plain decoding: transformers' output).

        Raises:
            ValueError: Settings are unknown or contradict each other, or an entry is missing.
        """
        mode = decoding_mode(mode, correct, processor)
        if generation_config is not None:
            kwargs = {**given_settings(generation_config), **kwargs}
        if mode == "plain":
            kwargs = {name: value for name, value in kwargs.items() if name not in IQF_SETTINGS}
            return self._decode_plainly(pixel_values, input_ids, logits_processor, kwargs)
        stretch = kwargs.pop("interpolate_pos_encoding", False)
        engine = self.engine(processor, AHEAD_LANES, logits_processor)
        settings = self._rollout_settings(engine, processor, kwargs)
        if image_embeds is None:
            if pixel_values is None:
                raise ValueError("There are no images: pass pixel_values (or image_embeds) to generate.")
            image_embeds = self.get_image_embeds(pixel_values, stretch)
        seeds: Any = torch.randint(2**31, (image_embeds.shape[0],)) if row_seeds is None else row_seeds
        requests = requests_of(mode, image_embeds, task, questions, seeds)
        engine.max_slots = max(len(requests), AHEAD_LANES)
        rows = dict(engine.run(_rollout(request, settings) for request in requests))
        ids = torch.empty(len(requests), 0, dtype=torch.long, device=self.device) if input_ids is None else input_ids
        output = to_output([rows[request] for request in requests], processor, settings.iqf, mode, ids)
        as_dict = engine.decoding(settings.decoding).config.return_dict_in_generate
        return output if as_dict else cast(torch.Tensor, output.sequences)

    def _decode_plainly(
        self,
        pixel_values: torch.Tensor | None,
        input_ids: torch.LongTensor | None,
        logits_processor: list[LogitsProcessor] | None,
        settings: dict[str, Any],
    ) -> torch.Tensor:
        if pixel_values is None:
            raise ValueError("Plain decoding needs pixel_values: image_embeds are for VIG and VIC only.")
        settings |= {"generation_config": self._decoding_config(settings), "logits_processor": logits_processor}
        with loaded(self):
            return super().generate(pixel_values, input_ids=input_ids, **settings)

    def generate_stream(
        self,
        requests: Iterable[VigcRequest | Mapping[str, Any] | None],
        processor: Any,
        max_slots: int = 32,
        generation_config: GenerationConfig | None = None,
        logits_processor: list[LogitsProcessor] | None = None,
        **kwargs: Any,
    ) -> Iterator[tuple[VigcRequest, Sample]]:
        """Generates any number of samples, `max_slots` at a time; a finished one is replaced by the next at once.

        Which requests share a batch depends only on their order, not on when they arrive.

        Args:
            requests: The requests, read when a slot is free; dicts of the fields of [`VigcRequest`] are allowed. None
                means that the next request depends on earlier samples and is not known yet. It must not come when all
                of those are finished.
            processor: The model's processor.
            max_slots: Number of texts generated at a time; with beams, each takes as many sequences of the batch.
            generation_config: Replaces the model's generation config.
            logits_processor: Additional processors. They are called with texts of equal length, including texts that
                were begun ahead and may be discarded.
            kwargs: Decoding and `iqf_*` settings, as in `generate`.

        Yields:
            Each request, as a [`VigcRequest`], with its sample, in the order in which they end.

        Raises:
            ValueError: Settings are unknown or contradict each other, or an entry is missing.
        """
        if generation_config is not None:
            kwargs = {**given_settings(generation_config), **kwargs}
        engine = self.engine(processor, max_slots, logits_processor)
        known: dict[str, RolloutSettings] = {}

        def rollouts() -> Iterator[Rollout[tuple[VigcRequest, Sample]] | None]:
            for request in requests:
                if request is None:
                    yield None
                    continue
                if isinstance(request, Mapping):
                    request = VigcRequest(**request)
                given = {**kwargs, **request.settings}
                name = repr(sorted(given.items()))
                if name not in known:
                    known[name] = self._rollout_settings(engine, processor, given)
                yield _rollout(request, known[name])
                yield None  # each request is a batch of its own

        return engine.run(rollouts())

    def engine(self, processor: Any, max_slots: int, logits_processor: list[LogitsProcessor] | None = None) -> Engine:
        """The engine that runs rollouts with this model, `max_slots` requests at a time.

        Args:
            processor: The model's processor.
            max_slots: Number of requests decoded at a time.
            logits_processor: Additional processors, called with texts of equal length.
        """

        def decoding(given: Mapping[str, Any], plain: bool) -> Decoding:
            return Decoding(self, processor, self._rollout_config(given), logits_processor or (), plain)

        return Engine(self, processor, max_slots, decoding)

    def _rollout_settings(self, engine: Engine, processor: Any, given: Mapping[str, Any]) -> RolloutSettings:
        """The rollout settings from `given` IQF and decoding settings, which must all be known."""
        iqf, decoding = split_settings(self.generation_config, given)
        return RolloutSettings(processor, iqf, decoding, engine.decoding(decoding).max_new_tokens)

    def _rollout_config(self, kwargs: Mapping[str, Any]) -> GenerationConfig:
        """The decoding settings of VIG and VIC. All of `kwargs` must be known and have an effect."""
        given = {name: value for name, value in kwargs.items() if name not in _PLAIN_INPUTS}
        refused = [name for name in _NOT_CORRECTING if given.get(name)]
        config = self._decoding_config(given)
        refused += list(given)
        if (config.num_return_sequences or 1) > 1:
            refused.append("num_return_sequences > 1")
        if config.do_sample and (config.num_beams or 1) > 1:
            refused.append("do_sample with num_beams > 1")
        if refused:
            listed = ", ".join(refused)
            raise ValueError(f"Rollouts do not support {listed}: remove it, or call generate(..., correct=False).")
        if self.training and any(getattr(module, "gradient_checkpointing", False) for module in self.modules()):
            raise ValueError(
                "Gradient checkpointing in training mode disables the cache, which generation needs: call model.eval()."
            )
        return config

    def _decoding_config(self, kwargs: dict[str, Any]) -> GenerationConfig:
        """The complete decoding settings of a call. Removes the known ones from `kwargs`."""
        counts_prompt = "max_length" in kwargs and "max_new_tokens" not in kwargs
        config, unknown = cast(Any, self)._prepare_generation_config(None, **kwargs)
        for name in set(kwargs) - set(unknown):
            del kwargs[name]
        if counts_prompt:
            config.max_new_tokens = None
        elif config.max_new_tokens is not None:
            config.max_length = None
        if config.min_new_tokens is not None:
            config.min_length = None
        # A stock InstructBLIP decodes with its language model's settings, which are the fallback.
        inner = self.language_model.generation_config
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            if getattr(config, name) is None:
                setattr(config, name, getattr(inner, name))
        return config


def _rollout(request: VigcRequest, settings: RolloutSettings) -> Rollout[tuple[VigcRequest, Sample]]:
    """The rollout of a request, which returns the request and its sample."""
    image, seed = request.image_embeds, request.seed
    if request.mode not in ("vig", "vic"):
        raise ValueError(f"mode={request.mode!r} is not known: use 'vig' or 'vic'.")
    if request.mode == "vic":
        sample = yield from iqf(image, cast(str, request.question), request.draft, settings, request.task, seed)
    else:
        rollout = vig_then_iqf if request.correct else vig_alone
        sample = yield from rollout(image, cast(str, request.task), settings, seed)
    return request, sample


__all__ = ["VigcForConditionalGeneration"]
