"""The ViT's outputs for the training pictures, computed once and read from disk.

The ViT is frozen, so without augmentation each epoch would compute the same again: it is the larger part of a step's
work in front of the language model, and of a loader's work before it.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import datasets
import numpy as np
import torch
from accelerate import Accelerator

from vigc.errors import ImageError, TrainingError, cut, reason_of
from vigc.jobs.progress import Progress
from vigc.modeling_vigc import VigcForConditionalGeneration
from vigc.processing import VigcProcessor

from .mixture import VigcMixture
from .rows import open_row_image

# What `done.bin` says of a picture.
_DONE, _UNREADABLE = 1, 2

_BATCH = 32  # pictures at a time: the ViT alone, without gradients, takes little memory


class ImageFeatures:
    """One float tensor (patches + 1, vision width) a distinct picture, in a file that all processes share.

    The file's folder is named by all that decides its content (the ViT's weights, the pictures and how they are
    prepared, the precision), so that no run finds another's. Pictures are marked when they are done: a pass that was
    interrupted goes on where it stopped.

    Args:
        folder: Where such folders lie.
        rows: Data sets whose pictures are wanted, undecoded (see `readable`).
        model: Whose ViT.
        processor: The model's.
        dtype: Precision to keep them in.
    """

    def __init__(
        self,
        folder: str | Path,
        rows: Sequence[datasets.Dataset],
        model: VigcForConditionalGeneration,
        processor: VigcProcessor,
        dtype: torch.dtype,
    ) -> None:
        self._first: dict[str, tuple[int, int]] = {}
        for part, dataset in enumerate(rows):
            for index, image in enumerate(dataset.with_format(None)["image"]):
                self._first.setdefault(_key(image), (part, index))
        self._places = {key: place for place, key in enumerate(self._first)}
        self._rows = list(rows)
        vision = cast(Any, model.config.vision_config)
        self.shape = ((vision.image_size // vision.patch_size) ** 2 + 1, vision.hidden_size)
        self.dtype = dtype
        name = _fingerprint(self._places, model, processor, dtype)
        self.folder = Path(folder) / name[:16]
        self._tensor: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self._places)

    def __getstate__(self) -> dict[str, Any]:
        # Loader workers that are started anew map the file themselves.
        return {**self.__dict__, "_tensor": None}

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return len(self) * math.prod(self.shape) * self.dtype.itemsize

    def of(self, image: Mapping[str, Any]) -> torch.Tensor:
        """A picture's features, float (patches + 1, vision width), by its undecoded form.

        Raises:
            ImageError: It could not be opened when features were computed.
        """
        if self._tensor is None:
            self._done = self._marks("r")
            # Copy on write: torch warns of memory that it may not write to.
            self._tensor = torch.from_numpy(self._open("c")).view(self.dtype).view(len(self), *self.shape)
        place = self._places[_key(image)]
        if self._done[place] == _UNREADABLE:
            raise ImageError(image["path"] or "of a row", "could not be opened when features were computed")
        return self._tensor[place]

    def fill(
        self,
        embed: Callable[[torch.Tensor], torch.Tensor],
        processor: VigcProcessor,
        batch_size: int,
        share: tuple[int, int] = (0, 1),
        quiet: bool = False,
    ) -> int:
        """Computes what is missing of one process's share, and returns how many pictures that were.

        Args:
            embed: From `pixel_values`, float (B, 3, H, W), to features, float (B, patches + 1, vision width).
            processor: The model's.
            batch_size: Pictures at a time.
            share: This process's number and how many processes there are.
            quiet: Show no progress.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self._open("r+")
        done = self._marks("r+")
        missing = [place for place in range(share[0], len(self), share[1]) if not done[place]]
        sources = list(self._first.values())
        label = f"ViT features ({self.size / 1e9:,.1f} GB)"
        with Progress("images", len(missing), label=label, quiet=quiet) as progress:
            for start in range(0, len(missing), batch_size):
                batch = missing[start : start + batch_size]
                images = {}
                for place in batch:
                    part, index = sources[place]
                    try:
                        images[place] = open_row_image(self._rows[part][index])
                    except ImageError:  # said by who draws it
                        done[place] = _UNREADABLE
                if images:
                    values = processor(images=list(images.values()), return_tensors="pt")["pixel_values"]
                    features = embed(values).to("cpu", self.dtype).contiguous()
                    file[list(images)] = features.view(len(images), -1).view(torch.uint8).numpy()
                    # Marked when they are on the disk: whoever dies in between does these again.
                    file.flush()
                    done[list(images)] = _DONE
                    done.flush()
                progress.add(len(batch))
        return len(missing)

    def _marks(self, mode: str) -> np.memmap:
        """What is known of each picture, uint8 (pictures,): 0, `_DONE` or `_UNREADABLE`."""
        return _mapped(self.folder / "done.bin", (len(self),), np.uint8, mode)

    def _open(self, mode: str) -> np.memmap:
        """The file, uint8 (pictures, bytes of one)."""
        return _mapped(self.folder / "features.bin", (len(self), self.size // len(self)), np.uint8, mode)


def compute_features(
    folder: str | Path,
    mixture: Any,
    model: VigcForConditionalGeneration,
    processor: VigcProcessor,
    accelerator: Accelerator,
    quiet: bool = False,
) -> None:
    """Lets `mixture` bring the ViT's outputs, once all processes have computed what is missing of them.

    Raises:
        ValueError: `mixture` is no [`VigcMixture`], or one that cuts its pictures anew every time.
    """
    if not isinstance(mixture, VigcMixture):
        raise TrainingError(
            f"image_features={str(folder)!r} works with a VigcMixture as train_dataset, and this is none."
        )
    if mixture.image_size is not None:
        raise TrainingError(
            "image_features keeps what the ViT makes of whole pictures: give the mixture image_size=None."
        )
    model.vision_model.to(accelerator.device).eval()
    # What the Q-Former's cross-attention makes of them in mixed precision.
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(accelerator.mixed_precision, torch.float32)

    @torch.no_grad()
    def embed(pixel_values: torch.Tensor) -> torch.Tensor:
        with accelerator.autocast():
            return model.get_image_embeds(pixel_values.to(accelerator.device))

    features = ImageFeatures(folder, mixture.rows, model, processor, dtype)
    features.fill(embed, processor, _BATCH, (accelerator.process_index, accelerator.num_processes), quiet)
    accelerator.wait_for_everyone()
    mixture.features = features


def _mapped(path: Path, shape: tuple[int, ...], dtype: type, mode: str) -> np.memmap:
    """The file as an array; in mode "r+" it is made of zeros if need be, by several processes at once if need be."""
    if mode == "r+":
        size = math.prod(shape) * np.dtype(dtype).itemsize
        with path.open("ab") as file:
            file.truncate(size)
            try:
                # Without the space behind it, writing to a mapped file would end the process without a word.
                os.posix_fallocate(file.fileno(), 0, size)
            except OSError as error:
                raise OSError(error.errno, f"{path} needs {size / 1e9:,.1f} GB: {error.strerror}") from error
    return np.memmap(path, dtype=dtype, mode=cast(Any, mode), shape=shape)


def _key(image: Mapping[str, Any]) -> str:
    if image["bytes"] is not None:
        return hashlib.sha256(image["bytes"]).hexdigest()
    try:
        stat = Path(image["path"]).stat()
    except OSError as error:
        raise TrainingError(
            f"The picture {cut(image['path'])!r} cannot be read: {reason_of(error, path=False)}"
        ) from error
    return f"{image['path']}:{stat.st_size}:{stat.st_mtime_ns}"


def _fingerprint(
    keys: Iterable[str], model: VigcForConditionalGeneration, processor: VigcProcessor, dtype: torch.dtype
) -> str:
    total = hashlib.sha256()
    settings = {
        "image_processor": processor.image_processor.to_dict(),
        "vision": cast(Any, model.config.vision_config).to_dict(),
    }
    settings["eps"] = model.vision_model.post_layernorm.eps
    total.update(json.dumps([settings, str(dtype)], sort_keys=True, default=str).encode())
    for name, weight in model.vision_model.state_dict().items():
        total.update(f"{name}{tuple(weight.shape)}{weight.dtype}".encode())
        total.update(weight.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    for key in keys:
        total.update(key.encode() + b"\0")
    return total.hexdigest()
