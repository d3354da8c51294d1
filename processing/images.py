"""Pictures from strangers: opened safely, upright and in RGB, with the bytes of them that may be published."""

from __future__ import annotations

import io
import math
import os
import re
import stat
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from PIL import ExifTags, Image, UnidentifiedImageError

from vigc.errors import ImageDataError, ImageError, ImageSizeError

from .metadata import MAX_PNG_TEXT, has_more_scans, readable, without_jpeg_metadata, without_png_metadata

PICTURE_SUFFIXES = frozenset(
    {".avif", ".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
)
# Photographs of phones. They are read where pillow-heif is installed, which the extra `heic` brings.
HEIF_SUFFIXES = frozenset({".heic", ".heif", ".hif"})
HEIF_FIX = "pip install 'vigc[heic]' to read"
# Named one by one: Pillow knows formats that start other programs (EPS) or that nobody keeps photographs in.
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF")
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")

# An RGB copy of the largest picture is 240 MB. Below Pillow's own warning limit, so that this one speaks.
MAX_PIXELS = 80_000_000
# libwebp holds two pictures of its own beside those of Pillow: one of 80 million pixels would take 1.2 GB.
_MAX_WEBP_PIXELS = 60_000_000
MAX_BYTES = 256 * 2**20
# A progressive JPEG has about ten scans. Each is a pass over all pixels, however few bytes it takes.
MAX_SCANS = 64

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True, slots=True)
class Picture:
    """An opened picture.

    Args:
        image: RGB, upright, first frame.
        data: The bytes to publish: the original ones less their metadata, or re-encoded where they cannot stay.
            Decoding them and calling `convert("RGB")`, as every trainer does, yields exactly `image`.
        original: The bytes as they were read.
    """

    image: Image.Image
    data: bytes
    original: bytes


def open_image(source: str | os.PathLike[str] | bytes, *, name: str | None = None) -> Image.Image:
    """Opens a picture as RGB: first frame, upright by its EXIF, transparency on white, 16-bit grey scaled to 8.

    Args:
        source: A path, or the bytes of a file.
        name: What to call the picture in errors; by default its path.

    Raises:
        ImageError: Not a regular file, empty, not of a known format, truncated or corrupt, or of more than
            `MAX_BYTES` bytes, `MAX_PIXELS` pixels, `MAX_SCANS` scans or `metadata.MAX_PARTS` parts (checked before
            anything is decoded). Long texts and profiles are no reason: they are left out.
    """
    name = name or _name(source)
    return _to_rgb(_decoded(_readable(_read(source, name), name), name), name)


def load_picture(source: str | os.PathLike[str] | bytes, *, name: str | None = None) -> Picture:
    """Opens a picture as [`open_image`] does, together with the bytes of it that may be published.

    A JPEG or PNG keeps its compressed pixels and loses EXIF, GPS, XMP, comments, text and appended data. A JPEG that
    its EXIF turns is re-encoded upright. Other formats, and what a plain `convert("RGB")` would show differently
    (transparency, 16-bit grey), become PNG. A colour profile stays unless it is damaged or, in a PNG, longer than the
    1 MB that Pillow reads.

    Raises:
        ImageError: As in [`open_image`].
    """
    name = name or _name(source)
    original = _read(source, name)
    content = _readable(original, name)
    decoded = _decoded(content, name)
    image = _to_rgb(decoded, name)
    data = _stripped(decoded, content)
    del content
    if data is None:
        profile = decoded.info.get("icc_profile") if decoded.mode in ("RGB", "RGBA") else None
        kind = "JPEG" if decoded.format in ("JPEG", "MPO") else "PNG"
        del decoded  # each copy of the largest picture is 300 MB
        data = _encoded(image, kind, profile)
        if kind == "JPEG":
            del image
            image = _to_rgb(_decoded(data, name), name)
    return Picture(image, data, original)


def _name(source: str | os.PathLike[str] | bytes) -> str:
    return f"of {len(source)} bytes" if isinstance(source, bytes) else os.fspath(source)


def _read(source: str | os.PathLike[str] | bytes, name: str) -> bytes:
    if isinstance(source, bytes):
        size = len(source)
    else:
        try:
            status = os.stat(source)
        except (OSError, ValueError) as error:
            raise ImageError(name, f"cannot be read ({_text(error)})") from error
        if not stat.S_ISREG(status.st_mode):
            raise ImageError(name, "is not a regular file: give a picture file")
        size = status.st_size
    if size == 0:
        raise ImageDataError(name, "is empty (0 bytes): get the file again")
    if size > MAX_BYTES:
        raise ImageSizeError(name, f"has {size:,} bytes, more than the limit of {MAX_BYTES:,}: make it smaller")
    if isinstance(source, bytes):
        return source
    try:
        return Path(source).read_bytes()
    except OSError as error:
        raise ImageError(name, f"cannot be read ({_text(error)})") from error


@cache
def reads_heif() -> bool:
    """Whether HEIC and HEIF pictures are read here: pillow-heif is installed."""
    return find_spec("pillow_heif") is not None


def picture_suffixes() -> frozenset[str]:
    """Endings of the files that are read as pictures, in lower case."""
    return PICTURE_SUFFIXES | HEIF_SUFFIXES if reads_heif() else PICTURE_SUFFIXES


@cache
def _formats() -> tuple[str, ...]:
    Image.init()
    if reads_heif():
        from pillow_heif import register_heif_opener

        register_heif_opener(thumbnails=False)
    return tuple(name for name in _FORMATS if name in Image.OPEN and (name != "HEIF" or reads_heif()))


def _readable(data: bytes, name: str) -> bytes:
    try:
        return readable(data)
    except ValueError as error:
        raise ImageSizeError(name, str(error)) from error


