r"""Instruction tuning of a stock vision-language model with TRL, as LLaVA's second stage: Tables 1 and 3.

    accelerate launch recipes/paper/tables/sft.py --config recipes/paper/tables/llava_7b.yaml \
        --model models/llava-7b-stage1 --data mixture-as-trl-sft --output_dir runs/llava-7b [--dry_run]

The model can be any `AutoModelForImageTextToText` with a chat template; the data are an export with `vigc export
--format trl-sft`. All arguments of TRL's `SFTConfig` can follow.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from datasets import Dataset
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, PreTrainedModel
from transformers.trainer_utils import get_last_checkpoint
from trl import SFTConfig, SFTTrainer, TrlParser

from vigc.formats.hf_datasets import load_rows
from vigc.scenes import model_folder


@dataclass
class Settings:
    """The model and the data.

    Args:
        model: Folder or Hub name of the model to start from.
        data: Folder of chats: `images` and `messages`.
        frozen: Modules that are not trained: a weight is frozen if one of these is part of its dotted name.
        dry_run: Only check model, data and settings; do not train.
    """

    model: str = field(metadata={"help": "folder or Hub name of the model to start from"})
    data: str = field(metadata={"help": "folder that `vigc export --format trl-sft` wrote"})
    frozen: list[str] = field(default_factory=lambda: ["vision_tower"], metadata={"help": "modules left as they are"})
    dry_run: bool = field(default=False, metadata={"help": "check, and train nothing"})


class _Parser(TrlParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


def freeze(model: PreTrainedModel, names: list[str]) -> None:
    """Freezes the named modules.

    Raises:
        ValueError: The model has no module of such a name.
    """
    for name in names:
        found = [weight for path, weight in model.named_parameters() if name in path.split(".")]
        if not found:
            children = ", ".join(sorted({path.split(".")[1] for path, _ in model.named_parameters() if "." in path}))
            raise ValueError(f"frozen: the model has no module {name!r}; it has {children}.")
        for weight in found:
            weight.requires_grad_(False)


def parsed(arguments: list[str]) -> tuple[Settings, SFTConfig]:
    """Settings and TRL's arguments, from `--config FILE` and what follows it.

    Raises:
        ValueError: A name or a value is wrong.
    """
    return _Parser((Settings, SFTConfig)).parse_args_and_config(arguments, fail_with_unknown_args=True)


def problems(settings: Settings, args: SFTConfig) -> list[str]:
    """The problems that can be found without loading the weights."""
    found = []
    try:
        folder = model_folder(settings.model)
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)  # nosec B615: weights, no code
        if type(config) not in AutoModelForImageTextToText._model_mapping:
            found.append(f"model {settings.model!r} is a {config.model_type}, which does not take images")
        processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False)  # nosec B615: no code
        template = getattr(processor, "chat_template", None)
        if not template:
            found.append(f"model {settings.model!r} has no chat template")
        elif args.assistant_only_loss and "generation" not in str(template):
            found.append(f"model {settings.model!r}: its chat template marks no replies (assistant_only_loss)")
    except (OSError, ValueError) as error:
        found.append(f"model {settings.model!r}: {str(error).strip().splitlines()[0]}")
    if not any(Path(settings.data).glob("data/*.parquet")):
        found.append(f"data {settings.data!r} holds no data/*.parquet")
    return found


def read_data(folder: str) -> Dataset:
    """The training chats."""
    return load_rows(folder).select_columns(["images", "messages"])


def main(arguments: list[str]) -> None:
    """Trains, resuming from the last checkpoint if there is one; writes model and processor to `output_dir`."""
    try:
        settings, args = parsed(arguments)
    except ValueError as error:
        sys.exit(f"sft.py: {error}")
    found = problems(settings, args)
    if settings.dry_run or found:
        print("\n".join([*(f"missing: {problem}" for problem in found), "not ready" if found else "ready to train"]))
        sys.exit(2 if found else 0)
    last = get_last_checkpoint(args.output_dir) if Path(args.output_dir).is_dir() else None
    # The Trainer does not know the weight names in checkpoints of models such as LLaVA, and would resume with the
    # initial weights (huggingface/transformers#43701). Sharded checkpoints do not need this.
    saved = last is not None and any(Path(last).glob("model*.safetensors"))
    start = model_folder(settings.model)
    model = AutoModelForImageTextToText.from_pretrained(  # nosec B615: weights, no code
        last if saved else start, dtype="float32", trust_remote_code=False
    )
    freeze(model, settings.frozen)
    processor = AutoProcessor.from_pretrained(start, trust_remote_code=False)  # nosec B615: no code
    trainer = SFTTrainer(model, args, train_dataset=read_data(settings.data), processing_class=processor)
    trainer.train(resume_from_checkpoint=last)
    trainer.save_model(args.output_dir)  # the processor too


if __name__ == "__main__":
    main(sys.argv[1:])
