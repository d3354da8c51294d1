"""vigc: images go in; instruction rows, corrected and scored, come out.

The public names below are imported when they are first used, so that `import vigc` costs nothing: torch and
transformers are loaded by whoever needs them. Once transformers is, its Auto classes know VIGC.
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
else:  # unseen by type checkers, which would otherwise accept any name
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
