"""Millions of inputs: memory does not grow with rows, and planning takes seconds."""

import json
import random
import resource
import subprocess
import sys

import forks
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import SUPPORT
from datasets import Features

from vigc.generation.sources.base import Source
from vigc.jobs import ledger
from vigc.processing.rows import GENERATED_FEATURES

PLAN = """
import json, os, resource, sys, time
from pathlib import Path
from vigc.generation.generate import open_collection
from vigc.generation.filters import Selection
from vigc.jobs.plan import Configuration, Plan
from vigc.jobs.settle import complete_plan
place = Path(sys.argv[1])
start, before = time.monotonic(), sum(os.times()[:2])
selection = Selection(open_collection(place / sys.argv[2], sys.argv[3], place))
plan = Plan("generate", Configuration(types=["detail"]), {}, "x", "y", {})
plan = complete_plan(place / "out", plan, selection, write=True)
seconds, work = time.monotonic() - start, sum(os.times()[:2]) - before
print(json.dumps([plan.inputs.taken, seconds, work, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6]))
"""

ROWS = """
import gc, json, resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from PIL import Image
from scripted import ScriptedModel, ScriptedProcessor
from vigc.generation import generate_dataset
place, count = Path(sys.argv[1]), int(sys.argv[2])
def resident():
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
class Watched(ScriptedModel):
    rows, marks = 0, []
    def generate(self, *given, **more):
        output = super().generate(*given, **more)
        Watched.rows += len(output.questions)
        if Watched.rows // (count // 20) > len(self.marks):
            self.marks.append((Watched.rows, resident()))
        return output
pictures = place / "pictures"
pictures.mkdir()
for index in range(count // 10):
    Image.new("RGB", (2, 2), (index % 256, index // 256 % 256, index // 65536)).save(pictures / f"{index:06d}.bmp")
job = dict(types=["conversation", "detail"], questions=5, batch_size=64, shard_size=128)
summary = generate_dataset(pictures, place / "out", model=Watched(malformed=0), processor=ScriptedProcessor(), **job)
marks = Watched.marks[len(Watched.marks) // 3:]
slope = (marks[-1][1] - marks[0][1]) / (marks[-1][0] - marks[0][0])
print(json.dumps([summary.rows + summary.dropped, slope]))
"""


BOXES = 14  # to a picture, as in Objects365


def write_objects365(path, thousands):
    """A file in the form of Objects365: a thousand pictures written out, the others like them under other numbers."""
    draw = random.Random(0)
    images = ", ".join(
        f'{{"height": 512, "id": @{index:03d}, "license": 5, "width": 769, "url": "", '
        f'"file_name": "images/v1/patch{index % 50}/objects365_v1_@{index:03d}.jpg"}}'
        for index in range(1000)
    )
    boxes = ", ".join(
        f'{{"id": @{index}, "iscrowd": 0, "isfake": 0, "area": {draw.random() * 1e5:.10f}, "isreflected": 0, "bbox": '
        f"[{', '.join(f'{draw.random() * 500:.10f}' for _ in range(4))}], "
        f'"image_id": @{draw.randrange(1000):03d}, "category_id": {draw.randrange(365)}}}'
        for index in range(1000 * BOXES)
    )
    with path.open("w") as file:
        for start, text in (('{"images": [', images), ('], "annotations": [', boxes)):
            file.write(start)
            for number in range(thousands):
                file.write(("" if number == 0 else ", ") + text.replace("@", str(10_000 + number)))
        categories = [{"id": index, "name": f"Some thing {index}"} for index in range(365)]
        file.write(f'], "categories": {json.dumps(categories)}, "licenses": [{{"id": 5, "name": "CC BY 4.0"}}]}}')


def write_parquet(path, thousands):
    """A dataset as ours are, of as many boxes to a picture, and of next to no pixels."""
    draw = random.Random(0)
    boxes = [
        [
            {"category": f"Some thing {draw.randrange(365)}", "bbox": [draw.random() * 500 for _ in range(4)]}
            for _ in range(draw.randrange(2 * BOXES + 1))
        ]
        for _ in range(1000)
    ]
    schema = Features({name: GENERATED_FEATURES[name] for name in ("image", "image_id", "objects")}).arrow_schema
    pictures, objects = pa.array([{"bytes": b"x"}] * 1000, schema.field("image").type), pa.array(boxes, schema.types[2])
    with pq.ParquetWriter(path, schema) as writer:
        for number in range(thousands):
            ids = pa.array([f"{1000 * number + index:012d}" for index in range(1000)])
            writer.write_table(pa.table([pictures, ids, objects], schema=schema))


def planned(place, name, format):
    """Plans in a process of its own; returns the inputs taken and the gigabytes of memory that it took."""
    result = forks.run("-c", PLAN, place, name, format)
    assert result.returncode == 0, result.stderr
    taken, seconds, work, gigabytes = json.loads(result.stdout)
    size = (place / name).stat().st_size / 1e9
    print(f"{taken:,} inputs with about {taken * BOXES:,} boxes ({size:.1f} GB) planned", end="")
    print(f" in {seconds:.1f} s ({work:.1f} s of CPU) and {gigabytes:.2f} GB of memory")
    return taken, gigabytes


@pytest.mark.parametrize("count", [20_000, pytest.param(1_800_000, marks=pytest.mark.slow)])
def test_planning_a_dataset_is_quick_and_small(tmp_path, count):
    (tmp_path / "out").mkdir()
    write_parquet(tmp_path / "data.parquet", count // 1000)
    taken, gigabytes = planned(tmp_path, "data.parquet", "dataset")
    inputs = ledger.Inputs(tmp_path / "out" / ledger.INPUTS)
    last = [Source(**record) for record in inputs[len(inputs) - 1]]
    assert taken == count and gigabytes < 2
    assert last[-1].image_id == f"{count - 1:012d}" and last[-1].where == [0, count - 1]
    assert 0 < sum(len(source.objects or ()) for source in last) / len(last) < 2 * BOXES


@pytest.mark.parametrize("count", [20_000, pytest.param(1_800_000, marks=pytest.mark.slow)])
def test_planning_is_quick_and_small(tmp_path, count):
    (tmp_path / "out").mkdir()
    write_objects365(tmp_path / "list.json", count // 1000)
    taken, gigabytes = planned(tmp_path, "list.json", "objects365")
    (tmp_path / "list.json").unlink()
    inputs = ledger.Inputs(tmp_path / "out" / ledger.INPUTS)
    last = [Source(**record) for record in inputs[len(inputs) - 1]]
    assert taken == count and gigabytes < 2
    assert 0 < sum(len(source.objects or ()) for source in last) / len(last) < 2 * BOXES
    # Sorted by name, patch9 is the last.
    assert last[-1].image_id == str(10_000_000 + count - 41) and last[-1].license == "CC BY 4.0"


@pytest.mark.parametrize("count", [pytest.param(100_000, marks=pytest.mark.slow)])
def test_memory_does_not_grow_with_rows(tmp_path, count):
    command = [sys.executable, "-c", ROWS, str(tmp_path), str(count), str(SUPPORT)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    rows, slope = json.loads(result.stdout)
    print(f"{rows:,} rows, {slope:.0f} bytes of memory per row")
    assert rows == count and slope < 1024
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < 2.5e6
