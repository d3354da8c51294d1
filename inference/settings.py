"""Settings of loading, decoding and correction: declared, and checked without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal, get_args

from vigc.errors import GenerationError
from vigc.options import Option, check_value, meant, settings_of

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
DTYPES: tuple[str, ...] = get_args(Dtype)

MODEL = "Model"
_DECODING = "Decoding (by default the model's own settings)"
_IQF = "Correction (by default the model's own settings)"

# Settings that in float32 change how fast texts are written, and not which: a job may go on with others.
SPEED_SETTINGS = ("iqf_verify_drafts", "iqf_ahead")


@dataclass(frozen=True, kw_only=True)
class LoadingSettings:
    """How a model is loaded."""

    dtype: Annotated[Dtype, Option("auto: as saved, but float32 on a CPU.", MODEL)] = "auto"
    device: Annotated[str, Option("auto (an accelerator if there is one), cpu, cuda:1, ...", MODEL, common=True)] = (
        "auto"
    )
    revision: Annotated[
        str | None, Option("Commit, tag or branch of the model on the Hub; the commit is recorded.", MODEL)
    ] = None
    trust_remote_code: Annotated[bool, Option("Run the code that comes with the model, not vigc's own.", MODEL)] = False

    @property
    def loading(self) -> dict[str, Any]:
        """These settings, as keyword arguments."""
        return {item.name: getattr(self, item.name) for item in fields(LoadingSettings)}


@dataclass(frozen=True, kw_only=True)
class CommonDecoding:
    """The settings of decoding and correction that every command has which asks a model; None is the model's own."""

    num_beams: Annotated[int | None, Option("Beams; 1 is greedy search.", _DECODING, min=1)] = None
    max_new_tokens: Annotated[int | None, Option("Most tokens written per call.", _DECODING, min=1)] = None
    iqf_preset: Annotated[
        Literal["vigc", "original"] | None, Option("original: the released loop's settings and decoding.", _IQF)
    ] = None
    iqf_steps: Annotated[
        int | None,
        Option("VIC calls; 0 for one that is kept whole, -1 until the end of text.", _IQF, common=True, min=-1),
    ] = None


@dataclass(frozen=True, kw_only=True)
class DecodingSettings(CommonDecoding):
    """The decoding and `iqf_*` settings that jobs have options for; None is the model's own.

    `settings=` of the Python API takes any further ones of transformers' `GenerationConfig`. What `iqf_*` do is said of
    `vigc.modeling_vigc.IqfSettings`; a test compares the two.
    """

    repetition_penalty: Annotated[
        float | None, Option("Penalty on tokens written before; 1 is none.", _DECODING, above=0)
    ] = None
    do_sample: Annotated[bool | None, Option("Draw tokens instead of taking the likeliest.", _DECODING)] = None
    temperature: Annotated[float | None, Option("Of sampling; below 1 is more cautious.", _DECODING, above=0)] = None
    top_p: Annotated[float | None, Option("Sample from the likeliest tokens of this total.", _DECODING, above=0)] = None
    top_k: Annotated[int | None, Option("Sample from so many likeliest tokens; 0 is all.", _DECODING, min=0)] = None
    iqf_unit: Annotated[Literal["sentence", "paragraph"] | None, Option("What a call keeps.", _IQF)] = None
    iqf_keep_tail: Annotated[bool | None, Option("Whether the last call keeps all it writes.", _IQF)] = None
    iqf_prompt: Annotated[
        Literal["question", "instruction"] | None, Option("instruction: the released loop's prompt.", _IQF)
    ] = None
    iqf_split: Annotated[
        Literal["safe", "original"] | None,
        Option("safe spares decimals and abbreviations; original cuts at the first dot.", _IQF),
    ] = None
    iqf_full_record: Annotated[bool | None, Option("Also write the first VIC answer in full, into `extra`.", _IQF)] = (
        None
    )
    iqf_draft: Annotated[
        bool | None, Option("Whether VIG writes a draft, or its question alone: half the words.", _IQF)
    ] = None
    iqf_verify_drafts: Annotated[
        bool | None,
        Option("Read what VIC is expected to write before it is written, while that saves time.", _IQF),
    ] = None
    iqf_ahead: Annotated[
        bool | None, Option("Begin VIC while VIG still writes its draft, where slots are free.", _IQF)
    ] = None


def check_settings(settings: Mapping[str, Any], correct: bool) -> None:
    """Makes sure that decoding and `iqf_*` settings are known, in range and of effect.

    transformers is imported only if there are settings that no command has an option for.

    Raises:
        GenerationError: The first that is not.
    """
    declared = settings_of(DecodingSettings)
    for name in settings:
        if name in declared:
            check_value(declared[name], settings[name], GenerationError)
    iqf = [name for name in settings if name in declared and name.startswith("iqf_")]
    if iqf and not correct:
        raise GenerationError(
            f"Without correction {', '.join(iqf)} has no effect: drop it, or let answers be corrected."
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
            f"{', '.join(unknown)}: no such setting of generation; see transformers' GenerationConfig."
            f"{meant(unknown[0], [*declared, *known])}"
        )
