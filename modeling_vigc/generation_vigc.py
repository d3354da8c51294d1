"""Settings of IQF, requests of `generate_stream`, and interpretation of the arguments of `generate`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from transformers import GenerationConfig

from .sentences_vigc import UnitRule

# Entries of a processor's output that are not tensors.
PROCESSOR_ENTRIES = ("mode", "task", "questions")

# The released loop (`valid_step` in `vigc/tasks/llava_150k_gen.py`) and its decoding.
_ORIGINAL = {"iqf_keep_tail": False, "iqf_prompt": "instruction", "iqf_split": "original", "iqf_full_record": True}
_PRESETS: dict[str, dict[str, Any]] = {"vigc": {}, "original": _ORIGINAL}
ORIGINAL_DECODING = {"do_sample": False, "num_beams": 5, "repetition_penalty": 1.5, "max_new_tokens": 249}


@dataclass(frozen=True)
class IqfSettings:
    """Settings of VIC's iteration. The fields are keyword arguments of `generate` and entries of `generation_config`.

    Args:
        iqf_preset: "vigc", or "original" for the released loop's values of all settings below and of the decoding.
        iqf_steps: Number of VIC requests; the last one may keep its tail. 0 is one-shot VIC: one request, kept whole.
            -1 continues until the end of sequence, as in the paper, or until an answer has `max_new_tokens` tokens.
        iqf_unit: The segment that a request keeps: its first "sentence" or "paragraph".
        iqf_keep_tail: Whether the last request keeps its whole text.
        iqf_prompt: VIC's prompt: "question" for the prompt of the task type; "instruction" for the released loop's
            "{instruction} Question: {question} Answer:".
        iqf_split: End of a sentence: "safe" ignores decimals and abbreviations; "original" is the first ".".
        iqf_full_record: Whether the first request is generated in full, for `answers_given_question`.
        iqf_draft: Whether VIG generates its answer too. Without it VIG ends after its question, which saves about half
            of all words, but there is no draft to compare VIC's answer with.
        iqf_verify_drafts: Speculative decoding: greedy or sampled requests first verify the draft's next sentence and
            continue where it is wrong. Saves steps; used while it pays. In float32 texts do not change.
        iqf_ahead: Whether a request begins as soon as its prompt is known, if slots are free: VIC begins while VIG
            generates its draft, which is not verified then. At most 16 sequences, including beams, are decoded at a
            time for that. In float32 texts do not change.

    Raises:
        ValueError: A value is not allowed.
    """

    iqf_preset: str = "vigc"
    iqf_steps: int = 4
    iqf_unit: str = "sentence"
    iqf_keep_tail: bool = True
    iqf_prompt: str = "question"
    iqf_split: str = "safe"
    iqf_full_record: bool = False
    iqf_draft: bool = True
    iqf_verify_drafts: bool = False
    iqf_ahead: bool = True

    def __post_init__(self) -> None:
        allowed: dict[str, tuple[Any, ...]] = {
            "iqf_preset": tuple(_PRESETS),
            "iqf_unit": ("sentence", "paragraph"),
            "iqf_prompt": ("question", "instruction"),
            "iqf_split": ("safe", "original"),
        }
        switches = ("iqf_keep_tail", "iqf_full_record", "iqf_draft", "iqf_verify_drafts", "iqf_ahead")
        allowed |= dict.fromkeys(switches, (True, False))
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                raise ValueError(f"{name}={getattr(self, name)!r} is not known: use {' or '.join(map(repr, values))}.")
        if not isinstance(self.iqf_steps, int) or self.iqf_steps < -1:
            raise ValueError(
                f"iqf_steps={self.iqf_steps!r}: give the number of VIC requests, 0 for one-shot VIC, or -1 to continue "
                "until the end of sequence."
            )

    @classmethod
    def resolve(cls, config: GenerationConfig, given: Mapping[str, Any]) -> IqfSettings:
        """The settings of a call: `given` ones first, then those of a given preset, or else those saved in `config`.

        A saved preset provides all settings that are not saved.
        """
        saved = {item.name: getattr(config, item.name) for item in fields(cls) if hasattr(config, item.name)}
        preset = given.get("iqf_preset", saved.get("iqf_preset", "vigc"))
        values = {**_PRESETS.get(preset, {}), **({} if "iqf_preset" in given else saved), **given}
        return cls(**{**values, "iqf_preset": preset})

    @property
    def rule(self) -> UnitRule:
        """The rule for the end of a segment."""
        return UnitRule(self.iqf_unit, self.iqf_split)


IQF_SETTINGS = tuple(item.name for item in fields(IqfSettings))


def split_settings(config: GenerationConfig, given: Mapping[str, Any]) -> tuple[IqfSettings, dict[str, Any]]:
    """Splits the settings of a call into IQF settings and decoding settings, including those of a preset."""
    iqf = IqfSettings.resolve(config, {name: given[name] for name in IQF_SETTINGS if name in given})
    decoding = {name: value for name, value in given.items() if name not in IQF_SETTINGS}
    return iqf, {**ORIGINAL_DECODING, **decoding} if iqf.iqf_preset == "original" else decoding


@dataclass(eq=False, slots=True)
class VigcRequest:
    """A sample for `generate_stream` to generate: a question with its answer, or the answer to a given question.

    Args:
        image_embeds: float (patches + 1, vision width), a row of the output of `get_image_embeds`. Requests about the
            same image can share it.
        mode: "vig" or "vic".
        task: The task type; needed for "vig" and for `iqf_prompt="instruction"`.
        question: The question, for "vic".
        seed: Seed of sampling; the text of a request does not depend on the rest of the batch.
        correct: For "vig": whether VIC follows; without it the answer is the draft.
        settings: Decoding and `iqf_*` settings of this request, which override those of the call.
        key: An identifier for the caller.
        draft: For "vic": an existing answer to compare with.
    """

    image_embeds: torch.Tensor
    mode: str = "vig"
    task: str | None = None
    question: str | None = None
    seed: int = 0
    correct: bool = True
    settings: Mapping[str, Any] = field(default_factory=dict)
    key: Any = None
    draft: str | None = None


def decoding_mode(mode: Any, correct: bool | None, processor: Any) -> str:
    """The mode of a call of `generate`: "vig", "vic" or "plain". It is never inferred from the texts."""
    modes = set(_flat(mode)) if mode is not None else set()
    if len(modes) > 1 or not modes <= {"vig", "vic", "plain"}:
        raise ValueError(f"mode={mode!r} is not known: use 'vig', 'vic' or 'plain', one for the whole batch.")
    if correct and processor is None:
        raise ValueError(
            "correct=True needs the processor, since the Q-Former and the language model have different tokenizers: "
            "call generate(**inputs, processor=processor)."
        )
    if correct is False or processor is None:
        return "plain"
    if not modes:
        raise ValueError(
            "generate was given a processor but no mode: pass mode='vig' or 'vic' (VigcProcessor returns it with the "
            "tensors), or correct=False for plain decoding."
        )
    if correct and modes == {"plain"}:
        raise ValueError("correct=True and mode='plain' contradict each other: remove one of them.")
    return modes.pop()


def requests_of(
    mode: str, image_embeds: torch.Tensor, task: Any = None, questions: Any = None, seeds: Any = None
) -> list[VigcRequest]:
    """The requests of a batch, in the order of its rows.

    Args:
        mode: "vig" or "vic".
        image_embeds: float (B, patches + 1, vision width), the ViT's output, computed once for all steps.
        task: The task type of each row; needed for "vig" and for `iqf_prompt="instruction"`.
        questions: The question of each row; needed for "vic".
        seeds: The seed of each row, for sampling.

    Raises:
        ValueError: An entry is missing or has the wrong length, or a question is empty.
    """
    count = image_embeds.shape[0]
    tasks = _column("task", task, count, needed=mode == "vig")
    asked = _column("questions", questions, count, needed=mode == "vic")
    seeds = _column("row_seeds", [0] * count if seeds is None else seeds, count, needed=True)
    if mode == "vic" and not all(asked):
        empty = [bool(question) for question in asked].index(False)
        raise ValueError(f"Question {empty} is empty ({asked[empty]!r}): there is nothing to answer.")
    rows = enumerate(zip(image_embeds, tasks, asked, seeds, strict=True))
    return [VigcRequest(embeds, mode, kind, question, seed, key=row) for row, (embeds, kind, question, seed) in rows]


def given_settings(config: GenerationConfig) -> dict[str, Any]:
    """The values that a generation config sets, as keyword arguments."""
    settings = {name: value for name, value in config.to_dict().items() if value is not None}
    return {name: value for name, value in settings.items() if name != "transformers_version" and name[0] != "_"}


def _column(name: str, values: Any, count: int, needed: bool) -> list[Any]:
    if values is None:
        if needed:
            raise ValueError(
                f"{name}= is missing: pass everything that the processor returned, generate(**inputs, ...)."
            )
        return [None] * count
    column = _flat(values)
    if len(column) != count:
        raise ValueError(f"{count} images but {len(column)} of {name}=: give one per image.")
    return column


def _flat(values: Any) -> list[Any]:
    """Flattens a single value, a tensor, or nested lists (from a batched pipeline) to a list."""
    if isinstance(values, torch.Tensor):
        values = values.tolist()
    if not isinstance(values, (list, tuple)):
        return [values]
    return [item for value in values for item in _flat(value)]
