"""IQF for a stock InstructBLIP: the function that transformers runs in place of the model's own `generate`.

`vigc custom-generate` writes this file as `custom_generate/generate.py`, beside the travelling files that it imports.
"""

from __future__ import annotations

import copy
import inspect
from typing import Any

from transformers import GenerationMixin, InstructBlipForConditionalGeneration

from vigc.modeling_vigc.modeling_vigc import VigcForConditionalGeneration
from vigc.processing.processing_vigc import VigcProcessor

# What told transformers where this file is; it hands everything on.
_LOADING = ("cache_dir", "force_download", "local_files_only", "proxies", "repo_type", "revision", "token")
# What InstructBLIP's `generate` keeps to itself.
_KEPT = ("pixel_values", "qformer_input_ids", "qformer_attention_mask", "interpolate_pos_encoding")


def generate(
    model: Any,
    processor: Any = None,
    mode: str | None = None,
    task: str | list[str] | None = None,
    questions: str | list[str] | None = None,
    correct: bool | None = None,
    **kwargs: Any,
) -> Any:
    """Writes questions and answers and corrects them, or answers given questions, as VIGC's own `generate` does.

    Args:
        model: A stock InstructBLIP with a decoder-only language model, or, as its `generate` hands on, that language
            model.
        processor: The model's stock `InstructBlipProcessor`. Without one the model decodes plainly.
        mode: "vig", "vic" or "plain"; by default "vic" if there are `questions`, "vig" if there is a `task`.
        task: Type of instruction, for all rows or one for each: VIG writes such a pair, VIC is asked in its way.
        questions: B questions to answer; a string if B is 1.
        correct: False decodes plainly.
        kwargs: All else that VIGC's `generate` takes: `pixel_values`, float (B, 3, H, W), `iqf_*`, decoding settings.

    Returns:
        What VIGC's `generate` returns: int64 (B, T), or with `return_dict_in_generate=True` a `VigcGenerateOutput`.

    Raises:
        ValueError: The model is no InstructBLIP, or has an encoder-decoder language model; nothing says what to write;
            or what VIGC's `generate` refuses.
    """
    if not hasattr(model, "qformer"):
        model, kept = _instructblip_of(model)
        kwargs = {**kwargs, **kept}
        kwargs.pop("inputs_embeds", None)
    if model.language_model.config.is_encoder_decoder:
        kind = model.language_model.config.model_type
        raise ValueError(f"IQF writes with a decoder-only language model, but this InstructBLIP has {kind!r}.")
    unset = [name for name in inspect.signature(GenerationMixin.generate).parameters if kwargs.get(name) is None]
    kwargs = {name: value for name, value in kwargs.items() if name not in (*_LOADING, *unset)}
    if correct is not False and mode is None:
        mode, correct = _mode_of(task, questions, correct, processor)
    if processor is not None:
        processor = _vigc_processor(processor, model.config.num_query_tokens)
    if isinstance(task, str):
        pictures = kwargs.get("pixel_values", kwargs.get("image_embeds", ()))
        task = [task] * len(pictures)
    if questions is not None:
        questions = [text.strip() for text in ([questions] if isinstance(questions, str) else questions)]
    return _vigc_model(model).generate(
        processor=processor, mode=mode, task=task, questions=questions, correct=correct, **kwargs
    )


def _mode_of(task: Any, questions: Any, correct: bool | None, processor: Any) -> tuple[str | None, bool | None]:
    """The mode, and whether answers are corrected, where the caller gives no mode.

    Raises:
        ValueError: There is a processor, but neither a task nor questions.
    """
    if task is not None or questions is not None:
        return "vig" if questions is None else "vic", True
    if processor is not None:
        raise ValueError(
            "What is to be written? Give task='detail' (or another type) for a pair of question and answer, questions= "
            "to have them answered, or correct=False to decode plainly."
        )
    return None, correct


def _instructblip_of(language_model: Any) -> tuple[Any, dict[str, Any]]:
    """The InstructBLIP whose `generate` handed on to its language model, and the pictures it was called with.

    It tells its language model nothing of either: they are in its frame alone.
    """
    frame = inspect.currentframe()
    while frame is not None:
        model = frame.f_locals.get("self")
        if isinstance(model, InstructBlipForConditionalGeneration) and model.language_model is language_model:
            return model, {name: frame.f_locals[name] for name in _KEPT}
        frame = frame.f_back
    raise ValueError(f"IQF is for InstructBLIP, but this is a {type(language_model).__name__}.")


def _vigc_model(model: Any) -> VigcForConditionalGeneration:
    """The same modules under our class; the model stays what it was."""
    ours = VigcForConditionalGeneration.__new__(VigcForConditionalGeneration)
    # `from_pretrained` sets `generate` where a model's own repository holds this file.
    vars(ours).update({name: value for name, value in vars(model).items() if name != "generate"})
    return ours


def _vigc_processor(processor: Any, num_query_tokens: int) -> Any:
    """Our processor from the parts of a stock one, whose tokenizer is not touched."""
    if hasattr(processor, "encode_prompts"):
        return processor
    qformer_tokenizer = copy.copy(processor.qformer_tokenizer)
    return VigcProcessor(processor.image_processor, processor.tokenizer, qformer_tokenizer, num_query_tokens)
