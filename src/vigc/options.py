"""Options of the commands: what they are called, what they take, and their help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

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
        help="A LLaVA file (.json, .jsonl), or a dataset in TRL's or FineVision's columns (parquet, folder, Hub name).",
        show_default=False,
    ),
]
DatasetFolder = Annotated[Path, typer.Argument(help="A folder that `vigc generate` wrote.", show_default=False)]

Output = Annotated[Path, option("The dataset folder to write.", "--output", "-o", rich_help_panel=_JOB)]
Types = Annotated[str, option("Types of instruction to write, with commas between.", rich_help_panel=_JOB)]
Format = Annotated[str, option("folder, coco, objects365, llava or dataset: what IMAGES is.", rich_help_panel=_INPUT)]
ImageRoot = Annotated[
    Path | None,
    option("The folder that file names in an annotation file are relative to.", rich_help_panel=_INPUT),
]
Subset = Annotated[str | None, option("The configuration of a dataset.", rich_help_panel=_INPUT)]
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

Model = Annotated[
    str | None,
    option(
        "Folder or Hub name of a VIGC model.",
        "--model",
        "-m",
        rich_help_panel=_MODEL,
        show_default="vigc-tiny, embedded, which knows rendered scenes only",
    ),
]
Revision = Annotated[str | None, option("Commit, tag or branch of the model.", rich_help_panel=_MODEL)]
RemoteCode = Annotated[
    bool, option("Let code from the model's folder run.", "--trust-remote-code", rich_help_panel=_MODEL)
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

ReportRows = Annotated[
    int | None, option("About how many rows to show; charts and figures always count all.", min=1, show_default="1,500")
]
