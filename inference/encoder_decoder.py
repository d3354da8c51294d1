"""InstructBLIP with an encoder-decoder language model such as FLAN-T5, which the engine cannot decode."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vigc.errors import GenerationError
from vigc.modeling_vigc import VigcForConditionalGeneration
from vigc.modeling_vigc.requests_vigc import Request
from vigc.processing import VigcProcessor

from .chat import ChatGenerator, placed
from .checkpoints import Checkpoint
from .generator import ModelIdentity


class EncoderDecoderGenerator(ChatGenerator):
    """Like `ChatGenerator`, but without a chat template: the Q-Former and the encoder read the plain prompt."""

    def _inputs(self, requests: Sequence[Request]) -> Any:
        images = [image for request in requests for image in request.images]
        if len(images) != len(requests):
            raise GenerationError(f"{self.identity.name!r} sees one image: give each request one.")
        pixels = self.processor(images=images, return_tensors="pt")
        prompts = self.processor.encode_prompts([request.prompt for request in requests])
        return placed(self.model, {**pixels, **prompts})

    def _prompt_length(self, inputs: Any) -> int:
        return 1  # `generate` returns the decoder's ids, after one start token


def load_encoder_decoder(checkpoint: Checkpoint, batch_size: int | None = 8) -> EncoderDecoderGenerator:
    """Loads the model of a checkpoint; see [`ChatGenerator`] for `batch_size`."""
    facts = checkpoint.facts()
    hub: dict[str, Any] = {"revision": checkpoint.commit, "trust_remote_code": False}
    model: Any = VigcForConditionalGeneration.from_pretrained(checkpoint.name, dtype=facts.dtype, **hub)
    processor = VigcProcessor.from_pretrained(checkpoint.name, **hub)
    identity = ModelIdentity(facts.name, facts.revision, facts.dtype, prefix=False, logprobs=False, system=False)
    return EncoderDecoderGenerator(model.to(checkpoint.device).eval(), processor, identity, batch_size)
