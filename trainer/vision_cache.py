"""A disk cache for the ViT's outputs of the training images.

The ViT is frozen, so without augmentation every epoch would compute the same outputs. They are the larger part of a
step's work before the language model, and of the data loader's work.
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

# States of an image in `done.bin`.
_DONE, _UNREADABLE = 1, 2

_BATCH = 32  # images at a time: the ViT without gradients needs little memory


class ImageFeatures:
    """Cached features, a float tensor (patches + 1, vision width) per distinct image, in a file for all processes.

    The folder's name is a hash of everything that determines the features (the ViT's weights, the images and their
    preprocessing, the precision), so that runs with other settings do not use them. Finished images are marked, so that
    an interrupted pass is resumed.

    Args:
        folder: The parent folder of all caches.
        rows: Datasets with undecoded images (see `readable`).
        model: The model with the ViT.
        processor: The model's processor.
        dtype: Precision of the cached features.
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
        # Spawned loader workers map the file themselves.
        return {**self.__dict__, "_tensor": None}

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return len(self) * math.prod(self.shape) * self.dtype.itemsize

    def of(self, image: Mapping[str, Any]) -> torch.Tensor:
        """The features of an undecoded image, float (patches + 1, vision width).

        Raises:
            ImageError: The image could not be opened when features were computed.
        """
        if self._tensor is None:
            self._done = self._marks("r")
            # Copy on write, because torch warns about read-only memory.
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
        """Computes the missing features of one process's share, and returns the number of these images.

        Args:
            embed: Function from `pixel_values`, float (B, 3, H, W), to features, float (B, patches + 1, vision width).
            processor: The model's processor.
            batch_size: Images per batch.
            share: Index of this process, and number of processes.
            quiet: Whether to hide the progress bar.
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
                    except ImageError:  # reported when the row is drawn
                        done[place] = _UNREADABLE
                if images:
                    values = processor(images=list(images.values()), return_tensors="pt")["pixel_values"]
                    features = embed(values).to("cpu", self.dtype).contiguous()
                    file[list(images)] = features.view(len(images), -1).view(torch.uint8).numpy()
                    # Marked after the flush: if the process dies in between, these images are computed again.
                    file.flush()
                    done[list(images)] = _DONE
                    done.flush()
                progress.add(len(batch))
        return len(missing)

    def _marks(self, mode: str) -> np.memmap:
        """The state of each image, uint8 (images,): 0, `_DONE` or `_UNREADABLE`."""
        return _mapped(self.folder / "done.bin", (len(self),), np.uint8, mode)

    def _open(self, mode: str) -> np.memmap:
        """The features file, uint8 (images, bytes per image)."""
        return _mapped(self.folder / "features.bin", (len(self), self.size // len(self)), np.uint8, mode)


def compute_features(
    folder: str | Path,
    mixture: Any,
    model: VigcForConditionalGeneration,
    processor: VigcProcessor,
    accelerator: Accelerator,
    quiet: bool = False,
) -> None:
    """Computes missing features in all processes, and makes `mixture` return features instead of images.

    Raises:
        ValueError: `mixture` is not a [`VigcMixture`], or it augments its images.
    """
    if not isinstance(mixture, VigcMixture):
        raise TrainingError(f"image_features={str(folder)!r} needs a VigcMixture as train_dataset.")
    if mixture.image_size is not None:
        raise TrainingError("image_features caches features of whole images: give the mixture image_size=None.")
    model.vision_model.to(accelerator.device).eval()
    # The precision to which the Q-Former's cross-attention converts them in mixed precision.
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
    """Maps a file as an array; mode "r+" creates it with zeros if needed, also from several processes at once."""
    if mode == "r+":
        size = math.prod(shape) * np.dtype(dtype).itemsize
        with path.open("ab") as file:
            file.truncate(size)
            try:
                # Without allocated space, writing to the mapped file would kill the process silently.
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
            f"The image {cut(image['path'])!r} cannot be read: {reason_of(error, path=False)}"
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
