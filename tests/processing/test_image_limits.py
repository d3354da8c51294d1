"""Long texts, profiles and damaged metadata do not reject a picture whose pixels are whole; all of it stays bounded."""

import io
import os
import struct
import time
import zlib

import pillow_heif
import pytest
from PIL import Image, ImageDraw, PngImagePlugin

from vigc.errors import ImageError
from vigc.processing import images, metadata, open_image
from vigc.processing.images import load_picture

LONG = b"A" * 2_000_000


def scene():
    image = Image.effect_noise((48, 32), 60).convert("RGB")
    ImageDraw.Draw(image).rectangle([0, 0, 15, 9], fill=(250, 20, 20))
    return image


SCENE = scene()


def encoded(kind, image=SCENE, **settings):
    buffer = io.BytesIO()
    image.save(buffer, kind, **settings)
    return buffer.getvalue()


PNG, JPEG = encoded("PNG"), encoded("JPEG", quality=95)


def chunk(name, content, crc=None):
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", crc or zlib.crc32(name + content))


def png(*chunks, before=b"IDAT"):
    at = PNG.index(before) - 4
    return PNG[:at] + b"".join(chunks) + PNG[at:]


def segment(marker, content):
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def jpeg(*segments):
    return JPEG[:2] + b"".join(segments) + JPEG[2:]


def profile(size):
    return os.urandom(size)


PNG_FILES = {
    "zTXt": png(chunk(b"zTXt", b"a\0\0" + zlib.compress(LONG))),
    "iTXt": png(chunk(b"iTXt", b"a\0\1\0\0\0" + zlib.compress(LONG))),
    "tEXt of 70 MB": png(*[chunk(b"tEXt", b"a\0" + LONG)] * 35),
    "tEXt of 70 MB behind the pixels": png(*[chunk(b"tEXt", b"a\0" + LONG)] * 35, before=b"IEND"),
    "zTXt behind the pixels": png(chunk(b"zTXt", b"a\0\0" + zlib.compress(LONG)), before=b"IEND"),
    "zTXt, a thousand bombs": png(*[chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(900_000)))] * 1000),
    "zTXt of an unknown method": png(chunk(b"zTXt", b"a\0\5x")),
    "tEXt with a wrong checksum": png(chunk(b"tEXt", b"a\0b", crc=5)),
    "XMP too long": png(chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(LONG))),
    "XMP, a thousand bombs": png(
        *[chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(bytes(900_000)))] * 1000
    ),
    "iCCP of 2 MB": png(chunk(b"iCCP", b"p\0\0" + zlib.compress(LONG))),
    "iCCP, a thousand": png(*[chunk(b"iCCP", b"p\0\0" + zlib.compress(bytes(900_000)) + b"x")] * 1000),
    "iCCP of an unknown method": png(chunk(b"iCCP", b"p\0\7x")),
    "iCCP broken": png(chunk(b"iCCP", b"p\0\0nonsense")),
    "iCCP empty": png(chunk(b"iCCP", b"")),
    "gAMA empty": png(chunk(b"gAMA", b"")),
    "cHRM odd": png(chunk(b"cHRM", b"abc")),
    "pHYs short": png(chunk(b"pHYs", b"abc")),
    "sRGB empty": png(chunk(b"sRGB", b"")),
    "acTL short": png(chunk(b"acTL", b"ab")),
    "fcTL short": png(chunk(b"fcTL", b"ab")),
    "eXIf broken": png(chunk(b"eXIf", b"ab")),
    "private chunk with a wrong checksum": png(chunk(b"vpAg", b"ab", crc=1)),
    "cut off in a text behind the pixels": png(chunk(b"tEXt", b"a\0" + LONG), before=b"IEND")[:-1000],
}
JPEG_FILES = {
    "Exif, 500 segments": jpeg(*[segment(0xE1, b"Exif\0\0" + b"M" * 65000)] * 500),
    "comments, 20,000": jpeg(*[segment(0xFE, b"")] * 20_000),
    "Photoshop block cut off": jpeg(segment(0xED, b"Photoshop 3.0\0" + b"8BIM\x03\xed")),
    "JFIF cut off": jpeg(segment(0xE0, b"JFIF")),
    "Adobe cut off": jpeg(segment(0xEE, b"Adobe")),
    "ICC part without a number": jpeg(segment(0xE2, b"ICC_PROFILE\0")),
    "ICC part of many that are absent": jpeg(segment(0xE2, b"ICC_PROFILE\0\1\5abc")),
    "MPF broken": jpeg(segment(0xE2, b"MPF\0junk")),
    "fill and junk between segments": jpeg(b"junk", b"\xff" * 500, segment(0xFE, b"x")),
}
OTHER_FILES = {
    "tiff, profile of 3 MB": encoded("TIFF", icc_profile=profile(3_000_000)),
    "webp, profile of 3 MB": encoded("WEBP", lossless=True, icc_profile=profile(3_000_000)),
    "png with alpha, profile of 3 MB": encoded("PNG", SCENE.convert("RGBA"), icc_profile=profile(3_000_000)),
    "tiff, tags of 9 MB": encoded("TIFF", tiffinfo={270: "x" * 4_000_000, 65000: "y" * 5_000_000}),
    "webp, EXIF of 5 MB": encoded("WEBP", lossless=True, exif=b"Exif\0\0" + profile(5_000_000)),
    "gif, comment of 5 MB": encoded("GIF", comment=b"x" * 5_000_000),
}
FILES = {**PNG_FILES, **JPEG_FILES, **OTHER_FILES}


