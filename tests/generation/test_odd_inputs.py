"""Pictures that break other writers: each becomes a row of the right pixels, or is set aside with the right reason."""

import io
import json
import os
import re
import shutil
import sys
import zlib
from collections import Counter

import forks
import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import SUPPORT
from PIL import Image, ImageCms
from scripted import ScriptedModel, ScriptedProcessor
from typer.testing import CliRunner

from vigc.cli.root import app
from vigc.formats.llava import llava_entry
from vigc.generation import correct_dataset, generate_dataset
from vigc.jobs import ledger

MODES = ("1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "YCbCr", "LAB", "I;16", "I;16B", "I", "F")
# Just below the limit of pixels, where memory is decided by how many copies are made on the way.
LARGE = (8_900, 8_900)
HUGE = "slide.tif"

# One process for each input, that of the job and not of the test: peak of memory and time of each alone.
MEASURE = """
import json, os, resource, signal, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from scripted import ScriptedProcessor
from vigc.generation.generate import open_collection
from vigc.generation.sources.prefetch import Item, Loader
def megabytes(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name + ":")) / 1e3
collection, processor, found = open_collection(Path(sys.argv[1]), "folder"), ScriptedProcessor(), []
loader = Loader(collection, lambda image: processor(images=[image], return_tensors="pt")["pixel_values"], 1)
for source in collection:
    reader, writer = os.pipe()
    if (pid := os.fork()) == 0:
        resource.setrlimit(resource.RLIMIT_CPU, (10, 10))
        signal.alarm(600)  # of a machine with other work; what waits for ever ends here
        before, start = megabytes("VmRSS"), time.monotonic()
        item = loader.load(source)
        reason = None if isinstance(item, Item) else item["reason"]
        said = [source.name, reason, time.monotonic() - start, time.process_time(), megabytes("VmHWM") - before]
        os.write(writer, json.dumps(said).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        said = pipe.read()
    _, status = os.waitpid(pid, 0)
    found.append(json.loads(said) if said else [source.name, f"killed by {status}", 0, 0, 0])
print(json.dumps(found))
"""


linux = pytest.mark.skipif(sys.platform != "linux", reason="names, pipes and processes of Linux")


def rows_of(out):
    return [row for file in sorted(out.glob("*/train-*.parquet")) for row in pq.read_table(file).to_pylist()]


def picture(size=(24, 16)):
    """Red on the left, blue below, so that turning it shows."""
    image = Image.new("RGB", size, (200, 40, 40))
    image.paste((30, 30, 220), (0, size[1] // 2, size[0] // 2, size[1]))
    return image


def encoded(image, kind, **more):
    buffer = io.BytesIO()
    image.save(buffer, kind, **more)
    return buffer.getvalue()


def lab(image):
    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    return ImageCms.profileToProfile(image, *profiles, outputMode="LAB")


def good_inputs():
    """Name -> (bytes, expected pixels or None, tolerance)."""
    found = {}
    for mode in MODES:
        kind = "TIFF" if mode in ("CMYK", "YCbCr", "LAB", "I;16B", "F", "I") else "PNG"
        if mode.startswith("I;16"):
            grey = np.linspace(0, 65535, 24 * 16, dtype=np.uint16).reshape(16, 24)
            expected = np.repeat((grey // 257).astype(np.uint8)[..., None], 3, axis=2)
            image = (
                Image.fromarray(grey)
                if kind == "PNG"
                else Image.frombytes(mode, (24, 16), grey.astype(">u2").tobytes())
            )
            found[f"mode {mode.replace(';', '')}.{kind.lower()}"] = (encoded(image, kind), expected, 1)
            continue
        image = lab(picture()) if mode == "LAB" else picture().convert(mode)
        # Measurements without a known white are stretched: from black to white.
        expected = np.asarray(picture() if mode == "LAB" else image.convert("RGB"))
        if mode in ("I", "F"):
            values = np.asarray(image, dtype=float)
            stretched = (values - values.min()) * 255 / (values.max() - values.min())
            expected = np.repeat(stretched.astype(np.uint8)[..., None], 3, axis=2)
        found[f"mode {mode}.{kind.lower()}"] = (encoded(image, kind), expected, 2)
    holes = picture().convert("P")
    on_white = np.asarray(picture()).copy()
    on_white[:8] = 255
    for kind in ("PNG", "GIF"):
        red = holes.getpixel((0, 0))
        found[f"palette with holes.{kind.lower()}"] = (encoded(holes, kind, transparency=red), None, 0)
    clear = picture().convert("RGBA")
    clear.paste((0, 255, 0, 0), (0, 0, 24, 8))
    for kind in ("PNG", "TIFF", "WEBP"):
        more = {"lossless": True} if kind == "WEBP" else {}
        found[f"clear.{kind.lower()}"] = (encoded(clear, kind, **more), on_white, 1)
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


def large_inputs():
    """Small files of as many pixels as are allowed, each of a kind that is copied another time on its way."""
    turned = Image.Exif()
    turned[0x0112] = 6
    return {
        "large bits.png": encoded(Image.new("1", LARGE), "PNG", compress_level=1),
        "large clear.png": encoded(Image.new("RGBA", LARGE, (1, 2, 3, 0)), "PNG", compress_level=1),
        "large turned.jpg": encoded(Image.new("RGB", LARGE, "navy"), "JPEG", exif=turned, quality=30),
        "large 16 bit.png": encoded(Image.new("I;16", LARGE, 9000), "PNG", compress_level=1),
    }


def bad_inputs():
    """Name -> (bytes, words of the reason)."""
    found = {"zero.png": (b"", "is empty"), "text.jpg": (b"not a picture at all", "is not an image")}
    for kind, suffix in (("PNG", "png"), ("JPEG", "jpg"), ("GIF", "gif"), ("BMP", "bmp"), ("WEBP", "webp")):
        noise = Image.fromarray(np.random.default_rng(1).integers(0, 255, (40, 40, 3), dtype=np.uint8))
        whole = encoded(noise, kind)
        for part in range(1, 12):
            found[f"cut {part}.{suffix}"] = (whole[: len(whole) * part // 12], "truncated or corrupt|not an image")
        for byte in (2, 9, 30, 4):
            found[f"head {byte}.{suffix}"] = (whole[:byte], "not an image|truncated or corrupt")
    header = bytearray(encoded(Image.new("1", (8, 8)), "PNG"))
    for index, edge in enumerate((20_000, 65_000, 200_000)):
        bomb = bytearray(header)
        bomb[16:24] = edge.to_bytes(4, "big") * 2
        bomb[29:33] = zlib.crc32(bytes(bomb[12:29])).to_bytes(4, "big")
        found[f"bomb {index}.png"] = (bytes(bomb), "more than the limit")
    flat = encoded(Image.new("RGB", (64, 64)), "JPEG", progressive=True)
    scan = flat[flat.rindex(b"\xff\xda") : -2]  # of a few bytes, and of a pass over all pixels
    found["bomb of scans.jpg"] = (flat[:-2] + 5000 * scan + flat[-2:], "more scans than the limit of 64")
    return found


def make_huge(path):
    """A slide of bytes that nobody wrote: it takes no room, and minutes to read."""
    with path.open("wb") as file:
        file.truncate(128 * 2**30)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder of all odd pictures, and the words of the reason of each that is to be set aside."""
    root = tmp_path_factory.mktemp("odd") / "pictures"
    root.mkdir()
    bad = {name: words for name, (_, words) in bad_inputs().items()}
    for name, (data, *_) in {**good_inputs(), **bad_inputs()}.items():
        (root / name).write_bytes(data)
    with open(os.path.join(os.fsencode(root), b"caf\xe9.png"), "wb") as file:
        file.write(encoded(Image.new("RGB", (7, 7), "pink"), "PNG"))
    (root / "loop.png").symlink_to(root / "loop.png")
    (root / "gone.png").symlink_to(root / "absent.png")
    (root / "escape.png").symlink_to("/etc/hostname")
    os.mkfifo(root / "pipe.png")
    make_huge(root / HUGE)
    special = {"loop.png": "nowhere", "gone.png": "nowhere", "escape.png": "out of the folder", "pipe.png": "regular"}
    special[HUGE] = "bytes, more than the limit"
    assert len(os.listdir(root)) == len(good_inputs()) + len(bad) + len(special) + 1 >= 120
    return root, {**bad, **special}


@linux
def test_odd_inputs_are_accepted_right_or_set_aside_with_the_right_reason(pictures, tmp_path):
    root, bad = pictures
    job = {"model": ScriptedModel(malformed=0), "processor": ScriptedProcessor(), "types": ["detail"]}
    summary = generate_dataset(root, tmp_path / "out", shard_size=16, **job)
    assert summary.images + summary.duplicates + len(summary.skipped) == len(os.listdir(root))
    assert summary.set_aside == len(summary.skipped) and summary.rows == summary.images
    reasons = dict(summary.skipped)
    wrong = {name: reasons.get(name) for name in bad if not re.search(bad[name], reasons.get(name, ""))}
    assert not wrong and set(reasons) == set(bad)
    unread = {"loop.png", "gone.png", "escape.png", "pipe.png", HUGE}
    for record in ledger.read_quarantine(tmp_path / "out"):
        assert record["exception"] and (record["sha256"] or record["path"] in unread)
    _check_pixels(tmp_path / "out", good_inputs())


@linux
@pytest.mark.parametrize("every", [8, pytest.param(1, marks=pytest.mark.slow)])
def test_no_odd_input_takes_more_than_its_share(every, pictures, tmp_path):
    root, bad = pictures
    shutil.copytree(root, tmp_path / "all", symlinks=True, ignore=lambda *_: ["pipe.png", HUGE])
    os.mkfifo(tmp_path / "all" / "pipe.png")
    for index, name in enumerate(sorted(os.listdir(tmp_path / "all"))):
        if index % every:
            os.unlink(tmp_path / "all" / name)
    make_huge(tmp_path / "all" / HUGE)
    for name, data in large_inputs().items():
        (tmp_path / "all" / name).write_bytes(data)
    done = forks.run("-c", MEASURE, tmp_path / "all", SUPPORT)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    most = {what: max(found, key=lambda input: input[place]) for place, what in ((2, "s"), (3, "s of CPU"), (4, "MB"))}
    print(len(found), "inputs; most:", most)
    # Processor time is limited where it is measured: who takes more than 10 s is killed.
    assert [input[:2] for input in found if (input[1] is None) != (input[0] not in bad)] == []
    assert most["MB"][4] < 1000 and len(found) == len(os.listdir(tmp_path / "all"))


@linux
def test_the_command_ends_with_3_and_its_counts_add_up(pictures, vigc_folder, tmp_path):
    root, bad = pictures
    command = ["generate", str(root), "--output", str(tmp_path / "out"), "--model", str(vigc_folder), "--no-correct"]
    result = CliRunner().invoke(app, [*command, "--types", "detail", "--retries", "0", "--max-new-tokens", "4"])
    assert result.exit_code == 3, result.output
    inputs = [record.inputs for record in ledger.shard_records(tmp_path / "out")]
    assert sum(inputs) == len(os.listdir(root))
    kinds = Counter(record["kind"] for record in ledger.read_quarantine(tmp_path / "out"))
    records = list(ledger.shard_records(tmp_path / "out"))
    assert kinds["image"] == len(bad) and f"Skipped, {len(bad)} files" in result.output
    assert len(rows_of(tmp_path / "out")) + kinds["text"] == sum(record.images for record in records)


ASKED = {"conversations": [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "That."}]}
GOOD_LINES = {
    "plain": json.dumps(ASKED),
    "with a number as id": json.dumps({"id": 7, **ASKED}),
    "the same again": json.dumps(ASKED),
    "spelled out": json.dumps({**ASKED, "ü": "é\u2028🙂"}),
    "as UTF-8": json.dumps({**ASKED, "ü": "é\u2028🙂"}, ensure_ascii=False),
    "with numbers out of range": json.dumps({**ASKED, "x": [10**400, 1e308]}),
    "with a name twice": '{"id": 1, "id": 2, ' + json.dumps(ASKED)[1:],
    "spaced": "  " + json.dumps(ASKED) + " \t",
    "long": json.dumps({**ASKED, "x": "long " * 100_000}),
}
BAD_LINES = {
    "cut off": (json.dumps(ASKED)[:-9], "not valid JSON"),
    "two at once": (json.dumps(ASKED) * 2, "not valid JSON"),
    "a comma at the end": (json.dumps(ASKED) + ",", "not valid JSON"),
    "no JSON": ("What? That.", "not valid JSON"),
    "not UTF-8": (json.dumps(ASKED).replace("That", "Th\udce9t"), "not UTF-8"),
    "half a character": (json.dumps({**ASKED, "x": "\ud83d"}), "half a character"),
    "too deep": ("[" * 100_000 + "]" * 100_000, "not valid JSON|nested"),
    "deep": ('{"x": ' + "[" * 900 + "]" * 900 + "}", "no conversation|not valid JSON"),
    "a number": ("12.5", "an object with named fields"),
    "null": ("null", "an object with named fields"),
    "empty": ("{}", "'conversations' is None"),
    "no turns": ('{"conversations": []}', "no 'human' that a 'gpt' answers"),
    "a turn without text": ('{"conversations": [{"from": "human"}]}', "text is expected"),
    "two pictures": (json.dumps({**ASKED, "image": ["a", "b"]}), "name of one image"),
    "a picture out of the folder": (json.dumps({**ASKED, "image": "../a.png"}), "out of the folder"),
    "a picture that is not there": (json.dumps({**ASKED, "image": "gone.png"}), "cannot be read"),
    "an address": (json.dumps({**ASKED, "image": "http://x/a.png"}), "is an address"),
}


def test_odd_lines_of_json_become_rows_or_are_set_aside(tmp_path):
    # Where no picture at all could be read, the folder of pictures would be taken for a wrong one.
    Image.new("RGB", (8, 8)).save(tmp_path / "good.png")
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A square."}]
    seen = json.dumps({"id": "seen", "image": "good.png", "conversations": turns})
    lines = [*GOOD_LINES.values(), *(text for text, _ in BAD_LINES.values()), seen]
    data = ("\ufeff" + "\n".join(lines)).encode("utf-8", "surrogateescape")
    (tmp_path / "talk.jsonl").write_bytes(data)
    job = {"model": ScriptedModel(), "processor": ScriptedProcessor()}
    summary = correct_dataset(tmp_path / "talk.jsonl", tmp_path / "out", **job)
    assert summary.rows - 1 == summary.bare == len(GOOD_LINES) and summary.set_aside == len(BAD_LINES)
    reasons = [record["reason"] for record in ledger.read_quarantine(tmp_path / "out")]
    wrong = {
        name: reason
        for (name, (_, words)), reason in zip(BAD_LINES.items(), reasons, strict=True)
        if not re.search(words, reason)
    }
    assert not wrong
    entries = [llava_entry([row], None) for row in rows_of(tmp_path / "out") if row["image"] is None]
    assert entries == [json.loads(text) for text in GOOD_LINES.values()]


def _check_pixels(out, good):
    shown = {row["image_id"]: row["image"]["bytes"] for row in rows_of(out)}
    for name, (_, expected, tolerance) in good.items():
        identity = name if name in shown else name.rsplit(".", 1)[0]
        if expected is None or identity not in shown:  # a copy of another one's bytes has no row of its own
            continue
        pixels = np.asarray(Image.open(io.BytesIO(shown[identity])).convert("RGB")).astype(int)
        assert pixels.shape == expected.shape, name
        assert np.abs(pixels - expected).mean() <= max(tolerance, 1) and len(np.unique(pixels)) > 1, name
