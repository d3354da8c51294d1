"""Hostile and odd inputs for every command: contents that stand in the place of a file, and the places they stand in.

A case is a place and a content: `vigc judge` with noise as its answers. All that a case needs is written into a folder
of its own, so that cases can run one after another in one process.
"""

import gzip
import io
import json
import os
import pickle
import random
import shutil
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import benchmark_files
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

LONG = 5_000_000
ENTRY = {"id": "7", "image": "a.png", "conversations": [{"from": "human", "value": "<image>\nWhat?"}]}
ENTRY["conversations"].append({"from": "gpt", "value": "That."})


def _png(size=(8, 8)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (200, 40, 40)).save(buffer, "PNG")
    return buffer.getvalue()


def _parquet(**columns) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


def _zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("../../out.json", "[]")
        file.writestr("zeros", bytes(20_000_000))
    return buffer.getvalue()


def _bomb() -> bytes:
    """A PNG of 900 megapixels in a few kilobytes."""
    head = (30_000).to_bytes(4, "big") * 2 + b"\x08\x02\x00\x00\x00"
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(bytes(3_000_000), 9)), (b"IEND", b"")]
    packed = (
        len(data).to_bytes(4, "big") + name + data + zlib.crc32(name + data).to_bytes(4, "big") for name, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def _entry(**more) -> bytes:
    return json.dumps([{**ENTRY, **more}]).encode()


# Contents of a file, whatever is expected there.
CONTENTS: dict[str, bytes] = {
    "empty": b"",
    "blank lines": b"  \n\n \t\n",
    "zeros": bytes(4096),
    "noise": random.Random(1).randbytes(40_000),
    "UTF-16": "[{}]".encode("utf-16"),
    "Latin-1": b'[{"image": "caf\xe9.png", "id": "caf\xe9"}]',
    "half a character": b'[{"image": "\\ud83d.png", "id": "\\ud83d"}]',
    "cut off": json.dumps([ENTRY]).encode()[:-30],
    "two lists": b"[{}][{}]",
    "deep list": b"[" * 200_000,
    "deep object": b'{"a":' * 100_000,
    "deep and whole": b'[{"id": ' + b"[" * 5_000 + b"]" * 5_000 + b"}]",
    "a number": b"12.5",
    "null": b"null",
    "a text": b'"hello"',
    "numbers": b"[1, 2, 3]",
    "empty list": b"[]",
    "empty object": b"{}",
    "nulls": b"[null, null]",
    "other names": b'[{"foo": 1}, {"bar": [2]}]',
    "values of other types": b'{"images": 7, "annotations": "x", "categories": null, "questions": {}, "model": [1]}',
    "entries of other types": b'{"images": [7, null, {"id": [], "file_name": {}}], "annotations": [3], "data": [4]}',
    "not a number": b'[{"id": NaN, "image": NaN, "image_id": Infinity, "question_id": -Infinity}]',
    "a number of 10,000 digits": b'[{"id": ' + b"9" * 10_000 + b', "image_id": ' + b"9" * 10_000 + b"}]",
    "a name of megabytes": _entry(image="a" * LONG),
    "a key of megabytes": json.dumps({"k" * LONG: 1}).encode(),
    "a data URI": _entry(image="data:image/png;base64," + "A" * LONG),
    "control characters": _entry(id="\x1b[31m\x00\u202e", image="\x1b]0;x\x07\n.png"),
    "a path out": _entry(image="../../../../etc/passwd"),
    "an absolute path": _entry(image="/etc/passwd"),
    "an address": _entry(image="http://169.254.169.254/latest/meta-data"),
    "no turns": _entry(conversations=[]),
    "turns of other types": _entry(conversations=[{"from": 3, "value": {"x": []}}]),
    "gzip": gzip.compress(b"[]"),
    "a gzip bomb": gzip.compress(bytes(60_000_000)),
    "zip": _zip(),
    "an image": _png(),
    "an image bomb": _bomb(),
    "a web page": b"<!doctype html><html><body>404 Not Found</body></html>",
    "a pointer of Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n",
    "a pickle": pickle.dumps({"a": [1, 2, 3]}),
    "YAML that runs code": b"model: !!python/object/apply:os.system ['touch pwned']\n",
    "YAML that grows": b"a0: &a0 [x,x,x,x,x,x,x,x,x]\n"
    + b"".join(b"a%d: &a%d [%s]\n" % (n, n, b",".join([b"*a%d" % (n - 1)] * 9)) for n in range(1, 9)),
    "20,000 brackets": b"data: " + b"[" * 20_000,
    "YAML with tabs": b"model: x\n\t- y\n",
    "merged keys": b"<<: [1, 2]\nmodel: x\n",
    "parquet of other columns": _parquet(a=[1, 2], b=["x", "y"]),
    "parquet without rows": _parquet(image=pa.array([], pa.string()), question=pa.array([], pa.string())),
    "parquet cut off": _parquet(a=[1, 2], b=["x", "y"])[:-10],
    "parquet of names": _parquet(image=["../../etc/passwd", None], question=["a", None], answer=["b", None]),
}


def _missing(path: Path) -> None:
    pass


def _folder(path: Path) -> None:
    path.mkdir()


def _loop(path: Path) -> None:
    path.symlink_to(path.name)


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _device(path: Path) -> None:
    path.symlink_to("/dev/zero")


# What may stand in a folder under the name of a file.
ENTRIES: dict[str, Callable[[Path], None]] = {
    "nothing": _missing,
    "a folder": _folder,
    "a link to itself": _loop,
    "a pipe": _pipe,
    "a link to /dev/zero": _device,
}
# Names that no file can have.
NAMES = {"a name too long": "n" * 5_000, "a name with a zero": "a\0b", "half a character in a name": "a\udce9b"}


@dataclass(frozen=True)
class Place:
    """Where a content stands.

    Args:
        command: The arguments, with parts such as `{odd}` (the content's path), `{folder}` (the case's) and `{model}`.
        file: Where the content is written, in the case's folder.
        files: Writes what else the command needs into the folder.
        named: The path is an argument of the command, so that a path without a file makes a case, too.
        finishes: Good inputs stand beside it, and the job does them whatever the content is.
    """

    command: str
    file: str = "odd.json"
    files: Callable[[Path], object] = field(default=lambda folder: None)
    named: bool = True
    finishes: bool = False


def _images(folder: Path) -> None:
    _put(folder / "images" / "a.png", _png())


def _put(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def _model(folder: Path) -> None:
    _images(folder)
    shutil.copytree(os.environ["ODD_MODEL"], folder / "model")


def _llava_eval(folder: Path) -> None:
    benchmark_files.llava(folder / "data")
    benchmark_files.write_lines(folder / "answers.jsonl", [{"question_id": n, "text": "x"} for n in range(6)])


def _recipe(folder: Path) -> None:
    _images(folder)
    data = "[{layout: llava, files: [odd.json], images: images, type: detail}]"
    top = f"model: {os.environ['ODD_MODEL']}\noutput_dir: {folder}/out\ndata_root: {folder}\n"
    (folder / "recipe.yaml").write_text(f"{top}data: {data}\nmax_steps: 1\n")


def _mixed(folder: Path) -> None:
    _images(folder)
    _put(folder / "good.json", _entry())


def _published(folder: Path) -> None:
    _put(folder / "set" / "README.md", b"---\nlicense: mit\n---\n# x\n")
    _put(folder / "set" / "detail" / "train-00000.parquet", _parquet(a=[1]))


def _data(benchmark: Callable[[Path], None]) -> Callable[[Path], None]:
    return lambda folder: benchmark(folder / "data")


_LITTLE = "--types detail --no-correct --max-new-tokens 4 --retries 0 --model {model} -o {out}"
_WRITE = "generate {odd} --image-root {folder}/images " + _LITTLE + " --format "
_PHOTOS = "generate {folder}/images "
_CHANGED = _PHOTOS + "--types detail --max-new-tokens 4 --model {folder}/model -o {out}"
_CORRECT = "correct {odd} --image-root {folder}/images --max-new-tokens 4 --model {model} -o {out}"
_ASKED = " --data {folder}/data --model {model} -o {out} --limit 1 --max-new-tokens 2"
_SCORED = " --data {folder}/data -o {out} --predictions "
_JUDGE = " --data {folder}/data --model x --url http://127.0.0.1:9/v1 -o "
_CONVERT = "convert --language-model {llm} --qformer-tokenizer {tokenizer} -o {out} --config "

PLACES = {
    "generate, one image": Place("generate {odd} " + _LITTLE, "odd.png"),
    "generate, a folder": Place(_PHOTOS + _LITTLE, "images/odd.png", _images, named=False, finishes=True),
    "generate, COCO": Place(_WRITE + "coco", files=_images),
    "generate, Objects365": Place(_WRITE + "objects365", files=_images),
    "generate, LLaVA": Place(_WRITE + "llava", files=_images),
    "generate, LLaVA's lines": Place(_WRITE + "llava", "odd.jsonl", _images),
    "generate, a dataset": Place("generate {odd} --format dataset " + _LITTLE, "odd.parquet"),
    "generate, a dataset's card": Place(
        "generate {folder}/set --format dataset " + _LITTLE, "set/README.md", _published, named=False
    ),
    "generate, excluded ids": Place(_PHOTOS + "--exclude-ids {odd} " + _LITTLE, files=_images),
    "generate, excluded images": Place(_PHOTOS + "--exclude-images {odd} " + _LITTLE, "odd.png", _images),
    "generate, first words": Place(
        _PHOTOS + "--answers 2 --first-words {odd} --types vqav2 --max-new-tokens 4 --model {model} -o {out}",
        files=_images,
    ),
    "generate, configuration": Place(_CHANGED, "model/config.json", _model, named=False),
    "generate, weights": Place(_CHANGED, "model/model.safetensors", _model, named=False),
    "generate, tokenizer": Place(_CHANGED, "model/tokenizer.json", _model, named=False),
    "generate, processor": Place(_CHANGED, "model/processor_config.json", _model, named=False),
    "generate, a begun job": Place(_PHOTOS + _LITTLE, "out/_vigc/plan.json", _images, named=False),
    "correct": Place(_CORRECT, files=_images),
    "correct, lines": Place(_CORRECT, "odd.jsonl", _images),
    "correct, parquet": Place("correct {odd} --max-new-tokens 4 --model {model} -o {out}", "odd.parquet"),
    "report": Place("report {folder}/job", "job/_vigc/plan.json", named=False),
    "export": Place("export {folder}/set -f trl-sft -o {out}", "set/train.parquet", named=False),
    "mix": Place("mix {odd} --image-root {folder}/images -o {out}", files=_images),
    "mix, from": Place(
        "mix {folder}/good.json --image-root {folder}/images --from {odd} --add detail=1 -o {out}", files=_mixed
    ),
    "train": Place("train {odd}", "odd.yaml"),
    "train, data": Place("train {folder}/recipe.yaml --dry-run", files=_recipe, named=False),
    "evaluate okvqa": Place(
        "evaluate okvqa" + _ASKED,
        "data/OpenEnded_mscoco_val2014_questions.json",
        _data(benchmark_files.okvqa),
        named=False,
    ),
    "evaluate okvqa, answers": Place("evaluate okvqa" + _SCORED + "{odd}", files=_data(benchmark_files.okvqa)),
    "evaluate aokvqa": Place(
        "evaluate aokvqa" + _ASKED, "data/aokvqa_v1p0_val.json", _data(benchmark_files.aokvqa), named=False
    ),
    "evaluate mmbench": Place(
        "evaluate mmbench" + _ASKED, "data/mmbench_dev_20230712.tsv", _data(benchmark_files.mmbench), named=False
    ),
    "evaluate mmbench, answers": Place(
        "evaluate mmbench" + _SCORED + "{odd}", "odd.xlsx", _data(benchmark_files.mmbench)
    ),
    "evaluate chair": Place("evaluate chair" + _ASKED, "data/instances.json", _images, named=False),
    "evaluate chair, synonyms": Place(
        "evaluate chair" + _SCORED + "{folder}/x.json --synonyms {odd}", "odd.txt", _data(benchmark_files.chair)
    ),
    "evaluate pope": Place("evaluate pope" + _ASKED, "data/coco_pope_random.json", _images, named=False),
    "evaluate llava": Place(
        "evaluate llava" + _ASKED, "data/qa90_questions.jsonl", _data(benchmark_files.llava), named=False
    ),
    "evaluate llava, reviews": Place(
        "evaluate llava" + _SCORED + "{folder}/answers.jsonl --reviews {odd}", "odd.jsonl", _llava_eval
    ),
    "evaluate compare": Place("evaluate compare {odd} {odd}"),
    "judge": Place("judge {odd}" + _JUDGE + "{out}", "odd.jsonl", _llava_eval),
    "judge, rules": Place("judge {folder}/answers.jsonl --rules {odd}" + _JUDGE + "{out}", files=_llava_eval),
    "judge, reviews": Place("judge {folder}/answers.jsonl" + _JUDGE + "{odd}", "odd.jsonl", _llava_eval),
    "push, card": Place("push {folder}/set ada/x", "set/README.md", _published, named=False),
    "push, rows": Place("push {folder}/set ada/x", "set/detail/train-00000.parquet", _published, named=False),
    "convert, weights": Place(_CONVERT + "{sizes} --checkpoint {odd}", "odd.pth"),
    "convert, safetensors": Place(_CONVERT + "{sizes} --checkpoint {odd}", "odd.safetensors"),
    "convert, sizes": Place(_CONVERT + "{odd} --checkpoint {weights}"),
    "convert, back": Place("convert --model {odd} --to-original {out}.pth", "odd"),
    "custom-generate": Place("custom-generate -o {odd}", "odd"),
    "scenes": Place("scenes -o {odd} --rows 1", "odd"),
    "demo": Place("demo -o {odd} --pictures 1", "odd"),
}


def cases() -> list[tuple[str, str]]:
    """Every pair of a place and what can stand there, in a fixed order drawn from a seed."""
    found = [
        (place, odd)
        for place, details in PLACES.items()
        for odd in [*CONTENTS, *ENTRIES, *(NAMES if details.named else ())]
    ]
    random.Random(14).shuffle(found)
    return found


def spread(count: int) -> list[tuple[str, str]]:
    """So many cases: every place and every content in turn, as far as that goes."""
    left, chosen = cases(), []
    while left and len(chosen) < count:
        places, contents = Counter(place for place, _ in chosen), Counter(odd for _, odd in chosen)
        chosen.append(min(left, key=lambda case: places[case[0]] + contents[case[1]]))
        left.remove(chosen[-1])
    return chosen


def arrange(folder: Path, place: str, odd: str, parts: dict[str, object]) -> list[str]:
    """Writes a case into an empty folder; returns its command."""
    details = PLACES[place]
    details.files(folder)
    path = folder / details.file
    if odd in NAMES:
        path = folder / NAMES[odd]
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        if odd in CONTENTS:
            path.write_bytes(CONTENTS[odd])
        else:
            ENTRIES[odd](path)
    parts = {"odd": path, "folder": folder, "out": folder / "out", **parts}
    return [part.format(**parts) for part in details.command.split()]
