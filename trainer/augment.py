"""Image augmentation for training: random resized crop, and horizontal flip with probability 0.5."""

from __future__ import annotations

import math
from random import Random

from PIL import Image

_RATIOS = (3 / 4, 4 / 3)
_TRIES = 10


def crop_box(width: int, height: int, min_area: float, rng: Random) -> tuple[int, int, int, int]:
    """A random crop (left, top, right, bottom) with an area ratio of `min_area` to 1 and an aspect ratio of 3:4 to 4:3.

    If none of ten random crops fits, the largest crop at the center, as in the usual "random resized crop".
    """
    for _ in range(_TRIES):
        area = width * height * rng.uniform(min_area, 1)
        ratio = math.exp(rng.uniform(math.log(_RATIOS[0]), math.log(_RATIOS[1])))
        wide, high = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < wide <= width and 0 < high <= height:
            left, top = rng.randint(0, width - wide), rng.randint(0, height - high)
            return left, top, left + wide, top + high
    wide = min(width, max(1, round(height * _RATIOS[1])))
    high = min(height, max(1, round(width / _RATIOS[0])))
    left, top = (width - wide) // 2, (height - high) // 2
    return left, top, left + wide, top + high


def augmented(image: Image.Image, size: tuple[int, int], min_area: float, rng: Random) -> Image.Image:
    """A random crop of `image`, resized (bicubic) to `size` (width, height), flipped with probability 0.5."""
    part = image.crop(crop_box(*image.size, min_area, rng)).resize(size, Image.Resampling.BICUBIC)
    return part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else part
