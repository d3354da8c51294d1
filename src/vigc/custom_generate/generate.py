"""IQF for a stock InstructBLIP: the function that transformers runs instead of the model's `generate`.

`vigc custom-generate` writes this file as `custom_generate/generate.py`, together with the `*_vigc.py` files.
"""

from __future__ import annotations

import copy
import inspect
from typing import Any

from transformers import GenerationMixin, InstructBlipForConditionalGeneration

from vigc.modeling_vigc.modeling_vigc import VigcForConditionalGeneration
from vigc.processing.processing_vigc import VigcProcessor

# Loading arguments, which transformers passes on.
_LOADING = ("cache_dir", "force_download", "local_files_only", "proxies", "repo_type", "revision", "token")
# Arguments that InstructBLIP's `generate` does not pass to its language model.
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
    """Generates questions with corrected answers, or answers given questions, like VIGC's `generate`.

    Args:
        model: A stock InstructBLIP with a decoder-only language model, or that language model (InstructBLIP's
            `generate` passes it).
        processor: The model's stock `InstructBlipProcessor`. Without it, decoding is plain.
        mode: "vig", "vic" or "plain"; by default "vic" with `questions`, "vig" with a `task`.
        task: Task type, one for all rows or one per row.
        questions: B questions to answer; a string if B is 1.
        correct: False for plain decoding.
        kwargs: Other arguments of VIGC's `generate`: `pixel_values`, float (B, 3, H, W), `iqf_*`, decoding settings.

    Returns:
        Like VIGC's `generate`: int64 (B, T), or with `return_dict_in_generate=True` a `VigcGenerateOutput`.

    Raises:
        ValueError: The model is not an InstructBLIP, or has an encoder-decoder language model; there is a processor
            but neither a task nor questions; or VIGC's `generate` refuses the arguments.
    """
    if not hasattr(model, "qformer"):
        model, kept = _instructblip_of(model)
        kwargs = {**kwargs, **kept}
        kwargs.pop("inputs_embeds", None)
    if model.language_model.config.is_encoder_decoder:
        kind = model.language_model.config.model_type
        raise ValueError(f"IQF needs a decoder-only language model, but this InstructBLIP has {kind!r}.")
    unset = [name for name in inspect.signature(GenerationMixin.generate).parameters if kwargs.get(name) is None]
    kwargs = {name: value for name, value in kwargs.items() if name not in (*_LOADING, *unset)}
    if correct is not False and mode is None:
        mode, correct = _mode_of(task, questions, correct, processor)
    if processor is not None:
        processor = _vigc_processor(processor, model.config.num_query_tokens)
    if isinstance(task, str):
        images = kwargs.get("pixel_values", kwargs.get("image_embeds", ()))
        task = [task] * len(images)
    if questions is not None:
        questions = [text.strip() for text in ([questions] if isinstance(questions, str) else questions)]
    return _vigc_model(model).generate(
        processor=processor, mode=mode, task=task, questions=questions, correct=correct, **kwargs
    )


def _mode_of(task: Any, questions: Any, correct: bool | None, processor: Any) -> tuple[str | None, bool | None]:
    """The default mode, and whether answers are corrected.

    Raises:
        ValueError: There is a processor, but neither a task nor questions.
    """
    if task is not None or questions is not None:
        return "vig" if questions is None else "vic", True
    if processor is not None:
        raise ValueError(
            "generate needs a task or questions: give task='detail' (or another task type) to generate questions and "
            "answers, questions= to answer them, or correct=False for plain decoding."
        )
    return None, correct


def _instructblip_of(language_model: Any) -> tuple[Any, dict[str, Any]]:
    """The InstructBLIP whose `generate` called this function, and the images that it was called with.

    InstructBLIP passes neither to its language model, so that both are read from its stack frame.
    """
    frame = inspect.currentframe()
    while frame is not None:
        model = frame.f_locals.get("self")
        if isinstance(model, InstructBlipForConditionalGeneration) and model.language_model is language_model:
            return model, {name: frame.f_locals[name] for name in _KEPT}
        frame = frame.f_back
    raise ValueError(f"IQF needs an InstructBLIP, but this is a {type(language_model).__name__}.")


def _vigc_model(model: Any) -> VigcForConditionalGeneration:
    """A model of our class that shares all modules; the original is not changed."""
    ours = VigcForConditionalGeneration.__new__(VigcForConditionalGeneration)
    # `from_pretrained` sets `generate` if the model's repository has this file.
    vars(ours).update({name: value for name, value in vars(model).items() if name != "generate"})
    return ours


def _vigc_processor(processor: Any, num_query_tokens: int) -> Any:
    """Our processor from the parts of a stock one, whose tokenizer is not changed."""
    if hasattr(processor, "encode_prompts"):
        return processor
    qformer_tokenizer = copy.copy(processor.qformer_tokenizer)
    return VigcProcessor(processor.image_processor, processor.tokenizer, qformer_tokenizer, num_query_tokens)
