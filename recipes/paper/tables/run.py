"""Tables 1 to 4 of VIGC (arXiv:2308.12714): one command per row, from published files to metrics.

    python recipes/paper/tables/run.py                                             # all rows, with the paper's results
    python recipes/paper/tables/run.py table1 add-detail-vic --root /data --dry-run
    python recipes/paper/tables/run.py table1 add-detail-vic --root /data --judge --model NAME --url URL --key VARIABLE

README.md lists the required files; a dry run prints the missing ones. A finished step is not repeated, also for other
rows, and an interrupted one is resumed.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from checks import problems_of
from steps import HERE, REPLACED, Place, Row, Step, ablation, objects365, table2, table4

_TYPES = ("conversation", "detail", "complex")
_ADDED = {  # Conv, Detail, Complex, All
    ("conversation", "vig"): (80.9, 76.1, 92.6, 83.3),
    ("conversation", "vic"): (83.9, 76.9, 90.9, 84.0),
    ("detail", "vig"): (80.2, 72.7, 90.9, 81.4),
    ("detail", "vic"): (83.3, 80.6, 93.1, 85.8),
    ("complex", "vig"): (81.4, 75.6, 90.5, 82.6),
    ("complex", "vic"): (80.2, 76.2, 93.2, 83.3),
}
_REPLACED = {
    "conversation": (78.2, 76.5, 91.6, 82.1),
    "detail": (75.8, 79.8, 91.2, 82.2),
    "complex": (77.5, 77.8, 92.8, 82.8),
    "combined": (78.3, 76.6, 92.4, 82.5),
}
_MMBENCH = ("LR", "AR", "RR", "FP-S", "FP-C", "CP", "overall")


def _llava(conv: float, detail: float, complex: float, all: float) -> dict[str, float]:
    return {"conv": conv, "detail": detail, "complex": complex, "all": all}


def _table1() -> dict[str, Row]:
    rows = {"llava-7b": Row(_llava(75.1, 75.4, 92.3, 81.0), ablation("llava-7b", [], None))}
    for (kind, text), figures in _ADDED.items():
        name = f"add-{kind}-{text}"
        options = [name, "--add", kind, "--text", "draft" if text == "vig" else "answer"]
        rows[name] = Row(_llava(*figures), ablation(f"llava-7b-{name}", options))
    for kind, figures in _REPLACED.items():
        kinds = _TYPES if kind == "combined" else (kind,)
        options = [f"replace-{kind}", *(word for one in kinds for word in ("--replace", f"{one}={REPLACED}"))]
        rows[f"replace-{kind}"] = Row(_llava(*figures), ablation(f"llava-7b-replace-{kind}", options))
    return rows


def _table2() -> dict[str, Row]:
    mmbench = {
        "minigpt4plus": (10.0, 31.3, 7.83, 18.9, 13.1, 43.0, 24.4),
        "minigpt4plus-coco": (11.7, 27.8, 19.1, 27.9, 11.0, 44.3, 27.5),
    }
    llava = {"minigpt4plus": (83.5, 77.8, 92.4, 84.7), "minigpt4plus-coco": (84.1, 84.1, 92.7, 87.0)}
    return {
        name: Row(
            {**dict(zip(_MMBENCH, figures, strict=True)), **_llava(*llava[name])},
            table2(name, coco=name.endswith("coco")),
        )
        for name, figures in mmbench.items()
    }


def _table3() -> dict[str, Row]:
    coco = ["add-detail-vic", "--add", "detail", "--text", "answer"]
    objects = ["add-detail-objects365", "--add", "detail", "--text", "answer"]
    return {
        "llava-7b": Row(_llava(75.1, 75.4, 92.3, 81.0), ablation("llava-7b", [], None)),
        "llava-7b-coco": Row(_llava(83.3, 80.6, 93.1, 85.8), ablation("llava-7b-add-detail-vic", coco)),
        "llava-7b-objects365": Row(
            _llava(86.8, 77.6, 90.9, 85.2), ablation("llava-7b-objects365", objects, objects365)
        ),
        "llava-13b": Row(_llava(82.7, 76.6, 94.8, 84.8), ablation("llava-13b", [], None, "13b")),
        "llava-13b-coco": Row(_llava(88.9, 77.4, 93.5, 86.8), ablation("llava-13b-add-detail-vic", coco, size="13b")),
    }


def _table4() -> dict[str, Row]:
    paper = {
        "minigpt4plus": {"okvqa": (59.1, 59.8), "aokvqa": (58.3, 58.9)},
        "instructblip": {"okvqa": (63.1, 63.8), "aokvqa": (62.5, 64.1)},
    }
    rows = {}
    for model, by_kind in paper.items():
        for kind, figures in by_kind.items():
            for vigc, figure in zip((False, True), figures, strict=True):
                name = f"{model}-{kind}{'-vigc' if vigc else ''}"
                rows[name] = Row({"accuracy": figure}, table4(name, kind, f"{model}-vicuna-7b", vigc=vigc))
    return rows


TABLES = {"table1": _table1(), "table2": _table2(), "table3": _table3(), "table4": _table4()}


def command_of(step: Step, place: Place) -> list[str]:
    """The commands of a step: one, or one per process with its rank if the processes share a job."""
    start, own = [sys.executable, "-m"], ["vigc", *step.words]
    if step.tool == "torchrun":
        return [*start, "torch.distributed.run", "--nproc_per_node", str(place.processes), "-m", *own]
    if step.tool == "sft":
        launcher = ["--config_file", str(HERE / "fsdp.yaml"), "--num_processes", str(place.processes)]
        return [*start, "accelerate.commands.launch", *launcher, str(HERE / "sft.py"), *step.words]
    if step.tool == "words":
        return [sys.executable, str(HERE / "first_words.py"), *step.words]
    return [*start, *own]


def run(steps: Sequence[Step], place: Place) -> int:
    """Runs the unfinished steps; returns the exit code of the step that failed, or 0."""
    for step in steps:
        command = command_of(step, place)
        mark, said = place.made / ".done" / step.name, f"{shlex.join(step.words)}\n"
        if mark.is_file() and step.makes.exists() and mark.read_text(encoding="utf-8") != said:
            print(f"{step.makes} was made by another command: move it away.\n  {mark.read_text(encoding='utf-8')}")
            return 4
        if step.makes.exists() and (step.atomic or mark.is_file()):
            print(f"done: {step.name}", flush=True)
            continue
        print(f"\n{step.name}: {shlex.join(command)}", flush=True)
        code = _shared(command, place.processes) if step.tool == "each" else subprocess.run(command).returncode
        if code not in (0, 3):  # 3: complete, with skipped inputs or rejected samples
            print(f"{step.name} ended with exit code {code}; run the same command to resume.")
            return code
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.write_text(said, encoding="utf-8")
    return 0


def _shared(command: list[str], processes: int) -> int:
    """One process for each GPU, which share the job; the worst of their exit codes, completion with losses least."""
    running = [
        subprocess.Popen(
            [*command, "--rank", str(rank), "--world-size", str(processes)],
            env={**os.environ, "CUDA_VISIBLE_DEVICES": str(rank)} if processes > 1 else None,
        )
        for rank in range(processes)
    ]
    try:
        codes = [process.wait() for process in running]
    except BaseException:
        for process in running:
            process.terminate()
        raise
    failed = [code for code in codes if code not in (0, 3)]
    return failed[0] if failed else max(codes)


def dry_run(steps: Sequence[Step], place: Place) -> int:
    """Prints all commands and their problems; returns 2 if there are problems, or 0."""
    found: dict[str, list[str]] = {}
    for step in steps:
        print(f"{step.name}: {shlex.join(command_of(step, place))}")
        for problem in problems_of(step, steps):
            found.setdefault(problem, []).append(step.name)
    for problem, names in found.items():
        print(f"missing: {problem} (for {', '.join(dict.fromkeys(names))})")
    print("not ready" if found else "ready to run")
    return 2 if found else 0


def show(table: str | None) -> None:
    """Prints the rows with the paper's results."""
    for name, rows in TABLES.items():
        if table in (None, name):
            print(f"{name}")
            for row, content in rows.items():
                print(f"  {row:<28}{', '.join(f'{figure} {value}' for figure, value in content.paper.items())}")


def main(arguments: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("table", nargs="?", choices=TABLES)
    parser.add_argument("row", nargs="?")
    parser.add_argument("--root", type=Path, help="the folder of all data and models; outputs are written to ROOT/vigc")
    parser.add_argument(
        "--processes", type=int, choices=(1, 2, 4, 8), default=8, help="number of GPUs; batch sizes stay the same"
    )
    parser.add_argument("--dry-run", action="store_true", help="check everything, run nothing")
    parser.add_argument("--judge", nargs=argparse.REMAINDER, default=[], help="options of `vigc judge`: --model ...")
    given = parser.parse_args(arguments)
    if given.row is None:
        show(given.table)
        return 0
    if given.row not in TABLES[given.table]:
        parser.error(f"{given.table} has no row {given.row!r}: its rows are {', '.join(TABLES[given.table])}")
    if given.root is None:
        parser.error("--root is needed: the folder of all data and models")
    place = Place(given.root.resolve(), given.processes, tuple(given.judge))
    steps = TABLES[given.table][given.row].steps(place)
    if not given.dry_run:
        return run(steps, place)
    return dry_run(steps, place)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
