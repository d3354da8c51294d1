"""Settings of loading, decoding and correction, declared and checked without importing torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal, get_args

from vigc.errors import GenerationError
from vigc.options import Option, check_value, meant, settings_of

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
DTYPES: tuple[str, ...] = get_args(Dtype)

MODEL = "Model"
_DECODING = "Decoding (by default as saved with the model)"
_IQF = "Correction (by default as saved with the model)"

# Settings that change only the speed in float32, not the text: a job can be resumed with other values.
SPEED_SETTINGS = ("iqf_verify_drafts", "iqf_ahead")


@dataclass(frozen=True, kw_only=True)
class LoadingSettings:
    """Settings of loading a model."""

    dtype: Annotated[Dtype, Option("auto: as saved, but float32 on a CPU.", MODEL)] = "auto"
    device: Annotated[str, Option("auto (an accelerator if available), cpu, cuda:1, ...", MODEL, common=True)] = "auto"
    revision: Annotated[
        str | None, Option("Commit, tag or branch of the model on the Hub; the commit is recorded.", MODEL)
    ] = None
    trust_remote_code: Annotated[bool, Option("Run the code in the model's repository instead of vigc's.", MODEL)] = (
        False
    )

    @property
    def loading(self) -> dict[str, Any]:
        """These settings, as keyword arguments."""
        return {item.name: getattr(self, item.name) for item in fields(LoadingSettings)}


@dataclass(frozen=True, kw_only=True)
class CommonDecoding:
    """Decoding and correction settings of all commands that run a model; None is the value saved with the model."""

    num_beams: Annotated[int | None, Option("Beams; 1 is greedy search.", _DECODING, min=1)] = None
    max_new_tokens: Annotated[int | None, Option("Maximum number of new tokens per request.", _DECODING, min=1)] = None
    iqf_preset: Annotated[
        Literal["vigc", "original"] | None, Option("original: the released loop's settings and decoding.", _IQF)
    ] = None
    iqf_steps: Annotated[
        int | None,
        Option("Number of VIC requests; 0: one request, kept whole; -1: until the end.", _IQF, common=True, min=-1),
    ] = None


@dataclass(frozen=True, kw_only=True)
class DecodingSettings(CommonDecoding):
    """The decoding and `iqf_*` settings with command-line options; None is the value saved with the model.

    `settings=` of the Python API takes all settings of transformers' `GenerationConfig`. The `iqf_*` settings are
    documented in `vigc.modeling_vigc.IqfSettings`; a test compares both.
    """

    repetition_penalty: Annotated[
        float | None, Option("Penalty on earlier tokens; 1 is no penalty.", _DECODING, above=0)
    ] = None
    do_sample: Annotated[bool | None, Option("Sample tokens instead of taking the likeliest.", _DECODING)] = None
    temperature: Annotated[float | None, Option("Temperature of sampling.", _DECODING, above=0)] = None
    top_p: Annotated[
        float | None, Option("Sample from the likeliest tokens with this total probability.", _DECODING, above=0)
    ] = None
    top_k: Annotated[int | None, Option("Sample from this number of likeliest tokens; 0: all.", _DECODING, min=0)] = (
        None
    )
    iqf_unit: Annotated[
        Literal["sentence", "paragraph"] | None, Option("The segment that a VIC request keeps.", _IQF)
    ] = None
    iqf_keep_tail: Annotated[bool | None, Option("Whether the last VIC request keeps its whole text.", _IQF)] = None
    iqf_prompt: Annotated[
        Literal["question", "instruction"] | None, Option("VIC's prompt; instruction: the released loop's.", _IQF)
    ] = None
    iqf_split: Annotated[
        Literal["safe", "original"] | None,
        Option("End of a sentence; safe: not at decimals and abbreviations; original: at the first dot.", _IQF),
    ] = None
    iqf_full_record: Annotated[bool | None, Option("Also record the whole first VIC answer, in `extra`.", _IQF)] = None
    iqf_draft: Annotated[
        bool | None, Option("Whether VIG generates a draft; without it only the question, which is faster.", _IQF)
    ] = None
    iqf_verify_drafts: Annotated[
        bool | None,
        Option("Speculative decoding: verify the draft's sentences instead of generating them.", _IQF),
    ] = None
    iqf_ahead: Annotated[bool | None, Option("Begin VIC while VIG generates its draft, if slots are free.", _IQF)] = (
        None
    )


def check_settings(settings: Mapping[str, Any], correct: bool) -> None:
    """Checks that decoding and `iqf_*` settings are known, in range and have an effect.

    transformers is only imported for settings without an option.

    Raises:
        GenerationError: A setting is invalid.
    """
    declared = settings_of(DecodingSettings)
    for name in settings:
        if name in declared:
            check_value(declared[name], settings[name], GenerationError)
    iqf = [name for name in settings if name in declared and name.startswith("iqf_")]
    if iqf and not correct:
        raise GenerationError(
            f"Without correction {', '.join(iqf)} has no effect: remove it, or choose another --corrector."
        )
    others = [name for name in settings if name not in declared]
    if others:
        _check_known(others, list(declared))


def _check_known(names: list[str], declared: list[str]) -> None:
    from transformers import GenerationConfig

    known = vars(GenerationConfig())
    unknown = [name for name in names if name not in known]
    if unknown:
        raise GenerationError(
            f"{', '.join(unknown)}: unknown generation setting; see transformers' GenerationConfig."
            f"{meant(unknown[0], [*declared, *known])}"
        )
