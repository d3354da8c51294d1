"""Pictures of every kind open right or are refused with a reason; what is published says nothing but the pixels."""

import io
import os
import struct
import zlib

import pytest
from PIL import ExifTags, Image, ImageDraw, PngImagePlugin

from vigc.errors import ImageError
from vigc.processing import images, open_image
from vigc.processing.images import load_picture

SECRETS = (b"SECRET", b"Exif", b"GPS", b"http://ns.adobe.com")


def scene() -> Image.Image:
    """Different in every corner, so that each of the eight orientations is another picture."""
    image = Image.new("RGB", (48, 32), (40, 90, 160))
    draw = ImageDraw.Draw(image)
    draw.rectangle([0, 0, 15, 9], fill=(250, 20, 20))
    draw.rectangle([38, 0, 47, 9], fill=(20, 220, 20))
    draw.ellipse([20, 12, 44, 30], fill=(240, 240, 90))
    return image


def encoded(image: Image.Image, kind: str, **settings) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **settings)
    return buffer.getvalue()


def sixteen_bit() -> Image.Image:
    return scene().convert("L").convert("I").point(lambda value: value * 257).convert("I;16")


def telling_exif(orientation: int = 1) -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    exif[ExifTags.Base.Artist] = "SECRET"
    exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitudeRef] = "SECRET"
    return exif


def animated(kind: str) -> bytes:
    return encoded(scene(), kind, save_all=True, append_images=[Image.new("RGB", (48, 32), "black")], lossless=True)


KINDS = {
    "png 1": encoded(scene().convert("1"), "PNG"),
    "png L": encoded(scene().convert("L"), "PNG"),
    "png LA": encoded(scene().convert("LA"), "PNG"),
    "png P": encoded(scene().convert("P"), "PNG"),
    "png P with a transparent colour": encoded(scene().convert("P"), "PNG", transparency=0),
    "png RGB": encoded(scene(), "PNG"),
    "png RGBA": encoded(scene().convert("RGBA"), "PNG"),
    "png 16 bit": encoded(sixteen_bit(), "PNG"),
    "jpeg": encoded(scene(), "JPEG"),
    "jpeg grey": encoded(scene().convert("L"), "JPEG"),
    "jpeg CMYK": encoded(scene().convert("CMYK"), "JPEG"),
    "jpeg progressive": encoded(scene(), "JPEG", progressive=True),
    "jpeg with restarts": encoded(scene(), "JPEG", restart_marker_blocks=1),
    "jpeg turned": encoded(scene(), "JPEG", exif=telling_exif(6)),
    "png turned": encoded(scene(), "PNG", exif=telling_exif(5)),
    "tiff CMYK": encoded(scene().convert("CMYK"), "TIFF"),
    "tiff 16 bit": encoded(sixteen_bit(), "TIFF"),
    "tiff of floats": encoded(scene().convert("F"), "TIFF"),
    "gif": animated("GIF"),
    "webp": animated("WEBP"),
    "bmp": encoded(scene(), "BMP"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_published_shows_what_the_model_saw(kind):
    picture = load_picture(KINDS[kind])
    assert picture.image.mode == "RGB" and not picture.image.info
    published = Image.open(io.BytesIO(picture.data))
    assert published.format in ("JPEG", "PNG")
    # As a trainer opens it, which knows nothing of alpha or 16 bits.
    assert published.convert("RGB").tobytes() == picture.image.tobytes()
    assert picture.original == KINDS[kind]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("jpeg turned", "png turned")])
