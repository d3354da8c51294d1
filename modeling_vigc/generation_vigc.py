"""The settings of IQF, the requests of `generate_stream`, and what the arguments of `generate` mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from transformers import GenerationConfig

from .sentences_vigc import UnitRule

# What a processor's output carries beside the tensors.
PROCESSOR_ENTRIES = ("mode", "task", "questions")

# The released loop (`valid_step` in `vigc/tasks/llava_150k_gen.py`) and its decoding.
_ORIGINAL = {"iqf_keep_tail": False, "iqf_prompt": "instruction", "iqf_split": "original", "iqf_full_record": True}
_PRESETS: dict[str, dict[str, Any]] = {"vigc": {}, "original": _ORIGINAL}
ORIGINAL_DECODING = {"do_sample": False, "num_beams": 5, "repetition_penalty": 1.5, "max_new_tokens": 249}


@dataclass(frozen=True)
class IqfSettings:
    """How VIC iterates. The fields are keyword arguments of `generate` and entries of `generation_config`.

    Args:
        iqf_preset: "vigc", or "original" for the released loop's values of every setting below and of the decoding.
        iqf_steps: Number of VIC calls; the last one may keep its tail. 0 is one-shot VIC: one call, kept whole.
            -1 goes on until the end of sequence, as the paper has it, or until an answer has `max_new_tokens` tokens.
        iqf_unit: What a call keeps: its first "sentence" or "paragraph".
        iqf_keep_tail: Whether the last call keeps all it writes.
        iqf_prompt: "question" asks VIC the type's own prompt; "instruction" the released loop's
            "{instruction} Question: {question} Answer:".
        iqf_split: "safe" sentence ends spare decimals and abbreviations; "original" ones are the first ".".
        iqf_full_record: Whether the first call is written out in full, for `answers_given_question`.
        iqf_draft: Whether VIG writes its answer too. Without it VIG is over with its question, which saves about half
            of all words; there is no draft then to compare VIC's answer with.
        iqf_verify_drafts: Whether greedy or sampled calls first read what they are expected to write, the draft's next
            sentence, and go on where it is wrong: fewer steps, while that pays. In float32 texts stay the same.
        iqf_ahead: Whether a call begins as soon as what it builds on is written, where slots are free: VIC while VIG
            still writes its draft, which is not verified then. Up to 16 texts, beams counted, are written at a time for
            that. In float32 they stay the same.

    Raises:
        ValueError: A value that is none of these.
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
                f"iqf_steps={self.iqf_steps!r}: give the number of VIC calls, 0 for one-shot VIC, or -1 to go on until "
                "the end of sequence."
            )

    @classmethod
    def resolve(cls, config: GenerationConfig, given: Mapping[str, Any]) -> IqfSettings:
        """Settings of a call: what is `given`; then, with a preset given, the preset's, else those saved in `config`.

        A saved preset stands for all settings that are not saved beside it.
        """
        saved = {item.name: getattr(config, item.name) for item in fields(cls) if hasattr(config, item.name)}
        preset = given.get("iqf_preset", saved.get("iqf_preset", "vigc"))
        values = {**_PRESETS.get(preset, {}), **({} if "iqf_preset" in given else saved), **given}
        return cls(**{**values, "iqf_preset": preset})

    @property
    def rule(self) -> UnitRule:
        """Where a unit ends."""
        return UnitRule(self.iqf_unit, self.iqf_split)


IQF_SETTINGS = tuple(item.name for item in fields(IqfSettings))


def split_settings(config: GenerationConfig, given: Mapping[str, Any]) -> tuple[IqfSettings, dict[str, Any]]:
    """The IQF settings of a call, and its decoding settings over those of `config`, a preset's included."""
    iqf = IqfSettings.resolve(config, {name: given[name] for name in IQF_SETTINGS if name in given})
    decoding = {name: value for name, value in given.items() if name not in IQF_SETTINGS}
    return iqf, {**ORIGINAL_DECODING, **decoding} if iqf.iqf_preset == "original" else decoding


@dataclass(eq=False, slots=True)
class VigcRequest:
    """One sample to be made by `generate_stream`: a pair about an image, or the answer to a question about it.

    Args:
        image_embeds: float (patches + 1, vision width), a row of what `get_image_embeds` returns; requests about the
            same picture share it.
        mode: "vig" or "vic".
        task: The type of instruction; needed for "vig" and for `iqf_prompt="instruction"`.
        question: For "vic".
        seed: For sampling: with it, a row's text does not depend on what is written beside it.
        correct: For "vig": whether VIC follows; without it the answer is the draft.
        settings: Decoding and `iqf_*` settings of this row, over those of the call.
        key: Whatever the caller wants to know it by.
        draft: For "vic": an answer that there is already, to compare with.
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
    """What a call of `generate` does: "vig", "vic" or "plain". It is said by the caller, never guessed from texts."""
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
            "generate was given a processor but not what to do: pass mode='vig' or 'vic' (the entry that VigcProcessor "
            "returns beside the tensors), or correct=False for plain decoding."
        )
    if correct and modes == {"plain"}:
        raise ValueError("correct=True and mode='plain' contradict each other: drop one of them.")
    return modes.pop()


def requests_of(
    mode: str, image_embeds: torch.Tensor, task: Any = None, questions: Any = None, seeds: Any = None
) -> list[VigcRequest]:
    """The rows of a batch as requests, in their order.

    Args:
        mode: "vig" or "vic".
        image_embeds: float (B, patches + 1, vision width), the ViT's output; it is computed once for all steps.
        task: The type of each row; needed for "vig" and for `iqf_prompt="instruction"`.
        questions: The question of each row; needed for "vic".
        seeds: One for each row, for sampling.

    Raises:
        ValueError: Entries are missing, too few or too many, or a question is empty.
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
    """What a generation config sets, as keyword arguments."""
    settings = {name: value for name, value in config.to_dict().items() if value is not None}
    return {name: value for name, value in settings.items() if name != "transformers_version" and name[0] != "_"}


def _column(name: str, values: Any, count: int, needed: bool) -> list[Any]:
    if values is None:
        if needed:
            raise ValueError(f"{name}= is missing: pass on all that the processor returned, generate(**inputs, ...).")
        return [None] * count
    column = _flat(values)
    if len(column) != count:
        raise ValueError(f"{count} pictures but {len(column)} of {name}=: give one for each picture.")
    return column


def _flat(values: Any) -> list[Any]:
    """A list of what may be one value or a tensor or, from a batched pipeline, lists of lists."""
    if isinstance(values, torch.Tensor):
        values = values.tolist()
    if not isinstance(values, (list, tuple)):
        return [values]
    return [item for value in values for item in _flat(value)]
