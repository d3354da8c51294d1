"""`vigc convert`: converts released checkpoints to a model folder, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from vigc.errors import VigcError

from .terminal import option, say

Checkpoints = Annotated[
    list[Path] | None,
    option(
        "A released .pth or .safetensors file; repeatable, base files first: later files override earlier ones.",
        "--checkpoint",
    ),
]
LanguageModel = Annotated[Path | None, option("Folder of Vicuna: config.json, tokenizer.model and weights.")]
QformerTokenizer = Annotated[str, option("Folder or Hub name of the Q-Former's BERT tokenizer.")]
SizesFile = Annotated[Path | None, option("JSON file with the model's sizes, if they are not those of the release.")]
Preset = Annotated[str | None, option("7b or 13b: check that the language model has that size.")]
ConvertDtype = Annotated[
    str | None, option("float32, float16 or bfloat16; by default each weight keeps its dtype.", show_default=False)
]
LoraAlpha = Annotated[float, option("Alpha of LoRA matrices, if a file has some.")]
MaxShardSize = Annotated[str, option("Size limit of a weight file.")]
ConvertOutput = Annotated[Path | None, option("The model folder to write.", "--output", "-o", show_default=False)]
ToOriginal = Annotated[
    Path | None, option("The reverse: write the weights of --model to this file in the released layout.")
]
ConvertedModel = Annotated[Path | None, option("The model folder that --to-original reads.", "--model", "-m")]


def convert(
    checkpoint: Checkpoints = None,
    language_model: LanguageModel = None,
    qformer_tokenizer: QformerTokenizer = "bert-base-uncased",
    config: SizesFile = None,
    preset: Preset = None,
    dtype: ConvertDtype = None,
    max_shard_size: MaxShardSize = "5GB",
    lora_alpha: LoraAlpha = 16.0,
    output: ConvertOutput = None,
    to_original: ToOriginal = None,
    model: ConvertedModel = None,
) -> None:
    """Convert released checkpoints to a transformers model folder, or with --to-original the reverse."""
    from vigc.convert import checkpoint as conversion
    from vigc.scenes import model_folder

    if to_original is not None:
        if model is None or checkpoint or language_model or output:
            raise VigcError("--to-original FILE needs --model DIR, and no other file or folder.")
        say(str(conversion.to_original(Path(model_folder(model)), to_original)))
        return
    if not checkpoint or language_model is None or output is None or model is not None:
        raise VigcError("Give --checkpoint FILE, --language-model DIR and --output DIR.")
    report = conversion.convert_checkpoint(
        checkpoint,
        language_model,
        output,
        qformer_tokenizer=qformer_tokenizer,
        config=config,
        preset=preset,
        dtype=dtype,
        max_shard_size=max_shard_size,
        lora_alpha=lora_alpha,
    )
    say(str(report))
