"""Configuration of a VIGC model."""

from __future__ import annotations

from transformers import InstructBlipConfig


class VigcConfig(InstructBlipConfig):
    """InstructBLIP's configuration, plus the one value in which the released VIGC code differs from transformers.

    Args:
        vision_output_layer_norm_eps (`float`, defaults to 1e-6):
            Epsilon of the LayerNorm that follows the ViT. The released code uses 1e-5 (`ln_vision` in
            `vigc/models/blip2_models/blip2.py`), transformers' InstructBLIP the ViT's own 1e-6. `vigc convert` writes
            1e-5; a stock InstructBLIP checkpoint, which does not set it, keeps 1e-6.

    Everything else (`vision_config`, `qformer_config`, `text_config`, `num_query_tokens`, `image_token_index`, ...) is
    inherited from [`~transformers.InstructBlipConfig`].
    """

    model_type = "vigc"
    keys_to_ignore_at_inference = ["vision_outputs", "qformer_outputs", "language_model_outputs"]

    vision_output_layer_norm_eps: float = 1e-6


__all__ = ["VigcConfig"]