def test_every_mode_shows_the_same_scene(kind):
    image = open_image(KINDS[kind])
    assert image.size == (48, 32)
    for point, grey in (((5, 4), 88), ((32, 20), 223), ((2, 30), 83)):
        red, green, blue = image.getpixel(point)
        tolerance = 255 if kind == "png 1" else 130 if "transparent" in kind else 85 if "floats" in kind else 45
        assert abs(0.299 * red + 0.587 * green + 0.114 * blue - grey) < tolerance, point


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_pictures_stand_upright(kind, orientation):
    # The inverse of each orientation: how a camera stores the scene, so that turning it by EXIF gives the scene back.
    stored = {
        6: Image.Transpose.ROTATE_90,
        8: Image.Transpose.ROTATE_270,
        **{k: images._UPRIGHT[k] for k in (2, 3, 4, 5, 7)},
    }
    image = scene().transpose(stored[orientation]) if orientation > 1 else scene()
    settings = {"WEBP": {"lossless": True}, "JPEG": {"quality": 95, "subsampling": 0}}.get(kind, {})
    picture = load_picture(encoded(image, kind, exif=telling_exif(orientation), **settings))
    assert picture.image.size == scene().size
    for point in ((5, 4), (43, 4), (32, 20), (2, 30)):
        expected = scene().getpixel(point)
        assert max(abs(a - b) for a, b in zip(picture.image.getpixel(point), expected, strict=True)) < 25
    assert not Image.open(io.BytesIO(picture.data)).getexif()


def test_sixteen_bits_are_scaled_and_alpha_lies_on_white():
    grey = Image.new("I;16", (3, 1))
    for column, value in enumerate((0, 32896, 65535)):
        grey.putpixel((column, 0), value)
    image = open_image(encoded(grey, "PNG"))
    assert [image.getpixel((column, 0))[0] for column in range(3)] == [0, 128, 255]
    clear = Image.new("RGBA", (2, 1), (255, 0, 0, 255))
    clear.putpixel((1, 0), (0, 0, 0, 0))
    image = open_image(encoded(clear, "PNG"))
    assert [image.getpixel((column, 0)) for column in range(2)] == [(255, 0, 0), (255, 255, 255)]


@pytest.mark.parametrize("kind", ["GIF", "WEBP"])
def test_the_first_frame_counts(kind):
    assert open_image(animated(kind)).getpixel((5, 4))[0] > 200


# What is published


def jpeg_with_everything() -> bytes:
    data = encoded(scene(), "JPEG", exif=telling_exif(), comment=b"SECRET")

    def segment(marker: int, content: bytes) -> bytes:
        return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content

    extra = segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0SECRET") + segment(0xED, b"Photoshop 3.0\0SECRET")
    extra += segment(0xE4, b"maker SECRET") + segment(0xE2, b"MPF\0SECRET")
    return data[:2] + extra + data[2:] + b"SECRET appended video"


def png_with_everything() -> bytes:
    info = PngImagePlugin.PngInfo()
    info.add_text("Author", "SECRET")
    info.add_itxt("XML:com.adobe.xmp", "SECRET http://ns.adobe.com")
    info.add_text("Comment", "SECRET" * 20, zip=True)
    return encoded(scene(), "PNG", pnginfo=info, exif=telling_exif()) + b"SECRET appended"


@pytest.mark.parametrize("data", [jpeg_with_everything(), png_with_everything()], ids=["jpeg", "png"])
def test_metadata_goes_and_compressed_pixels_stay(data):
    assert b"SECRET" in data
    published = load_picture(data).data
    assert not [secret for secret in SECRETS if secret in published]
    image = Image.open(io.BytesIO(published))
    assert not image.getexif() and not {"comment", "exif", "Author", "xmp", "photoshop", "mp"} & set(image.info)
    marker = b"\xff\xda" if data.startswith(b"\xff\xd8") else b"IDAT"
    pixels = data[data.index(marker) : data.index(marker) + 200]
    assert pixels in published, "re-encoded"


def test_a_picture_without_metadata_stays_byte_for_byte(parity_dir):
    for path in sorted((parity_dir / "images").glob("*.png")):
        assert load_picture(path).data == path.read_bytes()


def test_a_colour_profile_stays():
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for kind in ("JPEG", "PNG"):
        published = load_picture(encoded(scene(), kind, icc_profile=profile)).data
        assert Image.open(io.BytesIO(published)).info["icc_profile"] == profile


def test_a_broken_exif_block_is_no_reason_to_refuse():
    data = encoded(scene(), "JPEG")
    broken = data[:2] + b"\xff\xe1\x00\x0eExif\x00\x00MM\x00\x2a\xff\xff" + data[2:]
    assert load_picture(broken).data == data