@pytest.mark.parametrize("name", FILES)
def test_metadata_does_not_reject_a_picture(name):
    plain = open_image(JPEG if name in JPEG_FILES else encoded("GIF") if "gif" in name else PNG)
    start = time.process_time()
    picture = load_picture(FILES[name])
    assert time.process_time() - start < 5
    assert picture.image.tobytes() == plain.tobytes()
    published = Image.open(io.BytesIO(picture.data))  # as a trainer opens it, with Pillow's limits
    assert published.convert("RGB").tobytes() == plain.tobytes()
    assert len(picture.data) < 3 * len(PNG)


def test_profiles_that_pillow_reads_stay():
    for size, kind, settings in ((900_000, "PNG", {}), (5_000_000, "JPEG", {"quality": 95})):
        found = profile(size)
        published = load_picture(encoded(kind, icc_profile=found, **settings)).data
        assert Image.open(io.BytesIO(published)).info["icc_profile"] == found
    turned = Image.Exif()
    turned[0x112] = 6
    published = load_picture(encoded("JPEG", icc_profile=found, exif=turned)).data
    assert Image.open(io.BytesIO(published)).info["icc_profile"] == found


XMP = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'


def turning_pngs():
    exif = Image.Exif()
    exif[0x112] = 6
    raw = exif.tobytes()
    hexed = f"\nexif\n{len(raw):8}\n{raw.hex()}\n".encode()
    for xmp in (False, True):
        info = PngImagePlugin.PngInfo()
        info.add_itxt("XML:com.adobe.xmp", XMP, zip=xmp)
        yield encoded("PNG", pnginfo=info)
    yield encoded("PNG", exif=exif)
    yield png(chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(hexed)))
    yield png(chunk(b"tEXt", b"Raw profile type exif\0" + hexed))
    yield jpeg(segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + XMP.encode()))
    yield jpeg(segment(0xE1, raw), segment(0xE1, b"Exif\0\0" + b"M" * 100))


@pytest.mark.parametrize("number", range(7))
def test_what_turns_a_picture_is_not_taken_for_text(number):
    data = list(turning_pngs())[number]
    picture = load_picture(data)
    assert picture.image.size == (32, 48)
    assert Image.open(io.BytesIO(picture.data)).size == (32, 48)
    assert not Image.open(io.BytesIO(picture.data)).getexif()


