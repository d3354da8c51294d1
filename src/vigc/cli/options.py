"""Options of the jobs: what they are called, what they take, their help, and which command has which."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import wraps
from inspect import signature
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from .terminal import option

_JOB = "The job"
_INPUT = "Input"
_SHORT = "Short answers (okvqa, aokvqa, vqav2)"
_MODEL = "Model"
_DECODING = "Decoding (by default the model's own settings)"
_IQF = "Correction (by default the model's own settings)"

Images = Annotated[
    Path,
    typer.Argument(
        help="A folder of pictures, searched with its sub-folders, or one picture; with --format an annotation file, "
        "a conversation file or a dataset.",
        show_default=False,
    ),
]
Given = Annotated[
    str,
    typer.Argument(
        help="Conversations in LLaVA's, TRL's or FineVision's form: JSON, or a dataset (parquet, folder, Hub name).",
        show_default=False,
    ),
]
Output = Annotated[Path, option("The dataset folder to write.", "--output", "-o", rich_help_panel=_JOB)]
Types = Annotated[str, option("Types of instruction to write, with commas between.", rich_help_panel=_JOB)]
Format = Annotated[str, option("folder, coco, objects365, llava or dataset: what IMAGES is.", rich_help_panel=_INPUT)]
ImageRoot = Annotated[
    Path | None,
    option("The folder that file names in an annotation file are relative to.", rich_help_panel=_INPUT),
]
AllowUrls = Annotated[
    list[str] | None,
    option(
        "Fetch pictures whose names are addresses, from this host ('*.x.org': all below; '*': any public); repeatable.",
        metavar="HOST",
        rich_help_panel=_INPUT,
    ),
]
Subset = Annotated[str | None, option("The configuration of a dataset.", rich_help_panel=_INPUT)]
DataRevision = Annotated[
    str | None, option("The commit, tag or branch of a dataset on the Hub.", rich_help_panel=_INPUT)
]
Split = Annotated[str, option("The split of a dataset.", rich_help_panel=_INPUT)]
ExcludeIds = Annotated[
    list[Path] | None,
    option("Leave out what this file lists (ids or names; text or JSON); repeatable.", rich_help_panel=_INPUT),
]
ExcludeImages = Annotated[
    list[Path] | None,
    option("Leave out what looks like a picture in this folder; repeatable.", rich_help_panel=_INPUT),
]
Dedup = Annotated[bool, option("Find exact copies in the whole job by a hash pass.", "--dedup", rich_help_panel=_INPUT)]
Kind = Annotated[
    str | None,
    option("The type of instruction that the questions are of, if it is one.", "--type", rich_help_panel=_INPUT),
]
Limit = Annotated[int | None, option("Only the first so many pictures.", min=1, rich_help_panel=_JOB)]
Seed = Annotated[int, option("Decides what is drawn where decoding samples.", rich_help_panel=_JOB)]
License = Annotated[str, option("Licence of pictures that do not state their own.", rich_help_panel=_JOB)]
ShardSize = Annotated[int, option("Pictures per parquet file.", min=1, rich_help_panel=_JOB)]
Overwrite = Annotated[bool, option("Replace the dataset that the folder holds.", "--overwrite", rich_help_panel=_JOB)]
Verify = Annotated[
    bool,
    option(
        "Compare the folder's files with the hashes of when they were written; write what is damaged again.",
        "--verify",
        rich_help_panel=_JOB,
    ),
]
Engine = Annotated[
    str, option("local: this process; ray: every GPU of a Ray cluster, or else every CPU.", rich_help_panel=_JOB)
]
Workers = Annotated[int | None, option("With ray: how many processes.", min=1, rich_help_panel=_JOB)]
DryRun = Annotated[
    bool,
    option(
        "Say what would be done, with three rows and an estimate; write nothing.", "--dry-run", rich_help_panel=_JOB
    ),
]
Rank = Annotated[int, option("Of several processes: which this is, from 0.", min=0, rich_help_panel=_JOB)]
WorldSize = Annotated[int, option("How many processes share the job.", min=1, rich_help_panel=_JOB)]
Store = Annotated[
    str, option("embed pictures into the rows, or path: the paths of their files.", "--images", rich_help_panel=_JOB)
]
Retries = Annotated[int, option("How often a text that is no pair is drawn again.", min=0, rich_help_panel=_JOB)]
Score = Annotated[
    bool, option("Compute visual_dependency: what an answer owes to the picture.", "--score", rich_help_panel=_JOB)
]
Questions = Annotated[
    int, option("How many different questions of each type about a picture.", min=1, rich_help_panel=_JOB)
]
Answers = Annotated[int, option("Short-answer types: how many answers, with weights.", min=0, rich_help_panel=_SHORT)]
AnswerThreshold = Annotated[float, option("The least weight of an answer, of 100.", rich_help_panel=_SHORT)]
FirstWords = Annotated[
    Path | None,
    option("JSON file: how often each word begins a question.", rich_help_panel=_SHORT),
]
NoCorrect = Annotated[
    bool, option("Write drafts only (VIG), without correction (VIC).", "--no-correct", rich_help_panel=_JOB)
]
CorrectorName = Annotated[
    str | None,
    option(
        "How answers are corrected: iqf (sentence by sentence), one_shot (in one request) or none.",
        metavar="NAME",
        rich_help_panel=_JOB,
        show_default="iqf",
    ),
]

Model = Annotated[
    str | None,
    option(
        "Folder or Hub name of a VIGC model, or vigc-tiny.",
        "--model",
        "-m",
        rich_help_panel=_MODEL,
        show_default="vigc-tiny, embedded, which knows rendered scenes only",
    ),
]
Revision = Annotated[
    str | None, option("Commit, tag or branch of the model; the commit is recorded.", rich_help_panel=_MODEL)
]
RemoteCode = Annotated[
    bool,
    option("Run the code that comes with the model, not vigc's own.", "--trust-remote-code", rich_help_panel=_MODEL),
]
BatchSize = Annotated[int, option("Texts written, and pictures read, at a time.", min=1, rich_help_panel=_MODEL)]
Dtype = Annotated[
    str, option("auto (as saved; float32 on a CPU), float32, bfloat16 or float16.", rich_help_panel=_MODEL)
]
Device = Annotated[str, option("auto (an accelerator if there is one), cpu, cuda:1, ...", rich_help_panel=_MODEL)]

NumBeams = Annotated[int | None, option("Beams; 1 is greedy search.", min=1, rich_help_panel=_DECODING)]
Penalty = Annotated[float | None, option("Penalty on tokens written before; 1 is none.", rich_help_panel=_DECODING)]
NewTokens = Annotated[int | None, option("Most tokens written per call.", min=1, rich_help_panel=_DECODING)]
DoSample = Annotated[bool | None, option("Draw tokens instead of taking the likeliest.", rich_help_panel=_DECODING)]
Temperature = Annotated[float | None, option("Of sampling; below 1 is more cautious.", rich_help_panel=_DECODING)]
TopP = Annotated[float | None, option("Sample from the likeliest tokens of this total.", rich_help_panel=_DECODING)]
TopK = Annotated[
    int | None, option("Sample from so many likeliest tokens; 0 is all.", min=0, rich_help_panel=_DECODING)
]

IqfPreset = Annotated[
    str | None, option("vigc, or original for the released loop's settings and decoding.", rich_help_panel=_IQF)
]
IqfSteps = Annotated[
    int | None, option("VIC calls; 0 for one that is kept whole, -1 until the end of text.", rich_help_panel=_IQF)
]
IqfUnit = Annotated[str | None, option("What a call keeps: sentence or paragraph.", rich_help_panel=_IQF)]
IqfKeepTail = Annotated[bool | None, option("Whether the last call keeps all it writes.", rich_help_panel=_IQF)]
IqfPrompt = Annotated[
    str | None, option("question, or instruction for the released loop's prompt.", rich_help_panel=_IQF)
]
IqfSplit = Annotated[
    str | None, option("safe spares decimals and abbreviations; original cuts at the first dot.", rich_help_panel=_IQF)
]
IqfFullRecord = Annotated[
    bool | None, option("Also write the first VIC answer in full, into `extra`.", rich_help_panel=_IQF)
]
IqfDraft = Annotated[
    bool | None, option("Whether VIG writes a draft, or its question alone: half the words.", rich_help_panel=_IQF)
]
IqfVerifyDrafts = Annotated[
    bool | None,
    option("Read what VIC is expected to write before it is written, while that saves time.", rich_help_panel=_IQF),
]
IqfAhead = Annotated[
    bool | None, option("Begin VIC while VIG still writes its draft, where slots are free.", rich_help_panel=_IQF)
]


@dataclass(kw_only=True)
class JobOptions:
    """What all jobs take."""

    output: Output
    limit: Limit = None
    seed: Seed = 0
    license: License = "unknown"
    shard_size: ShardSize = 256
    retries: Retries = 2
    score: Score = False
    corrector: CorrectorName = None
    store: Store = "embed"
    verify: Verify = False
    overwrite: Overwrite = False
    rank: Rank = 0
    world_size: WorldSize = 1
    engine: Engine = "local"
    workers: Workers = None
    dry_run: DryRun = False
    image_root: ImageRoot = None
    allow_urls: AllowUrls = None
    subset: Subset = None
    split: Split = "train"
    data_revision: DataRevision = None
    model: Model = None
    revision: Revision = None
    trust_remote_code: RemoteCode = False
    batch_size: BatchSize = 8
    dtype: Dtype = "auto"
    device: Device = "auto"


@dataclass(kw_only=True)
class DecodingOptions:
    """Settings of decoding and correction: those that are not given are the model's."""

    num_beams: NumBeams = None
    repetition_penalty: Penalty = None
    max_new_tokens: NewTokens = None
    do_sample: DoSample = None
    temperature: Temperature = None
    top_p: TopP = None
    top_k: TopK = None
    iqf_preset: IqfPreset = None
    iqf_steps: IqfSteps = None
    iqf_unit: IqfUnit = None
    iqf_keep_tail: IqfKeepTail = None
    iqf_prompt: IqfPrompt = None
    iqf_split: IqfSplit = None
    iqf_full_record: IqfFullRecord = None
    iqf_draft: IqfDraft = None
    iqf_verify_drafts: IqfVerifyDrafts = None
    iqf_ahead: IqfAhead = None

    def settings(self) -> dict[str, Any]:
        """Those that were given."""
        given = {item.name: getattr(self, item.name) for item in fields(DecodingOptions)}
        return {name: value for name, value in given.items() if value is not None}


@dataclass(kw_only=True)
class GenerateOptions(DecodingOptions, JobOptions):
    """What `vigc generate` takes."""

    images: Images
    types: Types = "conversation,detail,complex"
    questions: Questions = 1
    no_correct: NoCorrect = False
    format: Format = "folder"
    exclude_ids: ExcludeIds = None
    exclude_images: ExcludeImages = None
    dedup: Dedup = False
    answers: Answers = 0
    answer_threshold: AnswerThreshold = 0.0
    first_words: FirstWords = None


@dataclass(kw_only=True)
class CorrectOptions(DecodingOptions, JobOptions):
    """What `vigc correct` takes."""

    dataset: Given
    type: Kind = None


T = TypeVar("T", bound=JobOptions)


def with_options(declared: type[T]) -> Callable[[Callable[[T], None]], Callable[..., None]]:
    """Gives a command the options that a dataclass declares; it is called with an instance of it."""

    def decorate(command: Callable[[T], None]) -> Callable[..., None]:
        @wraps(command)
        def called(**given: Any) -> None:
            command(declared(**given))

        called.__signature__ = signature(declared)  # type: ignore[attr-defined]
        return called

    return decorate
