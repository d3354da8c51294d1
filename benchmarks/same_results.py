"""Results of a fixed set of jobs, kept and compared: whether a change of the code changed what users get.

    python benchmarks/same_results.py run build/before                     # at one commit
    python benchmarks/same_results.py run build/after                      # at a later one
    python benchmarks/same_results.py compare build/before build/after

Jobs run through the `vigc` command of this environment, in a fixed folder for temporary files, so that absolute paths
are always the same, and what they write is copied to DIR. The model is a copy of the embedded one without the code that
travels with it, since ids of rows depend on the hash of a model's folder. Where that code cannot be left out
(`TRAVELS`), ids and hashes do not count.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from concurrent.futures import Future, ThreadPoolExecutor
from importlib.util import find_spec
from io import BytesIO
from itertools import zip_longest
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet as pq
from filelock import FileLock
from PIL import Image

import vigc

ROOT = Path(__file__).resolve().parent.parent
WORK = Path(tempfile.gettempdir()).resolve() / "vigc-same-results"
CHANGED = 1_700_000_000  # time of change of every input: plans of jobs hold it
TINY, IMAGES = "-m inputs/vigc-tiny", "--image-root inputs/scenes/images"
SCENES, LLAVA = f"--data inputs/scenes {TINY} --batch-size 4 --limit", "--data inputs/bench/llava"
LONG, SHORT = "conversation,detail,complex", "okvqa,aokvqa,vqav2"


def generate(options: str = "", types: str = LONG, source: str = "inputs/scenes/images --limit 4") -> str:
    """A command that generates, in shards of two images."""
    return f"generate {source} -o @/out {TINY} --shard-size 2 --types {types} {options}"


# fmt: off
SOURCES = {
    "one-image": "inputs/photos/0.png", "image-folder": "inputs/imagefolder --format dataset --split test",
    "coco": f"inputs/scenes/instances.json --format coco {IMAGES} --limit 5", "tar": "inputs/rows.tar --format dataset",
    "objects365": "inputs/objects365.json --format objects365 --image-root inputs/objects365",
    "llava": f"inputs/talk.json --format llava {IMAGES}", "parquet-file": "inputs/rows.parquet --format dataset",
    "parquet-folder": "inputs/dataset --format dataset --subset detail", "saved": "inputs/saved --format dataset",
    "left-out": "inputs/photos --dedup --exclude-ids inputs/listed.txt --exclude-ids inputs/listed.json --limit 2 "
                "--exclude-images inputs/tests",
}
SETTINGS = {
    "preset": "--iqf-preset vigc", "original": "--iqf-preset original", "no-correct": "--no-correct",
    "paragraph": "--iqf-unit paragraph --no-iqf-keep-tail", "steps-0": "--iqf-steps 0", "endless": "--iqf-steps -1",
    "prompt": "--iqf-prompt instruction --iqf-split original --iqf-full-record", "no-draft": "--no-iqf-draft",
    "engine": "--iqf-verify-drafts --no-iqf-ahead --batch-size 3", "ray": "--engine ray --workers 2",
    "beams": "--num-beams 3 --repetition-penalty 1.2 --max-new-tokens 60", "questions": "--questions 2 --score",
    "sampling": "--do-sample --temperature 3 --top-p 0.98 --top-k 60 --seed 5 --retries 3",
    "bfloat16": "--dtype bfloat16 --batch-size 1", "dry-run": "--dry-run --dedup --exclude-images inputs/tests",
}
FOLDER, RANK = generate("--license cc-by-4.0", source="inputs/photos"), generate("--world-size 2 --rank", "detail")
CORRECT, TRAIN = f"-o @/out {TINY} --shard-size 2", "train inputs/train.yaml --output_dir @/out"
VQA = ("bench/okvqa/OpenEnded_mscoco_val2014_questions.json", "bench/okvqa/mscoco_val2014_annotations.json")
# Commands of `vigc`; "rm PATTERN" deletes files. "@" is the job's own folder, and a path that begins with the name of
# another job makes the job wait for that one. The longest come first.
JOBS: dict[str, list[str]] = {
    "inputs": ["scenes -o @/scenes --rows 24 --seed 11 --unusual 0.3", "scenes -o @/dataset --rows 9 --layout dataset"],
    "folder": [FOLDER, "rm @/out/detail/train-00001.parquet", FOLDER, f"{FOLDER} --verify", f"{FOLDER} --seed 1"],
    "train": [TRAIN, "rm @/out/model.safetensors", TRAIN, f"{TRAIN} --max_steps 21 --weight_decay 0.1"],
    "evaluate": [*(f"evaluate {name} --data inputs/bench/{name} {TINY} --batch-size 4 -o @/{name}.json"
                   for name in ("okvqa", "aokvqa", "mmbench", "pope", "chair", "llava")),
                 f"judge @/llava.answers.jsonl {LLAVA} --url JUDGE --model judge --order-swap -o @/r.jsonl",
                 f"evaluate llava {LLAVA} --predictions @/llava.predictions.jsonl --reviews @/r.jsonl -o @/b.json"],
    "evaluate-scenes": [f"evaluate pope {SCENES} 4 -o @/p.json --prompt 'Is there {{an_object}} in the picture?'",
                        f"evaluate chair {SCENES} 6 -o @/a.json", f"evaluate chair {SCENES} 6 -o @/b.json --no-correct",
                        "evaluate compare @/a.json @/b.json",
                        "evaluate chair --data inputs/scenes --predictions @/a.predictions.jsonl -o @/c.json"],
    "train-lora": [f"{TRAIN} --max_steps 6 --eval_steps 3 --save_steps 3 --freeze_policy all --lora_rank 4 --augment 0 "
                   "--image_features @/seen --prefix_probability 0.5 --final_weights trained", f"{TRAIN} --dry-run"],
    **{name: [generate(options)] for name, options in SETTINGS.items()},
    **{name: [generate(types="detail", source=source)] for name, source in SOURCES.items()},
    "ranks": [f"{RANK} 0", f"{RANK} 1", f"{RANK} 0"],
    "embedded": ["generate inputs/scenes/images -o @/out --limit 3 --shard-size 2", "demo --pictures 2 -o @/demo"],
    "refused": [generate(source="inputs/none"), generate(types="haiku"), generate("--iqf-steps 2 --no-correct")],
    "short": [generate("--retries 1", SHORT)],
    "short-answers": [generate("--answers 3 --first-words inputs/words.json --answer-threshold 0.1", SHORT)],
    "paths": [generate("--images path"), f"report @/out {IMAGES} --rows 3"],
    "correct-llava": [f"correct inputs/talk.json {IMAGES} {CORRECT} --score --license cc-by-4.0"],
    "correct-messages": [f"correct inputs/messages.jsonl {IMAGES} {CORRECT} --type detail"],
    "correct-generated": [f"correct folder/out {CORRECT} --do-sample --temperature 1.5 --seed 3 --limit 4"],
    "correct-saved": [f"correct inputs/saved-talk {CORRECT} --no-iqf-keep-tail", "report @/out --rows 2"],
    "export": [*(f"export {job}/out -f {layout} -o @/{job}-{layout}" for job in ("folder", "correct-llava")
                 for layout in ("trl-sft", "trl-dpo", "llava", "finevision")),
               "export folder/out -f llava --no-pictures --types detail -o @/names",
               "export folder/out -f trl-dpo --score none --keep-cuts --min-words 3 -o @/pairs",
               f"export paths/out -f trl-sft {IMAGES} -o @/paths"],
    "correct-exported": [f"correct export/folder-{layout} -o @/{layout} {TINY} --limit 3 --shard-size 2 --type detail"
                         for layout in ("trl-sft", "trl-dpo", "finevision")],
    "mix": [f"mix inputs/scenes/detail.json inputs/scenes/conversation.json {IMAGES} --from folder/out --seed 4 "
            "--replace detail=2 --add conversation=3 --add complex -o @/out", "export @/out -f llava -o @/llava",
            f"mix inputs/answered.json --type detail {IMAGES} --images embed -o @/embedded",
            f"mix inputs/{VQA[0]} inputs/{VQA[1]} --layout okvqa --image-root inputs/bench/okvqa/val2014 -o @/okvqa",
            "mix folder/out --from inputs/scenes/detail.json --from-type detail --from-image-root inputs/scenes/images "
            "--add detail=2 --text draft -o @/drafts"],
    "convert": ["convert --checkpoint inputs/old/official_checkpoint.safetensors --language-model inputs/old/llm "
                "--checkpoint inputs/old/llm_pad_row.safetensors --qformer-tokenizer inputs/old/qformer_tokenizer "
                "--config inputs/old/vigc_config.json -o @/model",
                "convert --to-original @/back.safetensors --model @/model", "custom-generate -o @/custom"],
}
TRAVELS = ("embedded", "train", "train-lora")


def add_inputs(folder: Path) -> None:
    """Adds to the scenes whatever else the jobs read."""
    shutil.copytree(vigc.model_folder("vigc-tiny"), folder / "vigc-tiny", ignore=shutil.ignore_patterns("*.py", "__*"))
    shutil.copytree(next(ROOT.glob("tests/**/parity/seed0")), folder / "old")
    names = sorted(path.name for path in (folder / "scenes" / "images").iterdir())
    pngs = [(folder / "scenes" / "images" / name).read_bytes() for name in names]
    def jpeg(data: bytes, **settings: Any) -> bytes:
        Image.open(BytesIO(data)).convert("RGB").save(buffer := BytesIO(), "JPEG", **settings)
        return buffer.getvalue()
    for name, make in runpy.run_path(str(next(ROOT.glob("tests/**/benchmark_files.py"))))["MAKERS"].items():
        make(folder / "bench" / name)
    files: dict[Any, Any] = {path: jpeg(pngs[i % 4]) for i, path in enumerate(sorted(folder.glob("bench/**/*.jpg")))}
    turned = Image.Exif()
    turned[0x0112], turned[0x010E] = 6, "a description"
    files |= {f"photos/{i}.png": pngs[i] for i in range(4)} | {
              "photos/sub ü/copy.png": pngs[1], "photos/broken.png": pngs[5][:700], "photos/empty.jpg": b"",
              "photos/notes.txt": b"no image", "photos/turned.jpg": jpeg(pngs[4], exif=turned),
              "listed.txt": b"3.png\n77", "listed.json": [{"image": "turned.jpg"}], "tests/near.jpg": jpeg(pngs[2]),
              "tests/broken.png": b"no image", "words.json": {"What": 5, "Is": 2, "Where": 1},
              "imagefolder/train/0.png": pngs[0], "imagefolder/test/1.png": pngs[1], "imagefolder/test/2.png": pngs[2]}
    coco = json.loads((folder / "scenes" / "instances.json").read_text())
    for i, entry in enumerate(coco["images"][:4]):
        files[f"objects365/patch{i}/objects365_v1_{i:08d}.png"] = pngs[i]
        entry["file_name"] = f"images/v1/patch{i}/objects365_v1_{i:08d}.png"
    files["objects365.json"] = {**coco, "images": coco["images"][:5]}
    talk, more = (json.loads((folder / "scenes" / f"{kind}.json").read_text()) for kind in ("conversation", "detail"))
    plain = [{**turn, "value": turn["value"].replace("<image>", "").strip()} for turn in more[0]["conversations"]]
    talk[0]["conversations"] += plain
    talk[1] |= {"license": "cc0-1.0", "note": {"kept": [1, None]}}
    files["answered.json"] = [*talk[:4], {"id": "text", "conversations": plain}]
    files["talk.json"] = [*files["answered.json"], {**talk[3], "id": "gone", "image": "gone.png"}, 7,
                          {**talk[3], "image": "http://example.org/x.png"}, {"id": "none", "image": names[6]}]
    chats = [[{"role": ("user", "assistant")[turn["from"] == "gpt"], "content": turn["value"]}
              for turn in entry["conversations"]] for entry in more]
    chats[0].insert(0, {"role": "system", "content": "Be exact."})
    lines = [{"id": f"m{i}", "images": [names[i]], "messages": chats[i]} for i in range(4)]
    lines += [{"images": names[:2], "messages": chats[1]}, {"id": "no messages"}]
    files["messages.jsonl"] = "".join(json.dumps(line) + "\n" for line in lines).encode()
    data = [{"layout": "llava", "files": "scenes/detail.json", "images": "scenes/images"}, {"dataset": "dataset"},
            {"layout": "okvqa", "files": list(VQA), "images": "bench/okvqa/val2014"}]
    files["train.yaml"] = {
        "model": "inputs/vigc-tiny", "data_root": "inputs", "data": data, "validation_rows": 4, "max_steps": 20,
        "eval_strategy": "steps", "eval_steps": 10, "save_strategy": "steps", "save_steps": 10, "logging_steps": 5,
        "warmup_steps": 4, "learning_rate": 1e-3, "per_device_train_batch_size": 2, "generation_samples": 3, "seed": 3,
        "eval_max_new_tokens": 40, "image_use_rows": 4, "use_cpu": True, "report_to": "none", "disable_tqdm": True}
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content if isinstance(content, bytes) else json.dumps(content, indent=1).encode())
    text = datasets.Value("string")
    kinds = {"image": datasets.Image(), "id": text, "license": text, "conversations": [{"from": text, "value": text}]}
    talks = datasets.Dataset.from_list(
        [{"image": {"bytes": b"no image" if i == 3 else pngs[i], "path": None}, "id": f"row {i}",
          "license": ("mit", None)[i % 2], "conversations": more[i]["conversations"]} for i in range(5)],
        datasets.Features(kinds))
    talks.save_to_disk(folder / "saved-talk")
    talks.remove_columns("conversations").save_to_disk(folder / "saved")
    talks.remove_columns("conversations").to_parquet(folder / "rows.parquet", batch_size=2)
    with tarfile.open(folder / "rows.tar", "w") as tar:
        for name, png in zip(names[:4], pngs, strict=False):
            (entry := tarfile.TarInfo(name)).size = len(png)
            tar.addfile(entry, BytesIO(png))
    for path in folder.rglob("*"):
        os.utime(path, (CHANGED, CHANGED))
# fmt: on


def needs(name: str) -> set[str]:
    """The jobs whose results a job reads."""
    words = {word.split("/")[0] for command in JOBS[name] for word in shlex.split(command) if "/" in word}
    return (words & JOBS.keys() | {"inputs"}) - {name}


def run_job(name: str, before: list[Future[None]], environment: dict[str, Any], judge: str, output: Path) -> None:
    """Runs a job's commands, records what they print, their exit codes and times, and keeps what they wrote."""
    for future in before:
        future.result()
    folder, record = WORK / name, []
    folder.mkdir()
    for command in JOBS[name]:
        words = [word.replace("@", name).replace("JUDGE", judge) for word in shlex.split(command)]
        if words[0] == "rm":
            for path in list(WORK.glob(words[1])):
                path.unlink()
            continue
        begun = time.perf_counter()
        done = subprocess.run(["vigc", *words], cwd=WORK, env=environment, capture_output=True, text=True)
        seconds = round(time.perf_counter() - begun, 1)
        record.append({"command": command, "exit_code": done.returncode, "seconds": seconds})
        for stream, text in (("stdout", done.stdout), ("stderr", done.stderr)):
            with (folder / f"{stream}.txt").open("a", encoding="utf-8") as file:
                file.write(f"$ vigc {command}\n{text}\n")
    if name == "inputs":
        add_inputs(folder)
    (folder / "job.json").write_text(json.dumps(record, indent=1), encoding="utf-8")
    shutil.rmtree(output / name, ignore_errors=True)
    shutil.copytree(folder, output / name)
    codes, times = zip(*((step["exit_code"], step["seconds"]) for step in record), strict=True)
    print(f"{name:<20}{sum(times):>6.0f} s  exit codes {', '.join(map(str, codes))}", flush=True)


