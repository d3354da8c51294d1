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
    _HOMES = {
        "VigcConfig": "vigc.modeling_vigc",
        "VigcForConditionalGeneration": "vigc.modeling_vigc",
        "VigcGenerateOutput": "vigc.modeling_vigc",
        "VigcProcessor": "vigc.processing",
        "VigcTrainer": "vigc.trainer",
        "VigcTrainingArguments": "vigc.trainer",
        "convert_checkpoint": "vigc.convert",
        "generate_dataset": "vigc.generation",
        "model_folder": "vigc.scenes",
    }

    def __getattr__(name):
        from importlib import import_module

        if name not in _HOMES:
            raise AttributeError(f"module 'vigc' has no attribute {name!r}; its public names are {', '.join(__all__)}")
        value = globals()[name] = getattr(import_module(_HOMES[name]), name)
        return value

    def __dir__():
        return sorted({*globals(), *__all__})


register()
