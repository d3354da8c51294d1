"""Takes out of JPEG and PNG files what says where, when and by whom: pixels stay as they are, bit for bit.

Both ways keep a list of what may stay rather than of what must go, since cameras invent new places.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from typing import Any

from PIL import ExifTags, Image

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# What decides the pixels and their colours. Left out: text, time, EXIF, animation and private chunks.
_PNG_KEPT = frozenset(b"IHDR PLTE IDAT IEND tRNS gAMA cHRM sRGB iCCP cICP sBIT bKGD pHYs".split())

_SOI, _EOI = b"\xff\xd8", b"\xff\xd9"
_SCAN = 0xDA
_COMMENT = 0xFE
_BARE_MARKERS = {0x01, *range(0xD0, 0xD8)}
# Within a scan 0xFF is followed by 0x00 (the byte itself), a restart marker, or 0xFF (fill).
_AFTER_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")


def without_png_metadata(data: bytes) -> bytes | None:
    """A PNG file with the chunks that make the picture only; None if its chunks do not add up."""
    if not data.startswith(_PNG_SIGNATURE):
        return None
    kept, at = [_PNG_SIGNATURE], len(_PNG_SIGNATURE)
    while at + 12 <= len(data):
        kind = data[at + 4 : at + 8]
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        if end > len(data):
            return None
        if kind in _PNG_KEPT:
            kept.append(data[at:end])
        if kind == b"IEND":
            return b"".join(kept)
        at = end
    return None


def without_jpeg_metadata(data: bytes) -> bytes | None:
    """A JPEG file with tables, scans, colour profile and nothing else; None if its segments do not add up.

    What follows the first picture (a second one of an MPO file, a phone's video) goes as well.
    """
    kept = [_SOI]
    for marker, segment in _segments(data):
        kept.append(segment if marker in _BARE_MARKERS or segment == _EOI else _kept_segment(marker, segment))
        if segment == _EOI:
            return b"".join(kept)
    return None


def has_more_scans(data: bytes, most: int) -> bool:
    """Whether a JPEG file's first picture has more scans than `most`, or so many that do not add up.

    Each scan is a pass over all pixels, however few bytes it takes.
    """
    if data.count(bytes((0xFF, _SCAN))) <= most:  # thumbnails and videos included: then no walk is needed
        return False
    scans = 0
    for marker, segment in _segments(data):
        scans += marker == _SCAN
        if scans > most or segment == _EOI:
            return scans > most
    return True


def _segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(marker, bytes) of all that a JPEG file consists of, up to its end or where it does not add up."""
    at = 2 if data.startswith(_SOI) else len(data)
    while at + 2 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # fill
            at += 1
            continue
        if data[at : at + 2] == _EOI:
            yield marker, _EOI
            return
        end = at + 2
        if marker not in _BARE_MARKERS:
            end += int.from_bytes(data[at + 2 : at + 4], "big")
            if marker == _SCAN:
                after = _AFTER_SCAN.search(data, end)
                if after is None:
                    return
                end = after.start()
            if end > len(data):
                return
        yield marker, data[at:end]
        at = end


def _kept_segment(marker: int, segment: bytes) -> bytes:
    """The segment, what may stay of it, or nothing."""
    content = segment[4:]
    if marker == 0xE0 and content.startswith(b"JFIF\0"):
        # Without the thumbnail, which may show more than the picture.
        return b"\xff\xe0\x00\x10" + content[:12].ljust(12, b"\0") + b"\0\0"
    if marker == 0xE2 and content.startswith(b"ICC_PROFILE\0"):
        return segment
    if marker == 0xEE and content.startswith(b"Adobe"):  # says how colours are stored
        return segment
    return b"" if 0xE0 <= marker <= 0xEF or marker == _COMMENT else segment


def private_metadata(data: bytes) -> str | None:
    """What a picture's file says of where, when and by whom: "EXIF", "GPS", "XMP" or "IPTC"; None if nothing of these.

    Headers are read, pixels are not.

    Raises:
        OSError: It is no picture that Pillow knows.
    """
    with Image.open(io.BytesIO(data)) as image:
        info: dict[Any, Any] = dict(image.info)
        if image.format == "PNG":
            info |= _png_texts(data)
        if image.format == "TIFF":  # whose own tags are EXIF; a place or a camera's are not part of the picture
            return "GPS" if image.getexif().get_ifd(ExifTags.IFD.GPSInfo) else None
        if "exif" in info or "Raw profile type exif" in info or "Raw profile type APP1" in info:
            return "GPS" if _has_place(image) else "EXIF"
        if "xmp" in info or "XML:com.adobe.xmp" in info:
            return "XMP"
        return "IPTC" if "photoshop" in info or "Raw profile type iptc" in info else None


def _has_place(image: Image.Image) -> bool:
    try:
        return bool(image.getexif().get_ifd(ExifTags.IFD.GPSInfo))
    except Exception:  # damaged EXIF says no place; that it is there is said anyhow
        return False


def _png_texts(data: bytes) -> dict[str, bool]:
    """Keywords of a PNG's texts, and "exif", also of those that follow the pixels, which Pillow sees only later."""
    found, at = {}, len(_PNG_SIGNATURE)
    while at + 12 <= len(data):
        kind, size = data[at + 4 : at + 8], int.from_bytes(data[at : at + 4], "big")
        if kind == b"eXIf":
            found["exif"] = True
        elif kind in (b"tEXt", b"zTXt", b"iTXt"):
            found[data[at + 8 : at + 88].split(b"\0")[0].decode("latin-1")] = True
        at += 12 + size
    return found