# Refusals


def test_errors_name_the_file_and_the_reason(tmp_path):
    path = tmp_path / "half.jpg"
    path.write_bytes(encoded(scene(), "JPEG")[:-200])
    with pytest.raises(ImageError, match=r"half\.jpg.*truncated or corrupt.*get the file again") as caught:
        open_image(path)
    assert caught.value.name == str(path)
    assert isinstance(caught.value, ValueError)
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"])
def test_a_truncated_file_is_refused_or_whole(kind):
    data = encoded(scene(), kind)
    whole = open_image(data).tobytes()
    cuts = {*range(1, len(data), max(1, len(data) // 60)), len(data) - 1, len(data) - 2, len(data) - 13}
    refused = 0
    for cut in sorted(cuts):
        try:
            assert open_image(data[:cut]).tobytes() == whole, cut
        except ImageError:
            refused += 1
    assert refused > len(cuts) * 0.8


def bomb(kind: str) -> bytes:
    """A small file that claims to hold 30,000 x 30,000 pixels."""
    if kind == "BMP":
        return (
            b"BM"
            + struct.pack("<IHHI", 1000, 0, 0, 54)
            + struct.pack("<IiiHHIIiiII", 40, 30000, 30000, 1, 24, *[0] * 6)
        )

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 30000, 30000, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(10**6))) + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["BMP", "PNG"])
def test_a_bomb_is_refused_before_it_is_decoded(kind, monkeypatch):
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(ImageError, match="more than the limit of 80,000,000"):
        open_image(bomb(kind))


def with_scans(more: int) -> bytes:
    """A progressive JPEG whose last scan, a few bytes, is repeated."""
    data = encoded(scene(), "JPEG", progressive=True)
    last = data[data.rindex(b"\xff\xda") : data.rindex(b"\xff\xd9")]
    return data[:-2] + more * last + b"\xff\xd9"


@pytest.mark.parametrize("odd", [(b"\xff\xd9", b"\xff\xd9"), (b"\xff\xd9", b""), (b"\xff\xda", b"\0\xff\xda")])
def test_a_picture_of_ever_more_scans_is_refused_before_it_is_decoded(odd, monkeypatch):
    data = with_scans(200).replace(*odd)
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(ImageError, match="more scans than the limit of 64"):
        open_image(data)


def test_scans_of_a_picture_are_counted_and_nothing_else():
    plain = open_image(encoded(scene(), "JPEG", progressive=True)).tobytes()
    assert open_image(with_scans(50)).size == (48, 32)
    video = b"\xff\xda" * 500
    assert open_image(encoded(scene(), "JPEG", progressive=True) + video).tobytes() == plain, "a phone's video"
    noted = encoded(scene(), "JPEG", progressive=True, comment=video)
    assert load_picture(noted).image.tobytes() == plain and video not in load_picture(noted).data


def test_limits_hold_for_less_than_bombs_too(monkeypatch):
    monkeypatch.setattr(images, "MAX_PIXELS", 48 * 32 - 1)
    with pytest.raises(ImageError, match=r"48 x 32 = 1,536 pixels, more than the limit of 1,535"):
        open_image(encoded(scene(), "PNG"))
    monkeypatch.setattr(images, "MAX_BYTES", 100)
    with pytest.raises(ImageError, match="bytes, more than the limit of 100"):
        open_image(encoded(scene(), "PNG"))


def test_what_is_no_picture_file_is_refused(tmp_path):
    (tmp_path / "text.jpg").write_text("a text")
    (tmp_path / "empty.png").touch()
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "program.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    os.mkfifo(tmp_path / "pipe.jpg")
    reasons = {
        "text.jpg": "not an image in a supported format",
        "empty.png": "is empty",
        "folder.png": "not a regular file",
        "program.jpg": "not an image in a supported format",
        "pipe.jpg": "not a regular file",
        "absent.jpg": "cannot be read",
        "nul\0.jpg": "cannot be read",
    }
    for name, reason in reasons.items():
        with pytest.raises(ImageError, match=reason):
            open_image(tmp_path / name)
