"""Renders scenes as images of 96 x 96 pixels: each kind has its own shape, and the image gets a little noise.

A shape is a list of parts in a square of 100 x 100. Shapes are drawn large and scaled down, so that edges are smooth.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image, ImageDraw

from .world import COLORS, SIZES, Scene, SceneObject

PICTURE_SIZE = 96
CELL_SIZE = PICTURE_SIZE // 3
NOISE = 10.0

# Side of an object in pixels: a large one nearly fills its cell.
OBJECT_SIZE = dict(zip(SIZES, (21, 31), strict=True))
# The largest random offset of an object from the middle of its cell, in pixels.
_SHAKE = 2

_OVERSAMPLING = 8
_INK = (45, 38, 42)
_FIXED_FILLS = {
    "ink": _INK,
    "wood": (134, 92, 58),
    "pane": (196, 226, 240),
    "cream": (250, 242, 220),
    "steel": (150, 156, 166),
    "leaf": (70, 140, 60),
    "glow": (255, 244, 170),
}


@dataclass(frozen=True, slots=True)
class _Part:
    """A piece of a shape.

    "oval", "bare" (an oval without outline), "box" and "pie" have the corners of their bounding box as points, "poly"
    and "line" their vertices. `fill` is "main" (the object's colour), "dark" or "light" (shades of it), or a name of
    `_FIXED_FILLS`;
    `extra` is the radius of a box's corners, the width of a line, or the end angle of a pie that starts at 180 degrees.
    """

    form: str
    fill: str
    points: tuple[int, ...]
    extra: int = 0


def _oval(fill: str, *points: int) -> _Part:
    return _Part("oval", fill, points)


def _box(fill: str, *points: int, radius: int = 0) -> _Part:
    return _Part("box", fill, points, radius)


def _poly(fill: str, *points: int) -> _Part:
    return _Part("poly", fill, points)


def _line(fill: str, *points: int, width: int = 6) -> _Part:
    return _Part("line", fill, points, width)


def _gloss(*points: int) -> _Part:
    """A highlight: a light oval without outline."""
    return _Part("bare", "light", points)


def _core(*points: int) -> _Part:
    """Hides the outlines where ovals that make up one shape overlap."""
    return _Part("bare", "main", points)


def _pie(fill: str, *points: int) -> _Part:
    """The upper half of an oval."""
    return _Part("pie", fill, points, 360)


_SHAPES: dict[str, tuple[_Part, ...]] = {
    "car": (
        _poly("main", 16, 44, 32, 16, 70, 16, 86, 44),
        _poly("pane", 30, 40, 38, 24, 66, 24, 74, 40),
        _box("main", 1, 42, 99, 76, radius=10),
        _oval("ink", 14, 64, 38, 88),
        _oval("ink", 62, 64, 86, 88),
    ),
    "house": (
        _box("main", 14, 44, 86, 97),
        _poly("dark", 50, 4, 98, 48, 2, 48),
        _box("wood", 42, 64, 60, 97),
        _box("pane", 20, 58, 36, 74),
        _box("pane", 66, 58, 80, 74),
    ),
    "bus": (
        _box("main", 3, 14, 97, 82, radius=8),
        _box("pane", 10, 26, 32, 48),
        _box("pane", 39, 26, 61, 48),
        _box("pane", 68, 26, 90, 48),
        _line("dark", 5, 60, 95, 60, width=7),
        _oval("ink", 14, 70, 38, 94),
        _oval("ink", 62, 70, 86, 94),
    ),
    "flag": (
        _line("wood", 16, 4, 16, 97, width=9),
        _poly("main", 18, 8, 50, 16, 94, 8, 94, 54, 50, 62, 18, 54),
        _line("dark", 18, 31, 50, 39, 94, 31, width=7),
    ),
    "cup": (
        _oval("main", 58, 30, 98, 72),
        _oval("cream", 70, 42, 86, 60),
        _poly("main", 8, 20, 78, 20, 70, 90, 16, 90),
        _oval("dark", 8, 10, 78, 32),
        _oval("wood", 16, 15, 70, 28),
    ),
    "pot": (
        _box("ink", 0, 44, 100, 56, radius=6),
        _box("main", 12, 36, 88, 92, radius=12),
        _box("dark", 6, 28, 94, 42, radius=6),
        _oval("ink", 42, 12, 58, 28),
        _line("light", 26, 52, 26, 78, width=7),
    ),
    "bottle": (
        _box("wood", 40, 2, 60, 16),
        _poly("main", 41, 14, 59, 14, 60, 34, 76, 50, 76, 96, 24, 96, 24, 50, 40, 34),
        _box("cream", 26, 58, 74, 80),
        _line("main", 36, 69, 64, 69, width=7),
    ),
    "apple": (
        _oval("main", 6, 24, 60, 94),
        _oval("main", 40, 24, 94, 94),
        _core(24, 32, 76, 90),
        _line("wood", 50, 34, 54, 6, width=8),
        _poly("leaf", 56, 20, 70, 6, 88, 8, 76, 22),
        _gloss(18, 38, 32, 56),
    ),
    "boat": (
        _line("wood", 48, 4, 48, 72, width=7),
        _poly("main", 54, 8, 54, 60, 92, 60),
        _poly("light", 42, 16, 42, 60, 12, 60),
        _poly("main", 2, 68, 98, 68, 82, 96, 18, 96),
    ),
    "umbrella": (
        _line("wood", 50, 40, 50, 88, 60, 95, 70, 88, width=7),
        _pie("main", 2, 8, 98, 100),
        _poly("dark", 50, 10, 66, 53, 34, 53),
        _line("ink", 50, 2, 50, 10, width=6),
    ),
    "fish": (
        _poly("dark", 66, 50, 97, 20, 97, 80),
        _oval("main", 3, 22, 78, 78),
        _oval("cream", 14, 38, 28, 52),
        _oval("ink", 18, 42, 25, 49),
        _line("dark", 36, 32, 42, 50, 36, 68, width=6),
        _line("dark", 52, 32, 58, 50, 52, 68, width=6),
    ),
    "star": (
        _poly("main", 50, 2, 64, 36, 99, 38, 72, 61, 81, 97, 50, 77, 19, 97, 28, 61, 1, 38, 36, 36),
        _oval("ink", 38, 46, 45, 55),
        _oval("ink", 55, 46, 62, 55),
        _line("ink", 40, 64, 50, 69, 60, 64, width=5),
    ),
    "tree": (
        _box("wood", 42, 62, 58, 98),
        _oval("main", 4, 28, 54, 76),
        _oval("main", 46, 28, 96, 76),
        _oval("main", 20, 3, 80, 60),
        _core(30, 34, 70, 70),
        _gloss(34, 14, 50, 28),
    ),
    "flower": (
        _line("leaf", 50, 56, 50, 98, width=8),
        _poly("leaf", 52, 84, 66, 66, 86, 66, 74, 82),
        _oval("main", 36, 2, 64, 30),
        _oval("main", 58, 18, 86, 46),
        _oval("main", 50, 42, 78, 70),
        _oval("main", 22, 42, 50, 70),
        _oval("main", 14, 18, 42, 46),
        _oval("glow", 36, 24, 64, 52),
    ),
    "mushroom": (
        _box("cream", 36, 48, 64, 96, radius=10),
        _pie("main", 3, 8, 97, 104),
        _oval("cream", 22, 30, 38, 44),
        _oval("cream", 46, 16, 60, 30),
        _oval("cream", 66, 34, 80, 47),
    ),
    "bed": (
        _box("wood", 1, 12, 12, 94),
        _box("wood", 88, 36, 99, 94),
        _box("cream", 12, 34, 46, 60, radius=6),
        _box("main", 28, 38, 92, 82, radius=6),
    ),
    "lamp": (
        _line("ink", 50, 50, 50, 90, width=8),
        _box("steel", 26, 86, 74, 97, radius=5),
        _poly("main", 32, 6, 68, 6, 92, 54, 8, 54),
        _oval("glow", 42, 50, 58, 66),
    ),
    "book": (
        _poly("dark", 2, 22, 50, 30, 98, 22, 98, 86, 50, 94, 2, 86),
        _poly("main", 8, 14, 48, 24, 48, 84, 8, 76),
        _poly("main", 92, 14, 52, 24, 52, 84, 92, 76),
        _line("cream", 16, 32, 40, 38, width=6),
        _line("cream", 16, 48, 40, 54, width=6),
        _line("cream", 60, 38, 84, 32, width=6),
        _line("cream", 60, 54, 84, 48, width=6),
    ),
    "clock": (
        _oval("dark", 14, 2, 40, 26),
        _oval("dark", 60, 2, 86, 26),
        _oval("main", 6, 10, 94, 98),
        _oval("cream", 20, 24, 80, 84),
        _line("ink", 50, 32, 50, 56, 68, 62, width=7),
    ),
    "kite": (
        _line("ink", 50, 68, 40, 80, 56, 88, 46, 98, width=5),
        _poly("main", 50, 2, 86, 34, 50, 72, 14, 34),
        _poly("light", 50, 2, 50, 34, 14, 34),
        _poly("main", 50, 34, 86, 34, 50, 72),
        _poly("dark", 32, 78, 46, 84, 34, 92),
    ),
    "ball": (
        _oval("main", 5, 5, 95, 95),
        _Part("bare", "cream", (36, 7, 64, 93)),
        _oval("dark", 40, 40, 60, 60),
    ),
    "balloon": (
        _line("ink", 50, 72, 42, 82, 56, 90, 48, 99, width=5),
        _poly("dark", 50, 66, 60, 80, 40, 80),
        _oval("main", 18, 2, 82, 74),
        _gloss(30, 14, 44, 34),
    ),
}

# Colour of the upper half, colour of the lower half, and the horizon as a fraction of the image's height.
_BACKGROUNDS: dict[str, tuple[tuple[int, int, int], tuple[int, int, int], float]] = {
    "street": ((188, 208, 222), (128, 130, 136), 0.62),
    "kitchen": ((226, 214, 190), (176, 150, 124), 0.7),
    "beach": ((136, 196, 224), (228, 206, 156), 0.55),
    "garden": ((190, 222, 214), (126, 176, 104), 0.4),
    "bedroom": ((206, 190, 210), (150, 116, 96), 0.72),
    "park": ((170, 206, 240), (160, 196, 120), 0.6),
}


@dataclass(frozen=True, slots=True)
class Rendered:
    """An image and the boxes of its objects.

    Args:
        image: RGB, `PICTURE_SIZE` square.
        boxes: For each object of the scene the bounding box (x, y, width, height) of its pixels.
    """

    image: Image.Image
    boxes: tuple[tuple[int, int, int, int], ...]


def render(scene: Scene) -> Rendered:
    """Renders a scene. The same scene always gives the same pixels."""
    rng = random.Random(f"render:{scene.key}")
    image = _background(scene.theme).copy()
    boxes = []
    for item in scene.objects:
        sprite = _sprite(item.kind, item.color, item.size)
        left, top = _corner(item, rng)
        image.paste(sprite, (left, top), sprite)
        x0, y0, x1, y1 = _visible_box(item.kind, item.color, item.size)
        boxes.append((left + x0, top + y0, x1 - x0, y1 - y0))
    return Rendered(_noisy(image, rng), tuple(boxes))


def _corner(item: SceneObject, rng: random.Random) -> tuple[int, int]:
    room = CELL_SIZE - OBJECT_SIZE[item.size]
    # Near the middle of the cell, so that "in the top left corner" is never ambiguous.
    low, high = max(0, room // 2 - _SHAKE), min(room, (room + 1) // 2 + _SHAKE)
    column, row = item.cell % 3, item.cell // 3
    return column * CELL_SIZE + rng.randint(low, high), row * CELL_SIZE + rng.randint(low, high)


def _noisy(image: Image.Image, rng: random.Random) -> Image.Image:
    generator = np.random.default_rng(rng.getrandbits(64))
    noise = generator.standard_normal((PICTURE_SIZE, PICTURE_SIZE, 3), dtype=np.float32) * NOISE
    pixels = np.asarray(image, dtype=np.float32) + rng.uniform(-10, 10) + noise
    return Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8))


@cache
def _background(theme: str) -> Image.Image:
    upper, lower, share = _BACKGROUNDS[theme]
    height = np.linspace(0, 1, PICTURE_SIZE)
    # Each half fades a little towards the horizon.
    fade = np.where(height < share, 1 + 0.08 * height, 1.06 - 0.12 * (1 - height))[:, None]
    rows = np.where((height < share)[:, None], np.array(upper), np.array(lower)) * fade
    pixels = np.repeat(rows[:, None, :], PICTURE_SIZE, axis=1).clip(0, 255).astype(np.uint8)
    return Image.fromarray(pixels)


@cache
def _sprite(kind: str, color: str, size: str) -> Image.Image:
    """An object alone on a transparent square, RGBA."""
    side = OBJECT_SIZE[size]
    large = side * _OVERSAMPLING
    canvas = Image.new("RGBA", (large, large), (*_INK, 0))
    draw = ImageDraw.Draw(canvas)
    # The same outline width, in pixels of the final image, for both sizes.
    outline = round(0.9 * _OVERSAMPLING)
    margin, scale = outline / 2, (large - 1 - outline) / 100
    for part in _SHAPES[kind]:
        points = [margin + value * scale for value in part.points]
        _draw(draw, part, points, _fill(part.fill, color), outline, scale)
    return canvas.resize((side, side), Image.Resampling.BOX)


def _draw(
    draw: ImageDraw.ImageDraw, part: _Part, points: list[float], fill: tuple[int, int, int], outline: int, scale: float
) -> None:
    pairs = list(zip(points[::2], points[1::2], strict=True))
    if part.form == "oval":
        draw.ellipse(points, fill, _INK, outline)
    elif part.form == "box":
        draw.rounded_rectangle(points, part.extra * scale, fill, _INK, outline)
    elif part.form == "pie":
        draw.pieslice(points, 180, part.extra, fill, _INK, outline)
    elif part.form == "poly":
        draw.polygon(pairs, fill)
        draw.line([*pairs, pairs[0], pairs[1]], _INK, outline, joint="curve")
    elif part.form == "line":
        draw.line(pairs, fill, round(part.extra * scale), joint="curve")
    else:  # "bare": an oval without an outline
        draw.ellipse(points, fill)


def _fill(name: str, color: str) -> tuple[int, int, int]:
    if name in _FIXED_FILLS:
        return _FIXED_FILLS[name]
    red, green, blue = COLORS[color]
    if name == "dark":
        return round(red * 0.72), round(green * 0.72), round(blue * 0.72)
    if name == "light":
        return (red + 255) // 2, (green + 255) // 2, (blue + 255) // 2
    return red, green, blue


@cache
def _visible_box(kind: str, color: str, size: str) -> tuple[int, int, int, int]:
    """The bounding box (x0, y0, x1, y1) of the sprite's pixels that are at least half opaque."""
    alpha = _sprite(kind, color, size).getchannel("A").point(lambda value: 255 if value >= 128 else 0)
    box = alpha.getbbox()
    if box is None:
        raise ValueError(f"the shape of {kind!r} draws nothing")
    return box


def contact_sheet(scenes: list[Scene], columns: int = 6, scale: int = 2) -> Image.Image:
    """Many scenes in one image, to look at."""
    side = PICTURE_SIZE * scale
    rows = -(-len(scenes) // columns)
    sheet = Image.new("RGB", (columns * (side + 4), rows * (side + 4)), (255, 255, 255))
    for number, scene in enumerate(scenes):
        image = render(scene).image.resize((side, side), Image.Resampling.NEAREST)
        sheet.paste(image, (number % columns * (side + 4), number // columns * (side + 4)))
    return sheet
