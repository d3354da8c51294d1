"""Opens untrusted images safely: EXIF orientation applied, RGB, and metadata stripped from the bytes to publish."""

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
# Phone photographs. They need pillow-heif, which the extra `heic` installs.
HEIF_SUFFIXES = frozenset({".heic", ".heif", ".hif"})
HEIF_FIX = "pip install 'vigc[heic]' to read"
# An allow-list: some of Pillow's formats start other programs (EPS) or are not used for photographs.
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF")
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")

# An RGB copy of the largest image is 240 MB. Lower than Pillow's own warning limit, so that this limit applies first.
MAX_PIXELS = 80_000_000
# libwebp holds two more copies than Pillow: an image of 80 million pixels would take 1.2 GB.
_MAX_WEBP_PIXELS = 60_000_000
MAX_BYTES = 256 * 2**20
# A progressive JPEG has about ten scans. Each one is a pass over all pixels, even if it has few bytes.
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
    """An opened image.

    Args:
        image: RGB, upright, first frame.
        data: The bytes to publish: the original without metadata, or re-encoded where that is not possible. Decoding
            them and calling `convert("RGB")`, as trainers do, yields exactly `image`.
        original: The bytes of the file.
    """

    image: Image.Image
    data: bytes
    original: bytes


def open_image(source: str | os.PathLike[str] | bytes, *, name: str | None = None) -> Image.Image:
    """Opens an image as RGB: first frame, EXIF orientation applied, transparency on white, 16-bit grey scaled to 8.

    Args:
        source: A path, or the bytes of a file.
        name: The image's name in errors; its path by default.

    Raises:
        ImageError: Not a regular file, empty, not in a known format, truncated or corrupt, or of more than
            `MAX_BYTES` bytes, `MAX_PIXELS` pixels, `MAX_SCANS` scans or `metadata.MAX_PARTS` parts (checked before
            decoding). Long texts and profiles raise nothing: they are removed.
    """
    name = name or _name(source)
    return _to_rgb(_decoded(_readable(_read(source, name), name), name), name)


def load_picture(source: str | os.PathLike[str] | bytes, *, name: str | None = None) -> Picture:
    """Opens an image like [`open_image`], and returns it with the bytes to publish.

    JPEG and PNG files keep their compressed pixels and lose EXIF, GPS, XMP, comments, text and appended data. A JPEG
    with an EXIF rotation is re-encoded upright. Other formats, and images that a plain `convert("RGB")` would show
    differently (transparency, 16-bit grey), become PNG. A colour profile is kept unless it is damaged or, in a PNG,
    longer than the 1 MB that Pillow reads.

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
        del decoded  # each copy of the largest image is 300 MB
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
            raise ImageError(name, "is not a regular file: give an image file")
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
    """Whether HEIC and HEIF images can be read, that is, whether pillow-heif is installed."""
    return find_spec("pillow_heif") is not None


def picture_suffixes() -> frozenset[str]:
    """The file suffixes of the image formats that can be read, in lower case."""
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
    """The first frame, decoded but not converted."""
    try:
        image = Image.open(io.BytesIO(data), formats=_formats())
    except Image.DecompressionBombError as error:
        raise ImageSizeError(name, f"has more than the limit of {MAX_PIXELS:,} pixels: make it smaller") from error
    except MemoryError:
        raise  # transient: the image may be valid
    except Exception as error:  # for a broken header, Pillow's parsers raise errors of any class
        raise ImageDataError(name, _why_not_opened(data, error)) from error
    width, height = image.size
    most = min(MAX_PIXELS, _MAX_WEBP_PIXELS) if image.format == "WEBP" else MAX_PIXELS
    if width * height > most:
        size = f"{width} x {height} = {width * height:,} pixels"
        raise ImageSizeError(name, f"has {size}, more than the limit of {most:,}: make it smaller")
    if image.format in ("JPEG", "MPO") and has_more_scans(data, MAX_SCANS):
        raise ImageSizeError(name, f"has more scans than the limit of {MAX_SCANS}: save it again")
    try:
        image.load()
    except MemoryError:
        raise
    except Exception as error:
        raise ImageDataError(name, f"is truncated or corrupt ({_text(error)}): get the file again") from error
    return image


def _why_not_opened(data: bytes, error: Exception) -> str:
    """Why Pillow cannot open an image: for a known format, Pillow's own reason."""
    brand = data[8:12] if data[4:8] == b"ftyp" else b""
    if brand in _HEIF_BRANDS and "HEIF" not in _formats():
        return f"is a HEIC or HEIF image: {HEIF_FIX} it"
    if brand in (b"avif", b"avis") and "AVIF" not in _formats():
        return "is an AVIF image, which this Pillow cannot read: install pillow 11.3 or newer"
    known = [kind for kind in _formats() if (accept := Image.OPEN[kind][1]) and accept(data[:16]) is True]
    if not known:
        return f"is not an image in a supported format ({', '.join(_formats())}), or is corrupt"
    if isinstance(error, UnidentifiedImageError):
        error = _swallowed(data, known[0]) or error
    text = _text(error)
    if re.search(r"MAX_|too (large|long|much)", text):
        return f"exceeds a limit of Pillow's ({text}): save it again without its metadata"
    return f"is a {known[0]} file that is truncated or corrupt, or of a variant that Pillow does not read ({text})"


def _swallowed(data: bytes, kind: str) -> Exception | None:
    """The error that Pillow raises for a file of a known format, which `Image.open` hides."""
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
            name, f"has a colour mode that cannot be converted ({image.mode}: {_text(error)})"
        ) from error
    if rgb is image:
        rgb = image.copy()
    rgb.info = {}
    return rgb


def _flat(upright: Image.Image, source: Image.Image) -> Image.Image:
    """Converts any mode to RGB."""
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
    # `convert` clips at 255, which would leave a blank white image.
    return image.point([value // 257 for value in range(65536)], "L")


def _stretched(image: Image.Image) -> Image.Image:
    """8-bit grey of values without a known range: scaled from the darkest to the brightest."""
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
    except Exception:  # damaged EXIF is ignored: the pixels are intact
        return 1
    return value if value in _UPRIGHT else 1


def _stripped(image: Image.Image, original: bytes) -> bytes | None:
    """The file without its metadata and with the same pixels; None if it has to be re-encoded."""
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
        profile = None  # Pillow would write it, and then refuse to open the file
    if kind == "JPEG":
        image.save(buffer, kind, quality=95, subsampling=0, icc_profile=profile)
    else:
        image.save(buffer, kind, icc_profile=profile)
    return buffer.getvalue()


def _text(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__