def run(output: Path, names: set[str]) -> None:
    """Runs jobs, and those that they need, two side by side."""
    while more := set().union(*map(needs, names)) - names:
        names |= more
    if "ray" in names and find_spec("ray") is None:
        print("ray                 skipped: ray is not installed")
        names -= {"ray"}
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir()
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "VIGC_", "RAY_"))}
    kept |= {"HF_HOME": WORK / "home", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    kept |= {"COLUMNS": "200", "TERM": "dumb", "NO_COLOR": "1", "PATH": f"{Path(sys.executable).parent}:{kept['PATH']}"}
    helper, futures = runpy.run_path(str(next(ROOT.glob("tests/**/judge_server.py")))), {}
    with helper["JudgeServer"](helper["by_length"]) as judge, ThreadPoolExecutor(2) as pool:
        for name in (name for name in JOBS if name in names):
            futures[name] = pool.submit(run_job, name, [futures[one] for one in needs(name)], kept, judge.url, output)
    for future in futures.values():
        future.result()
    shutil.rmtree(WORK)


SAME, BYTES, DIFFERENT = VERDICTS = ("identical", "same rows, other bytes", "DIFFERENT")
TEXTS = (".json", ".jsonl", ".md", ".html", ".txt", ".yaml", ".jinja")
# What no two runs have in common.
MASKS = {
    r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d[\d.]*(Z|[+-]\d\d:?\d\d)?": "<date>",
    r"\b\d[\d.,]*(e[+-]?\d+)? (s|ms|min|h)\b|[\d.]+ [kMGT]B are free": "<time>",
    r"(['\"]\w*(seconds|runtime|per_second)['\"]: )['\"]?[\d.e+-]+['\"]?": r'\1"<time>"',
    re.escape(str(ROOT)): "<root>",
}
# What follows from the bytes of other files, and from code that travels.
MARKS = r'"(sha256|size|download_bytes)": ("\w+"|\d+)|(download|dataset)_size: \d+'


def masked(text: str, words: dict[str, str]) -> str:
    """A text less what no two runs have in common, and with other words."""
    # Without bars of progress. Line by line: lines of a report may have megabytes.
    lines = [line for line in text.splitlines(keepends=True) if not re.search(r"(it|ba|examples)/s\] *$", line[-60:])]
    text = "".join(lines)
    for pattern, instead in MASKS.items():
        text = re.sub(pattern, instead, text)
    for before, after in words.items():
        text = text.replace(before, after)
    return text


def parts(path: Path, words: dict[str, str], travels: bool) -> dict[str, list[Any]]:
    """What counts in a file: columns, tensors, files of an archive, or lines."""
    data = path.read_bytes()
    if path.suffix == ".parquet":
        table = pq.read_table(path)
        names = [name for name in table.column_names if not travels or name not in ("id", "config_hash")]
        schema = {"schema": [str(table.schema.remove_metadata()), str(table.schema.metadata)]}
        return schema | {name: [repr(value) for value in table[name].to_pylist()] for name in names}
    if path.suffix == ".safetensors":
        start = 8 + int.from_bytes(data[:8], "little")
        tensors = {name: one for name, one in json.loads(data[8:start]).items() if name != "__metadata__"}
        spans = {name: slice(*(start + place for place in one.pop("data_offsets"))) for name, one in tensors.items()}
        return {name: [str(one), data[spans[name]]] for name, one in tensors.items()}
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as file:
            return {name: [masked(file.read(name).decode(errors="backslashreplace"), {})] for name in file.namelist()}
    if path.suffix not in TEXTS:
        return {"bytes": [data]}
    text = masked(data.decode(errors="backslashreplace"), words)
    if path.suffix in (".json", ".jsonl") and "coco_pope" not in path.name:
        values = [text] if path.suffix == ".json" else text.splitlines()
        text = "\n".join(json.dumps(json.loads(value), indent=0, sort_keys=True) for value in values)
    return {"line": re.sub(rf"{MARKS}|\b[0-9a-f]{{16}}\b" if travels else MARKS, "<mark>", text).splitlines()}


def compare_files(old: Path, new: Path, words: dict[str, str], travels: bool) -> tuple[str, list[str]]:
    """The verdict on two files, and where they differ."""
    if not (old.is_file() and new.is_file()):
        return BYTES if old.suffix == ".py" else DIFFERENT, [f"only in {'OLD' if old.exists() else 'NEW'}"]
    if old.suffix not in (".md", ".html", ".txt") and not {"quarantine", "_vigc"} & {*old.parts}:
        words = {}  # no prose
    same = old.suffix in TEXTS and masked(old.read_text(), words) == masked(new.read_text(), {})
    if same or old.read_bytes() == new.read_bytes():
        return SAME, []
    before, after = parts(old, words, travels), parts(new, {}, travels)
    found = [
        f"{name} {place}: {str(one)[:150]} -> {str(other)[:150]}"
        for name in dict.fromkeys([*before, *after])
        for place, (one, other) in enumerate(zip_longest(before.get(name, ()), after.get(name, ())))
        if one != other
    ]
    return DIFFERENT if found and old.suffix not in (".py", ".bin") else BYTES, found or ["other bytes"]


def compare(old: Path, new: Path, words: dict[str, str], names: list[str]) -> bool:
    """Prints how the files of each job differ, and returns whether all results are the same."""
    verdicts: dict[str, str] = {}
    for name in names:
        runs = [run for run in (old, new) if (run / name).is_dir()]
        files = {path.relative_to(run) for run in runs for path in (run / name).rglob("*") if path.is_file()}
        for file in sorted(files) if len(runs) == 2 else [Path(name)] * len(runs):
            verdict, found = compare_files(old / file, new / file, words, name in TRAVELS)
            verdicts[name] = max(verdict, verdicts.get(name, SAME), key=VERDICTS.index)
            print("".join(f"{file}: {line}\n" for line in found[:3]), end="")
    print("".join(f"\n{name:<20}{verdict}" for name, verdict in verdicts.items()))
    return DIFFERENT not in verdicts.values()


def main() -> None:
    """Runs or compares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("run", "compare"))
    parser.add_argument("folders", type=Path, nargs="+", metavar="DIR", help="one to run into, or two to compare")
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=list(JOBS), metavar="NAME")
    parser.add_argument("--words", type=Path, help="JSON: texts of the first one's prose, and of the second one's")
    args = parser.parse_args()
    if len(args.folders) != {"run": 1, "compare": 2}[args.command]:
        parser.error("run takes one folder, compare two")
    if args.command == "run":
        args.folders[0].mkdir(parents=True, exist_ok=True)
        with FileLock(f"{WORK}.lock", timeout=0):  # another run would be in the way
            run(args.folders[0], {*args.jobs})
        return
    words = json.loads(args.words.read_text(encoding="utf-8")) if args.words else {}
    words |= {json.dumps(before)[1:-1]: json.dumps(after)[1:-1] for before, after in words.items()}
    sys.exit(0 if compare(*args.folders, words, args.jobs) else 1)


if __name__ == "__main__":
    main()
