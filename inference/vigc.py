"""VIGC models, and InstructBLIP with a decoder-only language model: rollouts run by the engine of `modeling_vigc`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch

from vigc.errors import TransientError, is_out_of_memory
from vigc.modeling_vigc import VigcForConditionalGeneration
from vigc.modeling_vigc.generation_vigc import split_settings
from vigc.modeling_vigc.requests_vigc import Rollout
from vigc.modeling_vigc.rollout_vigc import RolloutSettings
from vigc.modeling_vigc.slots_vigc import Schedule

from .generator import ModelFacts, ModelIdentity

T = TypeVar("T")


class Fitting:
    """Runs work on as many items at a time as memory allows; what did not fit once is not tried again.

    `halved` counts how often a batch was halved. `most` is what fitted since; None forgets it.
    """

    def __init__(self) -> None:
        self.most: int | None = None
        self.halved = 0

    def run(self, count: int, work: Callable[[slice], T]) -> list[T]:
        """Calls `work` with slices that cover `count` items.

        Raises:
            TransientError: Not even one item fits.
        """
        results: list[T] = []
        start = 0
        while start < count:
            size = min(self.most or count, count - start)
            result = _unless_full(work, slice(start, start + size))
            if result is not None:
                results.append(result)
                start += size
            else:  # outside of the handler, where the error no longer holds on to the memory
                self.most = self.halve(size)
        return results

    def halve(self, size: int) -> int:
        """Half of a number of items that did not fit.

        Raises:
            TransientError: It was one.
        """
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if size == 1:
            raise TransientError("Memory does not suffice for one picture: free some, or take a smaller --dtype.")
        self.halved += 1
        return size // 2


def _unless_full(work: Callable[[slice], T], items: slice) -> T | None:
    try:
        return work(items)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return None


@dataclass
class VigcGenerator:
    """A [`TextGenerator`] over a loaded model.

    Args:
        model: In evaluation mode, on its device.
        processor: Belongs to it.
        facts: What is known of it.
        slots: Requests decoded at a time; fewer where memory does not suffice, until the end of a run.
        fitting: Counts how often memory did not suffice.
    """

    model: Any
    processor: Any
    facts: ModelFacts
    slots: int = 8
    fitting: Fitting = field(default_factory=Fitting, init=False)

    @property
    def identity(self) -> ModelIdentity:
        """Which model this is, and what it can do."""
        return ModelIdentity(
            self.facts.name, self.facts.revision, self.facts.dtype, scores=True, several=True, system=False
        )

    def encode(self, image: Any) -> torch.Tensor:
        """The ViT's output for one PIL image, float (patches + 1, vision width)."""
        return self.encode_images([image])[0]

    def encode_images(self, images: Sequence[Any]) -> torch.Tensor:
        """The ViT's output for B PIL images in one pass, float (B, patches + 1, vision width)."""
        return self.encode_pixels(self.processor(images=list(images), return_tensors="pt")["pixel_values"])

    @torch.no_grad()
    def encode_pixels(self, pixels: torch.Tensor) -> torch.Tensor:
        """The ViT's output for a batch: float (B, 3, H, W) to float (B, patches + 1, vision width)."""
        embed, to = self.model.get_image_embeds, (self.model.device, self.model.dtype)
        return torch.cat(self.fitting.run(len(pixels), lambda part: embed(pixels[part].to(*to))))

    def rollout_settings(self, given: Mapping[str, Any]) -> RolloutSettings:
        """What `given` decoding and `iqf_*` settings, over the model's own, ask of a rollout."""
        config = self.model.generation_config
        iqf, decoding = split_settings(config, given)
        most = decoding.get("max_new_tokens", config.max_new_tokens) or 249
        return RolloutSettings(self.processor, iqf, decoding, most)

    def run(self, rollouts: Iterable[Rollout[T] | None]) -> Iterator[T]:
        """Yields what rollouts return, in the order in which they end.

        Where memory runs out, the requests that were being decoded are asked again, half as many at a time. Rollouts
        keep what they have: they only wait longer for their completion.

        Args:
            rollouts: As [`Schedule`] takes them.

        Raises:
            TransientError: Not even one request fits into memory.
        """
        schedule = Schedule(rollouts)
        # Each time from the start: what a shard is made of, and what its record says, depends on no shard before it.
        slots, self.fitting.most = self.slots, None
        while True:
            try:
                yield from self._engine(slots).run_schedule(schedule)
                return
            except (RuntimeError, MemoryError) as error:
                if schedule.calling or not is_out_of_memory(error):
                    raise
            # Outside of the handler, where the error no longer holds on to the memory.
            schedule.interrupt()
            slots = self.fitting.halve(slots)

    def _engine(self, slots: int) -> Any:
        """An engine of the model's own code, which may have come with its weights, or of ours."""
        model = self.model
        if not hasattr(model, "engine"):
            # Code of a folder that was saved by an older version: the same modules under our class.
            model = VigcForConditionalGeneration.__new__(VigcForConditionalGeneration)
            vars(model).update(vars(self.model))
        return model.engine(self.processor, slots)
