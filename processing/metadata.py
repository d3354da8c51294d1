"""Strips metadata (place, time, author) from PNG and JPEG files without changing the pixels.

Both formats use an allow-list, because cameras keep inventing new places for metadata. The same code also runs before
Pillow opens a file, to remove texts and profiles that exceed Pillow's limits or take it minutes to read.
"""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Iterator
from typing import Any, Literal

from PIL import ExifTags, Image

# Parts that are visited in one file: segments, chunks, fill bytes, tags. 256 MB in PNG chunks of 1 KB have fewer.
MAX_PARTS = 1_000_000
# Pillow refuses a PNG if one of its texts or its profile is longer than this after decompression.
MAX_PNG_TEXT = 2**20
# Bytes of an uncompressed text. Pillow reads up to 64 MB of texts per file.
_MAX_TURNING_TEXT = 16 * 2**20

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Chunks that determine the pixels. Text, time, EXIF, animation and private chunks are not among them.
_PNG_PIXELS = frozenset((b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS"))
# Chunks that determine the colours, with their valid sizes. A damaged one is removed; the pixels are intact.
_PNG_COLOURS: dict[bytes, tuple[int, ...]] = {
    b"gAMA": (4,),
    b"cHRM": (32,),
    b"sRGB": (1,),
    b"cICP": (4,),
    b"sBIT": (1, 2, 3, 4),
    b"bKGD": (1, 2, 6),
    b"pHYs": (9,),
}
# Texts from which Pillow reads the orientation of an image.
_TURNING_TEXTS = (b"XML:com.adobe.xmp", b"Raw profile type exif")

_SOI, _EOI = b"\xff\xd8", b"\xff\xd9"
_SCAN, _END = 0xDA, 0xD9
_COMMENT = 0xFE
_APPLICATIONS = range(0xE0, 0xF0)
_BARE_MARKERS = {0x01, *range(0xD0, 0xD8)}
# Within a scan 0xFF is followed by 0x00 (the byte itself), a restart marker, or 0xFF (fill).
_AFTER_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")


def readable(data: bytes) -> bytes:
    """The file without the metadata that Pillow may refuse; the pixels do not change.

    PNG and JPEG files lose texts, comments, and profiles that are damaged or too long, and keep the orientation. Files
    of other formats do not change.

    Raises:
        ValueError: The file has more than `MAX_PARTS` parts.
    """
    if data.startswith(_PNG_SIGNATURE):
        return _png(data, turning=True)[0]
    if data.startswith(_SOI):
        return _jpeg(data, turning=True)[0]
    if data.startswith(b"GIF8"):
        _count_gif_blocks(data)
    elif data[:4] in (b"II+\0", b"MM\0+"):  # BigTIFF; other TIFF files have 65,535 tags at most
        order: Literal["little", "big"] = "little" if data.startswith(b"I") else "big"
        at = int.from_bytes(data[8:16], order)
        _check_parts(int.from_bytes(data[at : at + 8], order))
    return data


def without_png_metadata(data: bytes) -> bytes | None:
    """A PNG file with only the chunks that make the image; None if its chunks are inconsistent."""
    found, whole = _png(data, turning=False) if data.startswith(_PNG_SIGNATURE) else (b"", False)
    return found if whole else None


def without_jpeg_metadata(data: bytes) -> bytes | None:
    """A JPEG file with only its tables, scans and colour profile; None if its segments are inconsistent.

    Data after the first image (further images of an MPO file, a phone's video) is removed too.
    """
    found, whole = _jpeg(data, turning=False) if data.startswith(_SOI) else (b"", False)
    return found if whole else None


def has_more_scans(data: bytes, most: int) -> bool:
    """Whether the first image of a JPEG file has more scans than `most`, or its segments are inconsistent.

    Each scan is a pass over all pixels, even if it has few bytes.
    """
    if data.count(bytes((0xFF, _SCAN))) <= most:  # an upper bound, since thumbnails and videos count too
        return False
    scans = 0
    for marker, _, _ in _segments(data):
        scans += marker == _SCAN
        if scans > most or marker == _END:
            return scans > most
    return True


def _check_parts(count: int) -> None:
    if count > MAX_PARTS:
        raise ValueError(f"has more than the limit of {MAX_PARTS:,} parts (segments, chunks or tags): save it again")


class _Kept:
    """Collects the parts of a file that are kept."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._parts: list[tuple[int, int] | bytes] = []

    def keep(self, start: int, end: int) -> None:
        last = self._parts[-1] if self._parts else b""
        if isinstance(last, tuple) and last[1] == start:
            self._parts[-1] = (last[0], end)
        else:
            self._parts.append((start, end))

    def add(self, part: bytes) -> None:
        self._parts.append(part)

    def joined(self) -> bytes:
        if self._parts == [(0, len(self._data))]:
            return self._data
        view = memoryview(self._data)
        return b"".join(view[part[0] : part[1]] if isinstance(part, tuple) else part for part in self._parts)


# PNG


def _png(data: bytes, *, turning: bool) -> tuple[bytes, bool]:
    """The file without its metadata, and whether its chunks are consistent.

    Args:
        data: A PNG file.
        turning: Whether to keep the orientation too.
    """
    view, at, count = memoryview(data), len(_PNG_SIGNATURE), 0
    kept, seen = _Kept(data), set[bytes]()
    kept.keep(0, at)
    while at + 12 <= len(data):
        _check_parts(count := count + 1)
        kind, end = data[at + 4 : at + 8], at + 12 + int.from_bytes(data[at : at + 4], "big")
        if end > len(data):
            break
        if _keeps_chunk(kind, view[at:end], turning, seen):
            kept.keep(at, end)
        at = end
        if kind == b"IEND":
            return kept.joined(), True
    if at + 12 > len(data) or kind in _PNG_PIXELS:  # truncated: Pillow reports missing pixels
        kept.keep(at, len(data))
    return kept.joined(), False


def _keeps_chunk(kind: bytes, chunk: memoryview, turning: bool, seen: set[bytes]) -> bool:
    """Whether to keep a chunk. `seen` holds the names that occurred: of each name only the first chunk is checked."""
    if kind in _PNG_PIXELS:
        return True
    content = chunk[8:-4]
    if kind in _PNG_COLOURS:
        return len(content) in _PNG_COLOURS[kind] and _is_sound(chunk)
    text = kind in (b"tEXt", b"zTXt", b"iTXt")
    if not (kind == b"iCCP" or (turning and (text or kind == b"eXIf"))):
        return False
    keyword = bytes(content[:80]).partition(b"\0")[0]
    if text and keyword not in _TURNING_TEXTS:
        return False
    name = keyword if text else kind
    if name in seen:
        return False
    seen.add(name)
    return _is_sound(chunk) and (kind == b"eXIf" or _fits(kind, content[len(keyword) + 1 :]))


def _is_sound(chunk: memoryview) -> bool:
    return zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:], "big")


def _fits(kind: bytes, content: memoryview) -> bool:
    """Whether Pillow can read a text or profile, given without its keyword."""
    if len(content) > _MAX_TURNING_TEXT:
        return False
    if kind == b"tEXt":
        return True
    data = bytes(content)
    if kind == b"iTXt":
        parts = data[2:].split(b"\0", 2)
        if len(parts) < 3 or data[:1] == b"\0":
            return len(parts) == 3
        data = data[1:2] + parts[2]
    return data.startswith(b"\0") and _inflates(data[1:])


def _inflates(packed: bytes) -> bool:
    try:
        stream = zlib.decompressobj()
        stream.decompress(packed, MAX_PNG_TEXT)
        return stream.eof
    except zlib.error:
        return False


# JPEG


def _jpeg(data: bytes, *, turning: bool) -> tuple[bytes, bool]:
    """Like `_png`, for the segments of a JPEG file."""
    kept, end = _Kept(data), 2
    kept.keep(0, 2)
    stay = _applications(data, turning)
    for marker, start, end in _segments(data):
        if marker in _APPLICATIONS:
            if data.startswith(b"JFIF\0", start + 4):
                # Without the thumbnail, which may show what was cropped from the image.
                kept.add(b"\xff\xe0\x00\x10" + data[start + 4 : min(start + 16, end)].ljust(12, b"\0") + b"\0\0")
            elif start in stay:
                kept.keep(start, end)
        elif marker != _COMMENT:
            kept.keep(start, end)
        if marker == _END:
            return kept.joined(), True
    kept.keep(end, len(data))
    return kept.joined(), False


def _applications(data: bytes, turning: bool) -> set[int]:
    """Start offsets of the segments for colours and, if `turning`, for the orientation."""
    stay: dict[str, int] = {}
    profile: dict[int, int] = {}  # start offset of each part of the profile, by its number
    parts = 0
    for marker, start, end in _segments(data):
        if marker == _SCAN:
            break
        if marker == 0xEE and data.startswith(b"Adobe", start + 4) and end - start >= 16:
            stay["Adobe"] = start
        elif marker == 0xE2 and data.startswith(b"ICC_PROFILE\0", start + 4) and end - start > 18:
            parts += 1
            profile[data[start + 16]] = start
            stay["of"] = data[start + 17]
        elif turning and marker == 0xE1 and data.startswith(b"Exif\0\0", start + 4):
            stay.setdefault("exif", start)  # only the first: Pillow takes minutes to join a thousand
        elif turning and marker == 0xE1 and data.startswith(b"http://ns.adobe.com/xap/1.0/\0", start + 4):
            stay["xmp"] = start
    of = stay.pop("of", 0)
    whole = parts == of and sorted(profile) == list(range(1, of + 1))
    return {*stay.values(), *(profile.values() if whole else ())}


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """(marker, start, end) of each segment of a JPEG file, up to its end or the first inconsistency.

    Bytes between segments are skipped, as in libjpeg.
    """
    at, count = 2, 0
    while 0 <= at <= len(data) - 2:
        _check_parts(count := count + 1)
        marker = data[at + 1]
        if data[at] != 0xFF:
            at = data.find(b"\xff", at)
        elif marker == 0xFF:  # fill
            at += 1
        elif marker == 0:
            at += 2
        else:
            end = at + 2
            if marker not in _BARE_MARKERS and marker != _END:
                end += max(2, int.from_bytes(data[at + 2 : at + 4], "big"))
            if marker == _SCAN:
                after = _AFTER_SCAN.search(data, end)
                end = after.start() if after else len(data) + 1
            if end > len(data):
                return
            yield marker, at, end
            if marker == _END:
                return
            at = end


# GIF


def _count_gif_blocks(data: bytes) -> None:
    """Checks the number of blocks before the first image, all of which Pillow visits."""
    at = 13 + (3 << (data[10] & 7) + 1 if len(data) > 10 and data[10] & 0x80 else 0)
    count = 0
    while at + 2 < len(data) and data[at] != ord(","):
        _check_parts(count := count + 1)
        if data[at] != ord("!"):
            at += 1
            continue
        at += 2
        while at < len(data) and data[at]:
            _check_parts(count := count + 1)
            at += 1 + data[at]
        at += 1


def private_metadata(data: bytes) -> str | None:
    """The private metadata in an image file: "EXIF", "GPS", "XMP" or "IPTC"; None if there is none of these.

    Only headers are read, not pixels.

    Raises:
        OSError: Pillow does not recognize the file as an image.
    """
    with Image.open(io.BytesIO(data)) as image:
        info: dict[Any, Any] = dict(image.info)
        if image.format == "PNG":
            info |= _png_texts(data)
        if image.format == "TIFF":  # TIFF's own tags count as EXIF; only GPS is private here
            return "GPS" if image.getexif().get_ifd(ExifTags.IFD.GPSInfo) else None
        if "exif" in info or "Raw profile type exif" in info or "Raw profile type APP1" in info:
            return "GPS" if _has_place(image) else "EXIF"
        if "xmp" in info or "XML:com.adobe.xmp" in info:
            return "XMP"
        return "IPTC" if "photoshop" in info or "Raw profile type iptc" in info else None


def _has_place(image: Image.Image) -> bool:
    try:
        return bool(image.getexif().get_ifd(ExifTags.IFD.GPSInfo))
    except Exception:  # damaged EXIF has no place; the caller still reports "EXIF"
        return False


def _png_texts(data: bytes) -> dict[str, bool]:
    """Keywords of a PNG's texts, and "exif". Includes chunks after the pixels, which Pillow reads only later."""
    found, at = {}, len(_PNG_SIGNATURE)
    while at + 12 <= len(data):
        kind, size = data[at + 4 : at + 8], int.from_bytes(data[at : at + 4], "big")
        if kind == b"eXIf":
            found["exif"] = True
        elif kind in (b"tEXt", b"zTXt", b"iTXt"):
            found[data[at + 8 : at + 88].split(b"\0")[0].decode("latin-1")] = True
        at += 12 + size
    return found