@pytest.mark.parametrize(
    "data",
    [
        jpeg(b"\xff" * 3000),
        jpeg(b"\xff\xfe\0\2" * 3000),
        jpeg(b"\xff\xe1\0\0" * 3000),
        png(chunk(b"tEXt", b"") * 3000),
        encoded("GIF")[:781] + b"!\xfe\0" * 3000 + encoded("GIF")[781:],
        encoded("GIF")[:781] + b"!\xfe" + b"\1x" * 3000 + b"\0" + encoded("GIF")[781:],
        encoded("GIF")[:781] + b"\0" * 3000 + encoded("GIF")[781:],
        b"II+\0\x08\0\0\0\x10\0\0\0\0\0\0\0" + (3000).to_bytes(8, "little") + bytes(100),
    ],
    ids=["fill", "comments", "lengths of zero", "chunks", "gif blocks", "gif sub-blocks", "gif junk", "big tiff tags"],
)
def test_endless_parts_are_refused_by_their_limit(data, monkeypatch):
    monkeypatch.setattr(metadata, "MAX_PARTS", 2000)
    with pytest.raises(ImageError, match=r"more than the limit of 2,000 parts \(segments, chunks or tags\)"):
        open_image(data)


def test_reasons_name_what_pillow_does_not_read(monkeypatch):
    twelve = JPEG.replace(b"\xff\xc0\x00\x11\x08", b"\xff\xc0\x00\x11\x0c")
    with pytest.raises(ImageError, match=r"is a JPEG file .* of a variant that Pillow does not read \(.*12-bit"):
        open_image(twelve)
    with monkeypatch.context() as patch:
        patch.setattr(metadata, "MAX_PNG_TEXT", 10**9)  # a limit of Pillow's that nothing here knows of
        xmp = PNG_FILES["XMP too long"]
        with pytest.raises(ImageError, match=r"exceeds a limit of Pillow's \(.*MAX_TEXT_CHUNK\): save it again"):
            open_image(xmp)
    monkeypatch.setattr(images, "_MAX_WEBP_PIXELS", 1000)
    with pytest.raises(ImageError, match="1,536 pixels, more than the limit of 1,000"):
        open_image(encoded("WEBP"))


# HEIC


def heic(orientation=1, image=SCENE):
    exif = Image.Exif()
    exif[0x112], exif[0x110] = orientation, "SECRET"
    buffer = io.BytesIO()
    pillow_heif.from_pillow(image).save(buffer, quality=90, exif=exif.tobytes())
    return buffer.getvalue()


@pytest.mark.parametrize("orientation", [1, 6])
def test_heic_is_read_where_pillow_heif_is_installed(orientation):
    picture = load_picture(heic(orientation))
    published = Image.open(io.BytesIO(picture.data))
    assert picture.image.size == published.size == ((48, 32) if orientation == 1 else (32, 48))
    assert published.format == "PNG" and published.convert("RGB").tobytes() == picture.image.tobytes()
    assert b"SECRET" in picture.original and b"SECRET" not in picture.data
    at = (5, 4) if orientation == 1 else (27, 5)
    assert max(abs(a - b) for a, b in zip(picture.image.getpixel(at), (250, 20, 20), strict=True)) < 30


def test_heic_keeps_to_the_limits(monkeypatch):
    data = heic()
    with pytest.raises(ImageError, match="truncated or corrupt"):
        open_image(data[: len(data) // 2])
    monkeypatch.setattr(images, "MAX_PIXELS", 1535)
    with pytest.raises(ImageError, match="1,536 pixels, more than the limit"):
        open_image(data)


def test_without_pillow_heif_the_reason_names_the_extra(monkeypatch):
    data = heic()  # phones and messengers name such files .jpg, too
    monkeypatch.setattr(images, "reads_heif", lambda: False)
    monkeypatch.setattr(images, "_formats", images._formats.__wrapped__)
    with pytest.raises(ImageError, match=r"is a HEIC or HEIF image: pip install 'vigc\[heic\]' to read it"):
        open_image(data, name="photo.jpg")
    assert ".heic" not in images.picture_suffixes()