def _decoded(data: bytes, name: str) -> Image.Image:
    """The first frame with its pixels, as the file has it."""
    try:
        image = Image.open(io.BytesIO(data), formats=_formats())
    except Image.DecompressionBombError as error:
        raise ImageSizeError(name, f"has more than the limit of {MAX_PIXELS:,} pixels: make it smaller") from error
    except MemoryError:
        raise  # the machine's trouble, not the picture's
    except Exception as error:  # Pillow's parsers raise whatever a broken header makes them raise
        raise ImageDataError(name, _why_not_opened(data, error)) from error
    width, height = image.size
    most = min(MAX_PIXELS, _MAX_WEBP_PIXELS) if image.format == "WEBP" else MAX_PIXELS
    if width * height > most:
        size = f"{width} x {height} = {width * height:,} pixels"
        raise ImageSizeError(name, f"has {size}, more than the limit of {most:,}: make it smaller")
    if image.format in ("JPEG", "MPO") and has_more_scans(data, MAX_SCANS):
        raise ImageSizeError(name, f"is drawn in more than the limit of {MAX_SCANS} scans: save it again")
    try:
        image.load()
    except MemoryError:
        raise
    except Exception as error:
        raise ImageDataError(name, f"is truncated or corrupt ({_text(error)}): get the file again") from error
    return image


def _why_not_opened(data: bytes, error: Exception) -> str:
    """Why Pillow opens no picture: its own limit or complaint where it knows the format."""
    brand = data[8:12] if data[4:8] == b"ftyp" else b""
    if brand in _HEIF_BRANDS and "HEIF" not in _formats():
        return f"is a HEIC or HEIF picture: {HEIF_FIX} it"
    if brand in (b"avif", b"avis") and "AVIF" not in _formats():
        return "is an AVIF picture, which this Pillow does not read: install pillow 11.3 or newer"
    known = [kind for kind in _formats() if (accept := Image.OPEN[kind][1]) and accept(data[:16]) is True]
    if not known:
        return f"is not a picture in a format that is read here ({', '.join(_formats())}), or corrupt"
    if isinstance(error, UnidentifiedImageError):
        error = _swallowed(data, known[0]) or error
    text = _text(error)
    if re.search(r"MAX_|too (large|long|much)", text):
        return f"passes a limit of Pillow's ({text}): save it again without its metadata"
    return f"is a {known[0]} file that is truncated or corrupt, or of a kind that Pillow does not read ({text})"


def _swallowed(data: bytes, kind: str) -> Exception | None:
    """Why Pillow does not open a file of a format, which `Image.open` does not tell."""
    try:
        Image.OPEN[kind][0](io.BytesIO(data), "")
    except MemoryError:
        raise
    except Exception as error:
        return error
    return None


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    try:
        upright = image.transpose(_UPRIGHT[_orientation(image)]) if _orientation(image) != 1 else image
        rgb = _flat(upright, image)
    except (ValueError, OSError) as error:
        raise ImageDataError(
            name, f"has colours of a kind that cannot be shown ({image.mode}: {_text(error)})"
        ) from error
    if rgb is image:
        rgb = image.copy()
    rgb.info = {}
    return rgb


def _flat(upright: Image.Image, source: Image.Image) -> Image.Image:
    """RGB from any mode."""
    if upright.mode.startswith("I;16"):
        return _from_16_bit(upright.convert("I")).convert("RGB")
    if upright.mode == "I" and source.format == "PNG":  # older Pillow's name for 16-bit grey
        return _from_16_bit(upright).convert("RGB")
    if upright.mode in ("I", "F"):
        return _stretched(upright if upright.mode == "F" else upright.convert("F")).convert("RGB")
    if _transparent(source):
        if upright.mode == "La":
            upright = upright.convert("LA")
        coloured = upright if upright.mode == "RGBA" else upright.convert("RGBA")
        paper = Image.new("RGB", coloured.size, "white")
        paper.paste(coloured, mask=coloured.getchannel("A"))
        return paper
    return upright if upright.mode == "RGB" else upright.convert("RGB")


def _from_16_bit(image: Image.Image) -> Image.Image:
    # `convert` clips at 255, which leaves a blank white picture.
    return image.point([value // 257 for value in range(65536)], "L")


def _stretched(image: Image.Image) -> Image.Image:
    """Grey from measurements without a known white: darkest to brightest."""
    low, high = (float(value) for value in image.getextrema())  # type: ignore[arg-type]
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError("its values are not finite")
    scale = 255 / (high - low) if high > low else 0.0
    return image.point(lambda value: value * scale - low * scale).convert("L")


def _transparent(image: Image.Image) -> bool:
    return image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # damaged EXIF says nothing; the pixels are whole
        return 1
    return value if value in _UPRIGHT else 1


def _stripped(image: Image.Image, original: bytes) -> bytes | None:
    """The file less its metadata, pixels untouched; None if those bytes cannot stay."""
    if _orientation(image) != 1 or _transparent(image):
        return None
    if image.format in ("JPEG", "MPO"):
        return without_jpeg_metadata(original)
    if image.format == "PNG" and image.mode in ("1", "L", "P", "RGB"):
        return without_png_metadata(original)
    return None


def _encoded(image: Image.Image, kind: str, profile: bytes | None) -> bytes:
    buffer = io.BytesIO()
    if kind == "PNG" and profile is not None and len(profile) > MAX_PNG_TEXT:
        profile = None  # Pillow writes it, and refuses to open what it wrote
    if kind == "JPEG":
        image.save(buffer, kind, quality=95, subsampling=0, icc_profile=profile)
    else:
        image.save(buffer, kind, icc_profile=profile)
    return buffer.getvalue()


def _text(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__
