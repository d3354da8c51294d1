"""vigc: an open toolkit for visual-instruction data. It generates, corrects and scores instruction rows about images.

The public names are imported on first use, so that `import vigc` does not import torch or transformers. As soon as
transformers is imported, VIGC is registered with its Auto classes.
"""

from typing import TYPE_CHECKING

from .auto_classes import register

__version__ = "0.1.0"

__all__ = [
    "VigcConfig",
    "VigcForConditionalGeneration",
    "VigcGenerateOutput",
    "VigcProcessor",
    "VigcTrainer",
    "VigcTrainingArguments",
    "convert_checkpoint",
    "generate_dataset",
    "model_folder",
]

if TYPE_CHECKING:
    from vigc.convert.checkpoint import convert_checkpoint

    from .generation import generate_dataset
    from .modeling_vigc import VigcConfig, VigcForConditionalGeneration, VigcGenerateOutput
    from .processing import VigcProcessor
    from .scenes import model_folder
    from .trainer import VigcTrainer, VigcTrainingArguments
else:  # hidden from type checkers, which would accept any name
    from .lazy import lazy_names

    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "vigc.modeling_vigc": ("VigcConfig", "VigcForConditionalGeneration", "VigcGenerateOutput"),
            "vigc.processing": ("VigcProcessor",),
            "vigc.trainer": ("VigcTrainer", "VigcTrainingArguments"),
            "vigc.convert": ("convert_checkpoint",),
            "vigc.generation": ("generate_dataset",),
            "vigc.scenes": ("model_folder",),
        },
    )


register()
