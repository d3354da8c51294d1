"""Pictures that break other writers: each becomes a row of the right pixels, or is set aside with the right reason."""

import io
import os
import resource
import sys
import time

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from scripted import ScriptedModel, ScriptedProcessor

from vigc.generation import generate_dataset, ledger

MODES = ("1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "I;16", "I", "F")


def picture(size=(24, 16)):
    """Red on the left, blue below, so that turning it shows."""
    image = Image.new("RGB", size, (200, 40, 40))
    image.paste((30, 30, 220), (0, size[1] // 2, size[0] // 2, size[1]))
    return image


def encoded(image, kind, **more):
    buffer = io.BytesIO()
    image.save(buffer, kind, **more)
    return buffer.getvalue()


def good_inputs():
    """Name -> (bytes, expected pixels or None, tolerance)."""
    found = {}
    for mode in MODES:
        kind = "TIFF" if mode in ("CMYK", "F", "I") else "PNG"
        if mode == "I;16":
            grey = np.linspace(0, 65535, 24 * 16, dtype=np.uint16).reshape(16, 24)
            expected = np.repeat((grey // 257).astype(np.uint8)[..., None], 3, axis=2)
            found["mode I16.png"] = (encoded(Image.fromarray(grey), "PNG"), expected, 1)
            continue
        image = picture().convert(mode)
        expected = None if mode in ("I", "F") else np.asarray(image.convert("RGB"))
        found[f"mode {mode}.{kind.lower()}"] = (encoded(image, kind), expected, 2)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        upright = picture()
        turn = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # the transposition that a reader has to undo
        stored = upright if orientation == 1 else upright.transpose(Image.Transpose(turn[orientation]))
        data = encoded(stored, "JPEG", exif=exif, quality=95, subsampling=0)
        found[f"exif {orientation}.jpg"] = (data, np.asarray(upright), 40)
    frames = [picture(), Image.new("RGB", (24, 16), "green")]
    for kind in ("GIF", "WEBP", "PNG", "TIFF"):
        more = {"lossless": True} if kind == "WEBP" else {}
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **more)
        found[f"frames.{kind.lower()}"] = (data, np.asarray(picture()), 2)
    for name in ("new\nline", "emoji 🙂", "e\u0301 and é", "quote\"s'", "a" * 200, "tab\t", "-rf", "x.y.z"):
        found[f"{name}.png"] = (encoded(picture(), "PNG", compress_level=len(found) % 9), np.asarray(picture()), 0)
    for size in ((1, 1), (1, 500), (500, 1), (3, 3)):
        found[f"size {size}.png"] = (encoded(Image.new("RGB", size, (9, 8, 7)), "PNG"), None, 0)
    return found


def bad_inputs():
    """Name -> (bytes, words of the reason)."""
    found = {"zero.png": (b"", "is empty"), "text.jpg": (b"not a picture at all", "is not a picture")}
    for kind, suffix in (("PNG", "png"), ("JPEG", "jpg"), ("GIF", "gif"), ("BMP", "bmp"), ("WEBP", "webp")):
        noise = Image.fromarray(np.random.default_rng(1).integers(0, 255, (40, 40, 3), dtype=np.uint8))
        whole = encoded(noise, kind)
        for part in range(1, 12):
            found[f"cut {part}.{suffix}"] = (whole[: len(whole) * part // 12], "truncated or corrupt|not a picture")
        for byte in (2, 9, 30, 4):
            found[f"head {byte}.{suffix}"] = (whole[:byte], "not a picture|truncated or corrupt")
    header = bytearray(encoded(Image.new("1", (8, 8)), "PNG"))
    for index, edge in enumerate((20_000, 65_000, 200_000)):
        import zlib

        bomb = bytearray(header)
        bomb[16:24] = edge.to_bytes(4, "big") * 2
        bomb[29:33] = zlib.crc32(bytes(bomb[12:29])).to_bytes(4, "big")
        found[f"bomb {index}.png"] = (bytes(bomb), "more than the limit")
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="names and pipes of Linux")
def test_odd_inputs_are_accepted_right_or_set_aside_with_the_right_reason(tmp_path):
    import re

    root = tmp_path / "pictures"
    root.mkdir()
    good, bad = good_inputs(), bad_inputs()
    for name, (data, *_) in {**good, **bad}.items():
        (root / name).write_bytes(data)
    (root / "loop.png").symlink_to(root / "loop.png")
    (root / "gone.png").symlink_to(root / "absent.png")
    (root / "escape.png").symlink_to("/etc/hostname")
    os.mkfifo(root / "pipe.png")
    special = {"loop.png": "nowhere", "gone.png": "nowhere", "escape.png": "out of the folder", "pipe.png": "regular"}
    raw = encoded(Image.new("RGB", (7, 7), "pink"), "PNG")
    with open(os.path.join(os.fsencode(root), b"caf\xe9.png"), "wb") as file:
        file.write(raw)
    count = len(good) + len(bad) + len(special) + 1
    assert count >= 118
    begun = time.monotonic()
    job = {"model": ScriptedModel(malformed=0), "processor": ScriptedProcessor(), "types": ["detail"]}
    summary = generate_dataset(root, tmp_path / "out", shard_size=16, **job)
    assert time.monotonic() - begun < 60
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 4e6
    assert summary.images + summary.duplicates + len(summary.skipped) == count and summary.set_aside == len(
        summary.skipped
    )
    reasons = dict(summary.skipped)
    for name, (_, words) in bad.items():
        assert name in reasons and re.search(words, reasons[name]), (name, reasons.get(name))
    for name, words in special.items():
        assert words in reasons[name], (name, reasons[name])
    assert set(reasons) == set(bad) | set(special)
    for record in ledger.read_quarantine(tmp_path / "out"):
        assert record["exception"] and (record["sha256"] or record["path"] in special)
    _check_pixels(tmp_path / "out", good)


def _check_pixels(out, good):
    rows = [row for file in sorted(out.glob("detail/*.parquet")) for row in pq.read_table(file).to_pylist()]
    shown = {row["image_id"]: row["image"]["bytes"] for row in rows}
    for name, (_, expected, tolerance) in good.items():
        identity = name if name in shown else name.rsplit(".", 1)[0]
        if expected is None or identity not in shown:  # a copy of another one's bytes has no row of its own
            continue
        pixels = np.asarray(Image.open(io.BytesIO(shown[identity])).convert("RGB")).astype(int)
        assert pixels.shape == expected.shape, name
        assert np.abs(pixels - expected).mean() <= max(tolerance, 1) and len(np.unique(pixels)) > 1, name
