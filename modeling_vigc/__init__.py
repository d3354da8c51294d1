"""The VIGC model: configuration, forward pass, and generation with the Iterative Q-Former."""

from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText

from .configuration_vigc import VigcConfig
from .generation_vigc import IqfSettings, VigcRequest
from .modeling_vigc import VigcForConditionalGeneration
from .outputs_vigc import VigcGenerateOutput

# The Auto classes load VIGC without remote code, and saved folders include the code for machines without vigc.
AutoConfig.register(VigcConfig.model_type, VigcConfig, exist_ok=True)
AutoModel.register(VigcConfig, VigcForConditionalGeneration, exist_ok=True)
AutoModelForImageTextToText.register(VigcConfig, VigcForConditionalGeneration, exist_ok=True)
VigcConfig.register_for_auto_class()
VigcForConditionalGeneration.register_for_auto_class("AutoModelForImageTextToText")

__all__ = ["IqfSettings", "VigcConfig", "VigcForConditionalGeneration", "VigcGenerateOutput", "VigcRequest"]
